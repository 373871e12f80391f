//! An agent takes the place of another release's, and gives it back, while functions talk: no byte is wrong, no connection broken, and
//! nothing of the other one stays.

mod support;
mod support_agent;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};
use cwasi_agent::agent::Settings;
use cwasi_agent::kernel::object::Object;
use cwasi_agent::kernel::pinned;
use cwasi_agent::page::StatusPage;
use cwasi_agent::run::{RunOptions, run};
use cwasi_ebpf_common::maps::{Config, LAYOUT, names};
use support_agent::agent::{Agent, text};
use support_agent::busy::{Busy, ROUNDS};
use support_agent::counted::{counted, never_less};
use support_agent::names_in;

/// The object of the release before.
static PREVIOUS: &[u8] = aya::include_bytes_aligned!("objects/previous.bpf.o");
/// Its layout. An agent of this release can run it in its own layout only.
const PREVIOUS_LAYOUT: u32 = 3;
/// A layout that this release does not have.
const OTHER: u32 = LAYOUT - 1;

const LAYOUT_OF_PROCESS: &str = "UPGRADE_LAYOUT";

/// An agent with the object of the release before, or with this one's where that cannot be run, whose pins have this layout.
fn previous(layout: u32) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command
        .args(["--ignored", "--exact", "agent_process", "--nocapture"])
        .env(LAYOUT_OF_PROCESS, layout.to_string());
    command
}

#[test]
#[ignore = "a process that tests start, not a test"]
fn agent_process() {
    let path = |name| PathBuf::from(std::env::var_os(name).expect("a path"));
    let layout = std::env::var(LAYOUT_OF_PROCESS).expect("a layout");
    let object = if PREVIOUS_LAYOUT == LAYOUT {
        Object::of(PREVIOUS)
    } else {
        Object::embedded()
    };
    let socket = path("CWASI_SOCKET");
    let options = RunOptions {
        state_dir: socket.with_file_name("state"),
        socket,
        status_page: StatusPage::Off,
        object: object.in_layout(layout.parse().expect("a number")),
        settings: Settings {
            bpffs: path("CWASI_BPFFS"),
            budget: Config::DEFAULT_BUDGET,
            local: Vec::new(),
            service: Vec::new(),
            metrics_addr: Some(([127, 0, 0, 1], 0).into()),
        },
    };
    run(options).expect("run an agent");
}

/// An agent of this program, with functions that are busy and redirected.
fn redirected_by(program: Command) -> (Agent, Busy) {
    let agent = Agent::absent();
    agent.run_program(program);
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    (agent, busy)
}

/// What an agent has in the kernel, by one of its maps.
struct Held {
    flows: u32,
}

impl Held {
    fn by(agent: &Agent, layout: u32) -> Self {
        let pin = agent.bpffs.join(format!("v{layout}/maps")).join(names::FLOWS);
        let info = MapInfo::from_pin(pin).expect("the map is pinned");
        Self { flows: info.id() }
    }

    fn programs(&self) -> Vec<ProgramInfo> {
        // Those of other tests come and go.
        let programs = loaded_programs().filter_map(Result::ok);
        programs
            .filter(|program| {
                let maps = program.map_ids().ok().flatten();
                maps.is_some_and(|maps| maps.contains(&self.flows))
            })
            .collect()
    }

    /// What the programs are, whoever loaded them.
    fn tags(&self) -> BTreeSet<u64> {
        self.programs().iter().map(ProgramInfo::tag).collect()
    }

    /// What the programs on cgroups are, one for each.
    fn attached(&self) -> Vec<u64> {
        let programs = self.programs();
        let links = loaded_links().filter_map(Result::ok);
        let tag = |id| Some(programs.iter().find(|program| program.id() == id)?.tag());
        links.filter_map(|link| tag(link.program_id())).collect()
    }

    /// Bytes that open connections have redirected and sent by TCP, read past any agent.
    fn sent(&self) -> (u64, u64) {
        let map = MapData::from_id(self.flows).expect("open a map");
        let flows: HashMap<_, u64, cwasi_ebpf_common::maps::Flow> =
            Map::HashMap(map).try_into().expect("flows");
        let sent = flows.iter().filter_map(Result::ok).map(|(_, flow)| flow.sent);
        sent.fold((0, 0), |sum, sent| {
            (sum.0 + sent.redirect_bytes, sum.1 + sent.tcp_bytes)
        })
    }

    fn is_gone(&self) -> bool {
        MapInfo::from_id(self.flows).is_err()
    }

    /// Shows that the connections that were enrolled here go on by TCP alone.
    fn is_plain(&self, busy: &mut Busy) {
        // What was on its way when they were switched off may still come.
        support::eventually("programs that were taken away redirect nothing", || {
            let before = self.sent();
            busy.caller.goes_on();
            let after = self.sent();
            after.0 == before.0 && after.1 > before.1
        });
    }
}

