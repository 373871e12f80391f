//! Agents and functions beside each other, and what is left when they end: nothing.

mod support;
mod support_agent;

use std::fs;
use std::process::Stdio;

use aya::maps::{MapData, loaded_maps};
use nix::sys::signal::Signal;
use support::netns::veth;
use support_agent::agent::{Agent, text};
use support_agent::function::{Caller, echo};
use support_agent::{leaves, names_in};

const SERVER: &str = "10.1.0.11:7";
const ROUNDS: usize = 20;

#[test]
fn two_agents_side_by_side() {
    needs!();
    let (netns, agents) = ([veth(), veth()], [Agent::start(), Agent::start()]);
    let addresses = agents.each_ref().map(|agent| agent.status().metrics_addr);
    assert_ne!(addresses[0], addresses[1]);
    // The same names and the same addresses.
    let mut busy: Vec<_> = netns
        .iter()
        .zip(&agents)
        .map(|([here, there], agent)| {
            let echo = echo(agent, "side-echo", there, SERVER);
            let mut caller = Caller::start(agent, "side-caller", here, SERVER);
            caller.stream(1);
            (echo, caller)
        })
        .collect();
    for agent in &agents {
        assert_eq!(agent.functions().len(), 2);
        let before = agent.redirected("side-caller");
        support::eventually("bytes are redirected", || {
            agent.redirected("side-caller") > before
        });
    }
    // What is done to the one is nothing to the other.
    agents[0].succeed(&["disable"]);
    assert!(agents[1].status().accelerating);
    let (local, bytes) = busy[1].1.talk(ROUNDS);
    agents[1].has_moved(local, bytes);
    let (local, _) = busy[0].1.talk(ROUNDS);
    assert_eq!(agents[0].flow_of(local), None);
    agents[0].succeed(&["unload"]);
    assert_eq!(agents[0].ended().code(), Some(0));
    let before = agents[1].redirected("side-caller");
    support::eventually("bytes are redirected", || {
        agents[1].redirected("side-caller") > before
    });
    for (echo, mut caller) in busy {
        caller.goes_on();
        caller.finish();
        drop(echo);
    }
}

#[test]
fn a_second_agent_on_the_same_directories_is_refused() {
    needs!();
    let (agent, other) = (Agent::start(), Agent::absent());
    let refused = |arguments: &[&str]| {
        let output = other
            .command(&["run", "--metrics-addr", "127.0.0.1:0"])
            .env("CWASI_LOG", "error")
            .args(arguments)
            .output()
            .expect("run the program");
        assert_eq!(output.status.code(), Some(5), "{}", text(&output.stderr));
        let line = text(&output.stderr);
        assert_eq!(line.lines().count(), 1, "{line}");
        line
    };
    let bpffs = agent.bpffs.to_str().unwrap();
    let line = refused(&["--bpffs", bpffs]);
    assert!(
        line.starts_with("cwasi-agent: another agent") && line.contains(bpffs),
        "{line}"
    );
    assert!(line.contains("; "), "a remedy follows: {line}");
    let state = agent.dir.path().join("state");
    let line = refused(&["--state-dir", state.to_str().unwrap()]);
    assert!(line.contains(state.to_str().unwrap()), "{line}");
    let socket = agent.socket();
    let line = refused(&["--socket", socket.to_str().unwrap()]);
    assert!(line.contains(socket.to_str().unwrap()), "{line}");
    // The first one has not noticed, and the second leaves no socket that nobody answers on.
    assert!(agent.status().accelerating);
    assert!(!other.socket().exists());
    let unload = other
        .command(&["unload"])
        .env("CWASI_BPFFS", &agent.bpffs)
        .output()
        .expect("run the program");
    assert_eq!(unload.status.code(), Some(5), "{}", text(&unload.stderr));
    assert!(agent.status().accelerating);
}

/// Ids of the kernel's maps that the agent has pinned.
fn maps_of(agent: &Agent) -> Vec<u32> {
    let pins = agent.pins().join("maps");
    let map = |name| {
        MapData::from_pin(pins.join(name))
            .expect("open a pin")
            .info()
            .expect("ask for a map")
            .id()
    };
    names_in(&pins).iter().map(map).collect()
}

