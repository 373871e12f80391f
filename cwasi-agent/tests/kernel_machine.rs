//! Faults of a whole machine, which is the tests' own: its memory for TCP, its clock, and its functions and agent killed for their
//! memory or stopped. No connection breaks that plain TCP would have kept, no byte is wrong, nothing stays behind, and what the
//! agent says is true.

mod support;
mod support_agent;
mod support_machine;

use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use cwasi_ebpf_common::maps::Flow;
use cwasi_ebpf_common::reason::Reason;
use nix::sys::signal::Signal;
use support::duplex::{Duplex, Manner};
use support::netns::{Bridged, veth};
use support::node::Node;
use support::pod::{Pod, connect};
use support_agent::agent::Agent;
use support_agent::busy::Busy;
use support_agent::function::{Caller, Talker, echo};
use support_machine::clock::{Clock, DAY};
use support_machine::disk::Disk;
use support_machine::limited::{self, Limits};
use support_machine::memory::{self, Hoard};

/// Connections that are in use while memory is short.
const CONNECTIONS: u64 = 16;

/// Starts the process of an agent, and puts it before the functions, which in emulation leave it no time.
fn run(agent: &Agent, through: &[&str]) {
    agent.launch_by(through);
    // SAFETY: takes no pointers.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, agent.pid(), -20) };
    assert_eq!(result, 0, "setpriority: {}", std::io::Error::last_os_error());
    agent.wait_until_served();
}

fn started() -> Agent {
    let agent = Agent::absent();
    run(&agent, &[]);
    assert!(agent.status().accelerating, "{:#?}", agent.status().degraded);
    agent
}

fn connections(client: &Pod, server: &Pod) -> Vec<(TcpStream, TcpStream)> {
    let listener = server.listen((Bridged::v4(1), 0));
    let address = listener.local_addr().expect("getsockname");
    (0..CONNECTIONS)
        .map(|_| connect(client, &listener, address))
        .collect()
}

/// What has been redirected on open connections.
fn redirected(node: &Node) -> u64 {
    node.flows().iter().map(|flow| flow.sent.redirect_bytes).sum()
}

/// Memory that runs short makes TCP slow, and breaks nothing: no redirected message is refused its memory.
#[test]
fn memory_for_tcp_runs_short() {
    needs_own_machine!();
    let (node, [here, there]) = (Node::new(), veth());
    let strangers = [Pod::stranger(&here), Pod::stranger(&there)];
    let functions = [Pod::enrolled(&node, &here), Pod::enrolled(&node, &there)];
    let hoard = Hoard::fill(&strangers[0], &strangers[1], 8);
    for longest in [128 << 10, 2000] {
        let manner = Manner {
            longest,
            ..Manner::RESTLESS
        };
        let connections = connections(&functions[0], &functions[1]);
        let duplex = Duplex::start(connections, support::seed("memory_for_tcp_runs_short"), manner);
        duplex.goes_on();
        assert!(redirected(&node) > 0);
        // CPUs keep some to themselves, which is not seen here.
        let held = memory::pages().max(512);
        // More than is free; more than TCP wants to have; more than it may have at all.
        for (free, pressure, most) in [
            (held / 2, 8 * held, 9 * held),
            (held / 4, held / 2, 4 * held),
            (16, 32, 64),
        ] {
            let limit = memory::Limit::near();
            // Messages that the old limit let be redirected are charged by now.
            thread::sleep(support::patience() / 50);
            limit.set(free, pressure, most);
            if most > held || longest > memory::LET_THROUGH {
                duplex.goes_on();
            } else {
                // Small messages of enrolled sockets wait until that is over: see docs/design.md.
                thread::sleep(Duration::from_secs(1));
            }
        }
        duplex.goes_on();
        let before = redirected(&node);
        support::eventually("bytes are redirected again", || redirected(&node) > before);
        let by_budget = |flow: &Flow| flow.fallbacks[Reason::Budget.index()] > 0;
        assert!(node.flows().iter().any(by_budget));
        duplex.finish();
    }
    hoard.release();
    node.settles();
}