/// Everything that a user asks of an agent in use.
fn is_well(agent: &Agent, busy: &mut Busy, layout: u32) {
    busy.caller.goes_on();
    assert!(agent.output(&["status"]).status.success());
    assert_eq!(agent.status().degraded, []);
    assert_eq!(names_in(&agent.bpffs), [format!("v{layout}")]);
    let functions = agent.functions();
    assert_eq!(functions.len(), 2);
    assert!(functions.iter().all(|function| function.accelerated));
    busy.new_connection_is_redirected(agent);
}

#[test]
fn to_a_release_of_the_same_layout_and_back() {
    needs!();
    if PREVIOUS_LAYOUT != LAYOUT {
        return support::probe::skipped("the release before has another layout");
    }
    let (agent, mut busy) = redirected_by(previous(LAYOUT));
    let held = Held::by(&agent, LAYOUT);
    let (old, functions) = (held.tags(), agent.functions());
    assert_eq!((old.len(), held.attached().len()), (2, 2));

    // The first and the last run this program's object, the one between them the release's before.
    for turn in 0..3 {
        let (before, flows) = (counted(&agent), agent.flows());
        if turn == 0 {
            assert!(agent.terminate().success());
        } else {
            agent.kill();
        }
        busy.caller.goes_on();
        // Nobody but the kernel is there to enrol this one.
        let (address, bytes) = busy.caller.talk(ROUNDS);
        if turn == 1 {
            agent.run_program(previous(LAYOUT));
        } else {
            agent.run();
        }
        assert_eq!(Held::by(&agent, LAYOUT).flows, held.flows, "the maps stay");
        never_less(&before, &counted(&agent));
        agent.has_moved(address, bytes);
        let now = agent.flows();
        for flow in flows {
            let now = now.iter().find(|now| now.cookie == flow.cookie);
            let now = now.expect("the flow is taken over");
            assert_eq!((&now.src, &now.dst), (&flow.src, &flow.dst));
            assert!(now.sent.redirect_bytes >= flow.sent.redirect_bytes);
        }
        is_well(&agent, &mut busy, LAYOUT);
        busy.is_redirected(&agent);
        let ids = |functions: &[cwasi_client::protocol::Function]| {
            functions.iter().map(|function| function.id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&agent.functions()), ids(&functions));
        // New connections have the program of the agent that runs.
        let attached = held.attached();
        assert_eq!(attached.len(), 2);
        assert_eq!(
            attached.iter().all(|tag| old.contains(tag)),
            turn == 1,
            "turn {turn}"
        );
    }
    let _netns = busy.end();
    support::eventually("no program of the other release stays", || {
        held.programs().len() == 2 && held.tags().is_disjoint(&old)
    });
    assert!(agent.output(&["status"]).status.success());
}

#[test]
fn to_a_release_of_another_layout_and_back() {
    needs!();
    let (agent, mut busy) = redirected_by(previous(OTHER));
    let old = Held::by(&agent, OTHER);
    assert!(agent.terminate().success());
    busy.caller.goes_on();
    let (flows, _) = old.sent();
    agent.run();
    old.is_plain(&mut busy);
    assert_eq!(agent.flows(), [], "what another layout enrolled is unknown");
    is_well(&agent, &mut busy, LAYOUT);
    assert!(old.sent().0 >= flows);

    let new = Held::by(&agent, LAYOUT);
    busy.caller.stream(2);
    agent.kill();
    busy.caller.goes_on();
    agent.run_program(previous(OTHER));
    new.is_plain(&mut busy);
    is_well(&agent, &mut busy, OTHER);
    assert!(!old.is_gone() && !new.is_gone(), "open connections hold the maps");
    let _netns = busy.end();
    support::eventually("maps and programs go with the connections", || {
        old.is_gone() && new.is_gone()
    });
    assert!(agent.output(&["status"]).status.success());
}

/// Each of them dies somewhere on the way from its first system call to a served socket.
#[test]
fn killed_in_the_middle() {
    needs!();
    let mut random = fastrand::Rng::with_seed(support::seed("killed_in_the_middle"));
    let (agent, mut busy) = redirected_by(previous(OTHER));
    let old = Held::by(&agent, OTHER);
    // How long a start takes here and now.
    agent.kill();
    let start = Instant::now();
    agent.run_program(previous(OTHER));
    let start = start.elapsed();
    for _ in 0..8 {
        agent.kill();
        busy.caller.goes_on();
        agent.launch();
        std::thread::sleep(start.mul_f32(random.f32() * 1.2));
    }
    agent.kill();
    busy.caller.goes_on();
    agent.run();
    old.is_plain(&mut busy);
    is_well(&agent, &mut busy, LAYOUT);
    assert!(agent.status().enabled);
    let _netns = busy.end();
    support::eventually("maps and programs go with the connections", || old.is_gone());
}

