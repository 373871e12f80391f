//! Functions that mean ill, and a local user without rights: others go on, nothing grows without end, and nothing is given away.

mod support;
mod support_agent;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use aya::maps::{MapData, loaded_maps};
use cwasi_agent::testing::exposition;
use cwasi_client::cgroup::Leaf;
use cwasi_client::client::{Client, ClientError};
use cwasi_client::protocol::{ErrorCode, Reply, Request};
use support::netns::NetNs;
use support_agent::agent::Agent;
use support_agent::busy::Busy;
use support_agent::function::Talker;
use support_agent::{names_in, peer};

/// Where functions listen that never read: on every address of these.
const DEAF: &str = "0.0.0.0:9";
const MANY: &str = "10.9.0.0/16";
/// Where others connect to them.
const TO_DEAF: &str = "10.9.0.0:9";
/// What the agent's memory may grow by, in bytes: the events that it remembers, and the flows of a look.
const GROWTH: u64 = 64 << 20;

/// An agent with busy functions, and a place for others beside them.
fn busy() -> (Agent, Busy) {
    let agent = Agent::start_with(&["--local-cidr", MANY]);
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    busy.netns[0].ip(&format!("route add {MANY} via 10.1.0.11\n"));
    busy.netns[1].ip(&format!("route add local {MANY} dev lo\n"));
    (agent, busy)
}

/// Starts a function that never reads in the one namespace, and one that floods it in the other.
fn ill_meaning(agent: &Agent, busy: &Busy) -> (Talker, Talker) {
    let start = |name: &str, netns: &Arc<NetNs>, role: &str, address: &str| {
        let mut exec = agent.exec(name, netns, &["--sockets", "all"], &[]);
        peer::become_one(&mut exec, role, address);
        let talker = Talker::start(exec);
        assert!(["listening", "ready"].contains(&talker.answer().as_str()));
        talker
    };
    let deaf = start("deaf", &busy.netns[1], peer::DEAF, DEAF);
    (deaf, start("flood", &busy.netns[0], peer::FLOOD, TO_DEAF))
}