/// An agent whose self-test finds no memory takes that for what the kernel cannot do, until it looks again.
#[test]
fn an_agent_starts_while_memory_for_tcp_is_short() {
    needs_own_machine!();
    let [here, there] = veth();
    let strangers = [Pod::stranger(&here), Pod::stranger(&there)];
    let hoard = Hoard::fill(&strangers[0], &strangers[1], 8);
    let limit = memory::Limit::near();
    limit.set(16, 32, 64);
    let agent = Agent::absent();
    run(&agent, &[]);
    let status = agent.status();
    assert!(!status.accelerating);
    let first = status.degraded.first().expect("a reason");
    // By when the kernel has none left.
    let said = ["short of memory", "redirected, the last one for budget"];
    assert!(said.iter().any(|words| first.detail.contains(words)), "{first:?}");
    drop((limit, hoard));
    let mut busy = Busy::start(&agent);
    busy.caller.goes_on();
    agent.wait_until_accelerating();
    busy.new_connection_is_redirected(&agent);
    finish(busy, &agent);
}

/// The last byte of every stream has come back, and nothing of the functions stays.
fn finish(busy: Busy, agent: &Agent) {
    let _netns = busy.end();
    settles(agent);
}

/// Nothing of functions that have ended stays behind, and all is well.
fn settles(agent: &Agent) {
    support::eventually("the functions are forgotten", || agent.functions().is_empty());
    support::eventually("no flow stays behind", || agent.flows().is_empty());
    support::eventually("their programs are detached", || {
        support_agent::names_in(&agent.pins().join("links")).is_empty()
    });
    is_well(agent);
}

/// `status` says that all is well.
fn is_well(agent: &Agent) {
    let status = agent.output(&["status"]);
    assert!(
        status.status.success(),
        "{}",
        support_agent::agent::text(&status.stdout)
    );
}

/// A kernel that is held off says why, and its functions talk by plain TCP.
#[test]
fn an_agent_says_what_the_self_test_finds() {
    needs_own_machine!(whatever the self_test finds);
    let agent = Agent::absent();
    run(&agent, &[]);
    let mut busy = Busy::start(&agent);
    let status = agent.status();
    match support::probe::held_off() {
        None => {
            assert_eq!(status.degraded, []);
            busy.is_redirected(&agent);
        }
        Some(_) => {
            let reasons: Vec<_> = status.degraded.iter().map(|why| why.reason.as_str()).collect();
            assert_eq!(reasons, [format!("self_test_{}", support::probe::UNACCEPTED)]);
            busy.caller.goes_on();
            assert_eq!(agent.flows(), []);
        }
    }
    assert_eq!(status.accelerating, status.degraded.is_empty());
    let _netns = busy.end();
    support::eventually("the functions are forgotten", || agent.functions().is_empty());
}

/// Ages of connections, and what the agent does every few seconds, are a matter of the monotonic clock.
#[test]
fn the_clock_steps() {
    needs_own_machine!();
    let agent = started();
    let began = Instant::now();
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    let clock = Clock::now();
    let mut before = agent.counters();
    for step in [DAY, -2 * DAY] {
        clock.step(step);
        busy.is_redirected(&agent);
        busy.new_connection_is_redirected(&agent);
        let flows = agent.flows();
        assert!(!flows.is_empty());
        for flow in flows {
            assert!(flow.age_seconds <= began.elapsed().as_secs(), "{flow:?}");
        }
        let after = agent.counters();
        for (name, before) in before {
            assert!(after[&name] >= before, "{name}: {before}, then {}", after[&name]);
        }
        before = after;
        // Functions come and go, and are noticed: these are announced by file, with times of the wall clock.
        let mut late = Caller::start(&agent, "late", &busy.netns[0], support_agent::busy::SERVER);
        late.stream(1);
        assert_eq!(agent.functions().len(), 3);
        late.finish();
        support::eventually("the function is forgotten", || agent.functions().len() == 2);
        is_well(&agent);
    }
    // An agent that finds files from tomorrow takes them as they are.
    agent.kill();
    busy.caller.goes_on();
    run(&agent, &[]);
    assert_eq!(agent.functions().len(), 2);
    busy.is_redirected(&agent);
    finish(busy, &agent);
}