#[test]
fn unload_leaves_nothing() {
    needs!();
    let ([here, there], agent) = (veth(), Agent::start());
    let echo = echo(&agent, "unload-echo", &there, SERVER);
    let mut caller = Caller::start(&agent, "unload-caller", &here, SERVER);
    caller.stream(2);
    let before = agent.redirected("unload-caller");
    support::eventually("bytes are redirected", || {
        agent.redirected("unload-caller") > before
    });
    let maps = maps_of(&agent);
    assert!(maps.len() >= 8, "{maps:?}");

    agent.succeed(&["unload"]);
    assert_eq!(agent.ended().code(), Some(0));
    assert_eq!(names_in(&agent.bpffs), [] as [&str; 0]);
    assert!(!agent.socket().exists());
    caller.goes_on();
    caller.talk(ROUNDS);
    caller.finish();
    drop(echo);
    for function in ["unload-echo", "unload-caller"] {
        assert_eq!(leaves(function), [] as [&str; 0]);
    }
    // A program or a link that stayed would hold its maps.
    support::eventually("the kernel has freed every map", || {
        let mut loaded = loaded_maps().filter_map(Result::ok);
        !loaded.any(|map| maps.contains(&map.id()))
    });
    // The functions ended while no agent was there to be told.
    agent.run();
    assert_eq!(agent.functions(), []);
    assert_eq!(agent.saved_functions(), [] as [&str; 0]);
    assert_eq!(agent.terminate().code(), Some(0));
    agent.succeed(&["unload"]);
    assert_eq!(names_in(&agent.bpffs), [] as [&str; 0]);
    assert!(!agent.socket().exists());
}

#[test]
fn a_killed_exec_leaves_nothing() {
    needs!();
    let ([here, there], agent) = (veth(), Agent::start());
    let echo = echo(&agent, "kept-echo", &there, SERVER);
    let mut caller = Caller::start(&agent, "killed-caller", &here, SERVER);
    caller.stream(2);
    let before = agent.redirected("kept-echo");
    support::eventually("bytes are redirected", || agent.redirected("kept-echo") > before);
    assert_eq!(leaves("killed-caller").len(), 1);
    assert_eq!((agent.functions().len(), agent.saved_functions().len()), (2, 2));

    caller.0.signal(Signal::SIGKILL);
    assert_eq!(caller.0.end().code(), None);
    support::eventually("the agent forgets the function", || agent.functions().len() == 1);
    assert_eq!(agent.functions()[0].spec.name, "kept-echo");
    support::eventually("the cgroup is removed", || leaves("killed-caller").is_empty());
    support::eventually("the flows are gone", || agent.flows().is_empty());
    assert_eq!(agent.saved_functions().len(), 1);
    support::eventually("the program is taken off", || {
        names_in(&agent.pins().join("links")).len() == 1
    });
    // Its peer serves others.
    let mut another = Caller::start(&agent, "another-caller", &here, SERVER);
    let (local, bytes) = another.talk(ROUNDS);
    agent.has_moved(local, bytes);
    another.finish();
    drop(echo);
    assert_eq!(agent.saved_functions(), [] as [&str; 0]);
}

/// Both die, and the next agent cleans up after the function.
#[test]
fn an_exec_that_is_killed_without_an_agent() {
    needs!();
    let (netns, agent) = (veth(), Agent::start());
    let mut echo = echo(&agent, "lone-echo", &netns[1], SERVER);
    agent.kill();
    echo.signal(Signal::SIGKILL);
    echo.end();
    agent.run();
    support::eventually("the function is dropped", || agent.functions().is_empty());
    support::eventually("the cgroup is removed", || leaves("lone-echo").is_empty());
    assert_eq!(agent.saved_functions(), [] as [&str; 0]);
}

/// `exec` passes the exit code of its command on when the agent has died meanwhile, and cleans up all it can.
#[test]
fn an_exec_that_ends_without_an_agent() {
    needs!();
    let (netns, agent) = (veth(), Agent::start());
    let mark = agent.dir.path().join("mark");
    let script = format!("while ! test -e {}; do sleep 0.02; done; exit 7", mark.display());
    let exec = agent
        .exec("lone-shell", &netns[0], &[], &["sh", "-c", &script])
        .stderr(Stdio::piped())
        .spawn()
        .expect("start exec");
    let mut exec = support_agent::Process(exec);
    support::eventually("the function is registered", || !agent.functions().is_empty());
    agent.kill();
    fs::write(&mark, "").unwrap();
    let stderr = support_agent::collect(exec.0.stderr.take().unwrap());
    assert_eq!(exec.end().code(), Some(7));
    let said = stderr.join().unwrap();
    assert!(said.contains("no agent answers"), "{said}");
    assert_eq!(leaves("lone-shell"), [] as [&str; 0]);
    agent.run();
    assert_eq!(agent.functions(), []);
    assert_eq!(agent.saved_functions(), [] as [&str; 0]);
}