/// Resident memory of the agent, in bytes.
fn resident(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("read its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("its resident memory") * 1024
}

/// Metrics with the labels of their series.
fn series(agent: &Agent) -> BTreeSet<String> {
    let families = exposition::parse(&agent.metrics()).unwrap_or_else(|wrong| panic!("{wrong}"));
    let series = families.iter().flat_map(|(name, family)| {
        let labels = family.samples.keys();
        labels.map(move |labels| format!("{name}{labels:?}"))
    });
    series.collect()
}

/// What must hold of the agent, whatever functions do.
struct Bounds {
    memory: u64,
    series: BTreeSet<String>,
}

impl Bounds {
    fn of(agent: &Agent) -> Self {
        Self {
            memory: resident(agent),
            series: series(agent),
        }
    }

    fn hold(&self, agent: &Agent, busy: &mut Busy) {
        busy.caller.goes_on();
        busy.new_connection_is_redirected(agent);
        let status = agent.status();
        assert_eq!(status.degraded, []);
        for map in &status.maps {
            assert!(map.entries <= map.capacity, "{map:?}");
        }
        assert_eq!(series(agent), self.series);
        let memory = resident(agent);
        assert!(
            memory < self.memory + GROWTH,
            "{} bytes, then {memory}",
            self.memory
        );
    }
}

#[test]
fn a_function_that_floods_connections_is_alone_with_it() {
    needs!();
    let (agent, mut busy) = busy();
    let (deaf, mut flood) = ill_meaning(&agent, &busy);
    let bounds = Bounds::of(&agent);
    for (order, number) in [
        ("churn", 4000),
        ("hold", 400),
        ("half", 400),
        ("self", 400),
        ("churn", 4000),
    ] {
        flood.tell(&format!("{order} {number}"));
        busy.caller.goes_on();
        assert_eq!(flood.answer(), "done", "{order}");
        bounds.hold(&agent, &mut busy);
    }
    let Reply::Events(events) = Client::connect(&agent.socket())
        .and_then(|mut client| client.call(&Request::Events { after: 0 }))
        .expect("ask for events")
    else {
        panic!("no events");
    };
    assert!(
        events.skipped > 0 && events.events.len() <= 4096,
        "{} are kept",
        events.events.len()
    );
    let enrolled = agent.counters()["cwasi_enrolled_ends_total"];
    assert!(enrolled > 8000, "{enrolled} ends were enrolled");
    drop((flood, deaf));
    let _netns = busy.end();
    support::eventually("no flow stays behind", || agent.flows().is_empty());
    for map in agent.status().maps {
        if ["pairs", "sockets", "flows", "functions"].contains(&map.name.as_str()) {
            assert_eq!(map.entries, 0, "{map:?}");
        }
    }
}

#[test]
fn a_function_that_never_reads_stops_its_senders_only() {
    needs!();
    const SENDERS: usize = 6;
    let (agent, mut busy) = busy();
    let (deaf, mut push) = ill_meaning(&agent, &busy);
    let bounds = Bounds::of(&agent);
    let answer = push.ask(&format!("push {SENDERS}"));
    let most: u64 = answer
        .parse()
        .unwrap_or_else(|_| panic!("the sender says: {answer}"));
    // The budget, one message more, and TCP's own buffers (tcp_wmem, tcp_rmem).
    let status = agent.status();
    let buffers: u64 = ["wmem", "rmem"]
        .iter()
        .map(|name| largest_buffer(&busy.netns[0], name))
        .sum();
    let bound = u64::from(status.budget_bytes) + (64 << 10) + buffers;
    assert!(most <= bound, "{most} bytes were taken, of {bound}");
    bounds.hold(&agent, &mut busy);
    let to_deaf = agent
        .flows()
        .into_iter()
        .filter(|flow| flow.src.ends_with("/flood"))
        .count();
    assert_eq!(to_deaf, SENDERS);
    // Its end is its senders' end, and of nobody else's connections.
    drop(deaf);
    support::eventually("its connections are gone", || {
        agent
            .flows()
            .iter()
            .all(|flow| !flow.src.ends_with("/flood") && !flow.src.ends_with("/deaf"))
    });
    bounds.hold(&agent, &mut busy);
    drop(push);
    drop(busy.end());
}

/// The most bytes that the kernel lets one of a socket's buffers grow to.
fn largest_buffer(netns: &NetNs, name: &str) -> u64 {
    let path = format!("/proc/sys/net/ipv4/tcp_{name}");
    let sizes = netns.run(|| fs::read_to_string(&path)).expect("read a sysctl");
    let largest = sizes.split_whitespace().nth(2).and_then(|size| size.parse().ok());
    largest.expect("three sizes")
}

/// Runs a task as a user without rights, in a thread of its own: the system calls change a thread, libc's wrappers the process.
fn as_nobody<T: Send>(task: impl FnOnce() -> T + Send) -> T {
    const NOBODY: libc::uid_t = 65534;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: system calls on integers and a null pointer of length 0.
            let done = unsafe {
                [
                    libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()),
                    libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY),
                    libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY),
                ]
            };
            assert_eq!(
                done,
                [0; 3],
                "become another user: {}",
                io::Error::last_os_error()
            );
            task()
        });
        thread.join().expect("no panic")
    })
}

#[track_caller]
fn is_denied<T>(what: &str, done: io::Result<T>) {
    let error = done.err().unwrap_or_else(|| panic!("{what}: it is allowed"));
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{what}: {error}");
}

/// An agent in a directory that others can look into, as they can into /run/cwasi.
fn open_to_eyes() -> Agent {
    let agent = Agent::absent();
    fs::set_permissions(agent.dir.path(), Permissions::from_mode(0o755)).expect("chmod");
    agent.run();
    agent
}