/// A pair of functions beside others, on addresses of its own.
struct Victims {
    caller: Caller,
    echo: Talker,
}

impl Victims {
    fn start(agent: &Agent, busy: &Busy) -> Self {
        const ADDRESS: &str = "10.1.0.11:8";
        let echo = echo(agent, "victim-echo", &busy.netns[1], ADDRESS);
        let mut caller = Caller::start(agent, "victim-caller", &busy.netns[0], ADDRESS);
        caller.stream(1);
        Self { caller, echo }
    }

    /// The last byte has come back, and both have ended.
    fn end(self) {
        self.caller.finish();
        drop(self.echo);
    }

    /// What the caller sees when the echo dies: the end or a reset, as of any process that dies; or that the echo's memory is full,
    /// when a message was on its way as the limit was set (docs/design.md).
    fn broken(mut self) {
        assert_eq!(self.echo.end().code(), Some(128 + Signal::SIGKILL as i32));
        let said = self.caller.0.ask("finish");
        let signs = [
            "reset by peer",
            "Broken pipe",
            "not connected",
            "came back",
            "Cannot allocate memory",
        ];
        assert!(
            signs.iter().any(|sign| said.contains(sign)),
            "the caller says: {said}"
        );
        self.caller.0.end();
    }
}

#[test]
fn functions_killed_for_their_memory() {
    needs_own_machine!();
    needs_limits!();
    let limits = Limits::new();
    let agent = started();
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    // By TCP, then by the kernel path: what the peer sees is the same.
    for switch in ["disable", "enable"] {
        agent.succeed(&[switch]);
        let victims = Victims::start(&agent, &busy);
        limited::starve(&limited::cgroup_of("victim-echo"));
        victims.broken();
        busy.caller.goes_on();
        support::eventually("the dead are forgotten", || agent.functions().len() == 2);
        is_well(&agent);
    }
    busy.new_connection_is_redirected(&agent);
    finish(busy, &agent);
    drop(limits);
}

#[test]
fn an_agent_killed_for_its_memory() {
    needs_own_machine!();
    needs_limits!();
    let limits = Limits::new();
    let procs = limits.cgroup().join("cgroup.procs");
    let enter = format!("echo $$ >{} && exec \"$@\"", procs.display());
    let agent = Agent::absent();
    run(&agent, &["sh", "-c", &enter, "sh"]);
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    limited::starve(limits.cgroup());
    let status = agent.ended();
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&status),
        Some(Signal::SIGKILL as i32)
    );
    assert_eq!(limited::oom_kills(limits.cgroup()), 1);
    busy.caller.goes_on();
    // Maps that the kernel may not fill any more, because they count as the dead agent's memory, leave connections to TCP.
    busy.caller.talk(support_agent::busy::ROUNDS);
    // Its cgroup goes with its container.
    drop(limits);
    run(&agent, &[]);
    is_well(&agent);
    assert_eq!(agent.functions().len(), 2);
    busy.is_redirected(&agent);
    busy.new_connection_is_redirected(&agent);
    finish(busy, &agent);
}