/// One of another layout would take away what the living one has pinned.
#[test]
fn a_second_agent_while_the_first_lives() {
    needs!();
    let (agent, mut busy) = redirected_by(previous(OTHER));
    let second = tempfile::tempdir().expect("a directory");
    let second = agent
        .command(&["run", "--metrics-addr", "127.0.0.1:0"])
        .env("CWASI_SOCKET", second.path().join("agent.sock"))
        .output()
        .expect("run an agent");
    assert_eq!(second.status.code(), Some(5));
    assert!(
        text(&second.stderr).contains("another agent runs on"),
        "{}",
        text(&second.stderr)
    );
    let unloaded = pinned::unload(&agent.bpffs);
    assert!(unloaded.is_err(), "the pins of a living agent are its own");
    busy.is_redirected(&agent);
    is_well(&agent, &mut busy, OTHER);
    drop(busy.end());
}

/// The commands of this program know the pins of another layout's agent, when it is dead.
#[test]
fn switched_off_and_unloaded_by_a_program_of_another_layout() {
    needs!();
    let (agent, mut busy) = redirected_by(previous(OTHER));
    let old = Held::by(&agent, OTHER);
    agent.kill();
    assert!(agent.succeed(&["disable", "-o", "json"]).contains("\"pins\""));
    old.is_plain(&mut busy);
    // What the operator wants is wanted in every layout.
    agent.run();
    let status = agent.status();
    assert!(!status.enabled && !status.accelerating);
    busy.caller.goes_on();
    agent.kill();
    assert!(agent.succeed(&["enable", "-o", "json"]).contains("\"pins\""));
    agent.run_program(previous(OTHER));
    assert!(agent.status().accelerating);
    is_well(&agent, &mut busy, OTHER);
    let new = Held::by(&agent, OTHER);
    busy.caller.stream(2);
    agent.kill();
    assert!(agent.succeed(&["unload"]).contains("removed"));
    assert_eq!(names_in(&agent.bpffs), [] as [&str; 0]);
    new.is_plain(&mut busy);
    let _netns = busy.end();
    support::eventually("maps and programs go with the connections", || {
        old.is_gone() && new.is_gone()
    });
}

/// aya would take over whatever is pinned under a map's name.
#[test]
fn maps_of_other_sizes_are_refused() {
    needs!();
    let agent = Agent::absent();
    let maps = agent.pins().join("maps");
    std::fs::create_dir_all(&maps).expect("make a directory on the bpffs");
    let strange = HashMap::<_, u64, u64>::create(16, 0).expect("make a map");
    strange.pin(maps.join(names::FLOWS)).expect("pin a map");
    agent.run();
    let status = agent.status();
    assert!(!status.accelerating);
    let [cause] = &status.degraded[..] else {
        panic!("not one cause: {:#?}", status.degraded);
    };
    assert_eq!(cause.reason, "load");
    assert!(
        cause
            .detail
            .contains("FLOWS has keys of 8 and values of 8 bytes, not 8 and"),
        "{}",
        cause.detail
    );
    assert!(cause.remedy.contains("cwasi-agent unload"), "{}", cause.remedy);
    assert!(agent.succeed(&["unload"]).contains("removed"));
    assert!(agent.ended().success());
    agent.run();
    assert_eq!(agent.status().degraded, []);
}

/// The program of another release, as it was built then: see docs/release.md.
#[test]
fn from_the_program_of_a_release_and_back() {
    needs!();
    let Some(program) = std::env::var_os("CWASI_TEST_PREVIOUS_AGENT") else {
        return support::probe::skipped("CWASI_TEST_PREVIOUS_AGENT names no program");
    };
    let previous = || {
        let mut command = Command::new(&program);
        command.args(["run", "--metrics-addr", "127.0.0.1:0"]);
        command
    };
    let (agent, mut busy) = redirected_by(previous());
    let layout: u32 = names_in(&agent.bpffs)[0][1..].parse().expect("a layout");
    let mut before = counted(&agent);
    assert!(agent.terminate().success());
    busy.caller.goes_on();
    agent.run();
    if layout == LAYOUT {
        let after = counted(&agent);
        // Some may have been renamed since.
        before.retain(|name, _| after.contains_key(name));
        never_less(&before, &after);
        busy.is_redirected(&agent);
    }
    is_well(&agent, &mut busy, LAYOUT);
    agent.kill();
    agent.run_program(previous());
    is_well(&agent, &mut busy, layout);
    agent.kill();
    agent.run();
    is_well(&agent, &mut busy, LAYOUT);
    drop(busy.end());
}