#[test]
fn a_local_user_reaches_neither_files_nor_pins_nor_cgroups() {
    needs!();
    let agent = open_to_eyes();
    let function = Leaf::create("hostile-function").expect("make a cgroup");
    let spec = cwasi_client::protocol::FunctionSpec {
        name: "victim".to_owned(),
        namespace: "default".to_owned(),
        cgroup: Some(function.path().to_owned()),
        addresses: vec!["10.1.0.2".parse().expect("an address")],
        ..Default::default()
    };
    Client::connect(&agent.socket())
        .and_then(|mut client| client.register(&spec))
        .expect("register");
    cwasi_client::announce::Announcements::beside(&agent.socket())
        .put("victim", &spec)
        .expect("announce");
    let run = agent.dir.path();
    let (announced, state) = (run.join("announced"), run.join("state"));
    let (socket, pins) = (agent.socket(), agent.pins());
    let maps = names_in(&pins.join("maps"));
    assert!(!maps.is_empty());
    as_nobody(|| {
        is_denied("list announcements", fs::read_dir(&announced));
        is_denied("announce", fs::write(announced.join("x.json"), "{}"));
        is_denied("read an announcement", fs::read(announced.join("victim.json")));
        is_denied(
            "remove an announcement",
            fs::remove_file(announced.join("victim.json")),
        );
        is_denied(
            "replace the announcements",
            fs::rename(&announced, run.join("old")),
        );
        is_denied("list the state", fs::read_dir(&state));
        is_denied("write the state", fs::write(state.join("agent.json"), "{}"));
        is_denied(
            "read a function's state",
            fs::read(state.join("functions/1.json")),
        );
        is_denied("remove the socket", fs::remove_file(&socket));
        is_denied(
            "listen in its place",
            std::os::unix::net::UnixListener::bind(run.join("other.sock")),
        );
        // Whoever holds this lock keeps an agent from starting.
        is_denied("open the lock", fs::File::open(run.join("agent.sock.lock")));
        is_denied("list the pins", fs::read_dir(&pins));
        for map in &maps {
            let opened = MapData::from_pin(pins.join("maps").join(map));
            assert!(opened.is_err(), "the pin {map} can be opened");
        }
        is_denied("remove a pin", fs::remove_file(pins.join("maps").join(&maps[0])));
        let by_id = loaded_maps().next();
        assert!(
            by_id.is_none_or(|map| map.is_err()),
            "maps can be had by their ids"
        );
        is_denied("become the function", fs::write(function.procs(), "0"));
        is_denied(
            "make a cgroup in it",
            fs::create_dir(function.path().join("child")),
        );
        let beside = function.path().with_file_name("hostile-stranger");
        is_denied("make a cgroup beside it", fs::create_dir(beside));
    });
    assert_eq!(agent.functions().len(), 1);
    assert!(agent.output(&["status"]).status.success());
}

/// Where the socket's mode was widened, credentials are left to keep others out; and their number keeps nobody out.
#[test]
fn a_local_user_who_floods_the_socket_is_refused_and_holds_nobody_up() {
    needs!();
    let agent = open_to_eyes();
    let socket = agent.socket();
    as_nobody(|| {
        let refused = Client::connect(&socket);
        assert!(matches!(refused, Err(ClientError::Denied { .. })), "{refused:?}");
    });
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("chmod");
    let memory = resident(&agent);
    as_nobody(|| {
        let requests = [
            Request::Status,
            Request::Functions,
            Request::SetEnabled { enabled: false },
            Request::Unload,
            Request::UnregisterCgroup {
                cgroup: "/sys/fs/cgroup/x".into(),
            },
        ];
        for request in requests {
            let refused = Client::connect(&socket).and_then(|mut client| client.call(&request));
            match refused {
                Err(ClientError::Refused(refusal)) => assert_eq!(refusal.code, ErrorCode::PermissionDenied),
                other => panic!("{request:?}: {other:?}"),
            }
        }
    });
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            as_nobody(|| {
                for _ in 0..20 {
                    let open: Vec<_> = (0..200).filter_map(|_| Client::connect(&socket).ok()).collect();
                    assert!(!open.is_empty());
                }
            });
        });
        while !flood.is_finished() {
            answers(&socket);
        }
    });
    assert!(agent.status().accelerating);
    assert!(resident(&agent) < memory + GROWTH);
}

/// Whether root is answered.
fn answers(socket: &Path) {
    let version = Client::connect(socket).and_then(|mut client| client.call(&Request::Version));
    assert!(matches!(version, Ok(Reply::Version(_))), "{version:?}");
}

#[test]
fn a_local_user_who_floods_the_metrics_takes_nothing_from_the_agent() {
    needs!();
    let agent = open_to_eyes();
    let address = agent.status().metrics_addr.expect("metrics are served");
    let (memory, socket) = (resident(&agent), agent.socket());
    let metric = |name: &str| {
        let families = exposition::parse(&agent.metrics()).unwrap_or_else(|wrong| panic!("{wrong}"));
        families[name].samples.values().sum::<f64>()
    };
    // More than are open at once.
    let silent = as_nobody(|| {
        let silent = (0..500).map(|_| TcpStream::connect(address).expect("connect"));
        silent.collect::<Vec<_>>()
    });
    // Who asks is answered meanwhile.
    assert!(
        metric("process_open_fds") < 400.0,
        "{} descriptors",
        metric("process_open_fds")
    );
    answers(&socket);
    drop(silent);
    assert!(resident(&agent) < memory + GROWTH);
}