/// Signals and kills at random moments, for a while, to agent and functions.
#[test]
fn stops_and_kills_at_random() {
    /// Each fault at least once, and as many as there is time for.
    const LENGTH: Duration = Duration::from_secs(15);
    needs_own_machine!();
    let agent = started();
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    let mut random = fastrand::Rng::with_seed(support::seed("stops_and_kills_at_random"));
    let mut victims = Some(Victims::start(&agent, &busy));
    let mut counts = [0; 5];
    let end = Instant::now() + LENGTH;
    let mut faults: Vec<usize> = (0..counts.len()).collect();
    random.shuffle(&mut faults);
    while !faults.is_empty() || Instant::now() < end {
        let pause = Duration::from_millis(random.u64(1..400));
        let fault = faults.pop().unwrap_or_else(|| random.usize(..counts.len()));
        counts[fault] += 1;
        match fault {
            0 | 1 => {
                let function = ["echo", "caller"][fault];
                limited::signal(function, Signal::SIGSTOP);
                thread::sleep(pause);
                limited::signal(function, Signal::SIGCONT);
            }
            2 => {
                agent.signal(Signal::SIGSTOP);
                thread::sleep(pause);
                agent.signal(Signal::SIGCONT);
            }
            3 => {
                agent.kill();
                thread::sleep(pause);
                run(&agent, &[]);
            }
            _ => {
                limited::signal("victim-echo", Signal::SIGKILL);
                victims.take().expect("there are victims").broken();
                victims = Some(Victims::start(&agent, &busy));
            }
        }
        busy.caller.goes_on();
    }
    eprintln!("stopped echo, caller, agent; killed agent, echo: {counts:?} times");
    let victims = victims.expect("there are victims");
    victims.end();
    busy.is_redirected(&agent);
    busy.new_connection_is_redirected(&agent);
    finish(busy, &agent);
}

/// A function whose cgroup is full is redirected to as long as its memory can be given up, and is not killed for what others send it.
#[test]
fn a_receiver_whose_memory_is_files() {
    const ROOM: u64 = 16 << 20;
    needs_own_machine!();
    needs_limits!();
    let _limits = Limits::new();
    let agent = started();
    let busy = Busy::start(&agent);
    let mut victims = Victims::start(&agent, &busy);
    let cgroup = limited::cgroup_of("victim-echo");
    let disk = Disk::new(4 * ROOM);
    limited::leave(&cgroup, ROOM);
    let by_kernel = |victims: &mut Victims| {
        let before = agent.redirected("victim-caller");
        victims.caller.goes_on();
        agent.redirected("victim-caller") > before
    };
    support::eventually("there is room", || by_kernel(&mut victims));
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("a file in memory");
    // Of a tmpfs, without swap, nothing can be given up.
    limited::run(
        &cgroup,
        &format!("dd if=/dev/zero bs=1M count=14 of={}", file.path().display()),
    );
    support::eventually("there is none", || !by_kernel(&mut victims));
    file.close().expect("remove the file");
    support::eventually("there is room again", || by_kernel(&mut victims));
    limited::run(
        &cgroup,
        &format!("dd if={} bs=1M of=/dev/null", disk.path().display()),
    );
    limited::leave(&cgroup, 1 << 20);
    support::eventually("files make room", || by_kernel(&mut victims));
    assert_eq!(limited::oom_kills(&cgroup), 0);
    victims.end();
    finish(busy, &agent);
}

/// A receiver near the limit of its cgroup, which does not read, is sent to by TCP: its peers do not get it killed.
#[test]
fn a_receiver_with_little_memory() {
    /// More than the kernel keeps free and TCP takes, less than the budget and what TCP takes.
    const ROOM: u64 = 5 << 20;
    needs_own_machine!();
    needs_limits!();
    let _limits = Limits::new();
    let agent = started();
    let busy = Busy::start(&agent);
    let victims = Victims::start(&agent, &busy);
    let cgroup = limited::cgroup_of("victim-echo");
    limited::leave(&cgroup, ROOM);
    limited::signal("victim-echo", Signal::SIGSTOP);
    thread::sleep(Duration::from_secs(2));
    limited::signal("victim-echo", Signal::SIGCONT);
    assert_eq!(limited::oom_kills(&cgroup), 0);
    victims.end();
    finish(busy, &agent);
}
