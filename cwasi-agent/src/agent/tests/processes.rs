//! Connections inside of processes: what is told is shown, and nothing that is told breaks anything.

use cwasi_client::process_report::{
    FunctionRef, MAX_CONNECTIONS, ProcessConnection, ProcessEnd, ProcessReport, ProcessTotals, monotonic_ns,
};
use cwasi_client::protocol::PathCounts;

use super::super::processes::{MAX_LISTED, Processes};
use super::*;

const REPORTER: Process = Process {
    pid: 200,
    started: Some(9),
};

fn end(function: &str, port: u16, messages: u64) -> ProcessEnd {
    ProcessEnd {
        function: function.to_owned(),
        address: SocketAddr::from(([127, 0, 0, 1], port)),
        messages,
        bytes: 10 * messages,
    }
}

fn totals(messages: u64) -> ProcessTotals {
    ProcessTotals {
        connections: 1,
        messages,
        bytes: 10 * messages,
    }
}

/// `messages` in all, and as many open connections as are asked for.
fn report(messages: u64, connections: usize) -> ProcessReport {
    let connection = ProcessConnection {
        client: end("ping", 40_000, 3),
        server: end("echo", 80, 2),
        established_ns: monotonic_ns().saturating_sub(7_500_000_000),
    };
    ProcessReport {
        totals: totals(messages),
        open: connections as u64,
        connections: vec![connection; connections],
    }
}

impl Bench {
    /// A process with the functions `ping` and `echo` as function `name`.
    fn sandbox(&mut self, name: &str, cgroup: u64, addresses: &[&str]) -> u32 {
        self.fake.world().processes.insert(200, 9);
        let mut candidate = self.candidate(name, cgroup, addresses);
        candidate.spec.members = vec!["ping".to_owned(), "echo".to_owned()];
        self.agent.register(candidate, LAUNCHER).unwrap().id
    }

    fn tell(&mut self, id: u32, report: ProcessReport) {
        self.agent
            .report_process(&FunctionRef::Id(id), report, REPORTER)
            .unwrap();
    }

    fn told(&mut self) -> (u64, u64) {
        let status = self.agent.status();
        (status.traffic.process_messages, status.flows.process)
    }
}

#[test]
fn a_connection_inside_of_a_process_is_shown_by_both_ends() {
    let mut bench = Bench::new();
    let id = bench.sandbox("pod", 7, &[]);
    bench.register("other", 8, &[]);
    bench.tell(id, report(5, 1));
    let flows = bench.agent.flows();
    let shown: Vec<_> = flows
        .iter()
        .map(|flow| {
            (
                flow.src.as_str(),
                flow.dst.as_deref().unwrap(),
                flow.local.port(),
                flow.remote.port(),
                flow.sent.process_messages,
                flow.sent.process_bytes,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            ("default/echo", "default/ping", 80, 40_000, 2, 20),
            ("default/ping", "default/echo", 40_000, 80, 3, 30),
        ]
    );
    for flow in &flows {
        assert_eq!(
            (flow.path.as_str(), &flow.reason, flow.cookie),
            ("process", &None, 0)
        );
        assert_eq!(flow.age_seconds, 7);
    }
    assert_eq!(
        flows
            .iter()
            .map(|flow| flow.sent.process_connections)
            .sum::<u64>(),
        1
    );
    let status = bench.agent.status();
    let (process, traffic) = (status.flows, status.traffic);
    assert_eq!(
        process,
        PathCounts {
            process: 1,
            ..PathCounts::default()
        }
    );
    assert_eq!(
        (
            traffic.process_messages,
            traffic.process_bytes,
            traffic.process_connections
        ),
        (5, 50, 1)
    );
    let functions = bench.agent.functions();
    assert_eq!(functions[0].spec.members, ["ping", "echo"]);
    assert_eq!(functions[0].sent.process_bytes, 50);
    assert_eq!(functions[1].sent.process_bytes, 0);
    assert_eq!(bench.agent.snapshot().flows, status.flows);
    // The next report replaces it.
    bench.tell(id, report(6, 0));
    assert!(bench.agent.flows().is_empty());
    assert_eq!(bench.told(), (6, 0));
}

#[test]
fn a_report_is_taken_by_cgroup_too_and_only_of_functions() {
    let mut bench = Bench::new();
    let id = bench.sandbox("pod", 7, &[]);
    let of = |path: &str| FunctionRef::Cgroup(path.into());
    let mut tell = |of: &FunctionRef| bench.agent.report_process(of, report(5, 1), REPORTER);
    tell(&of("/cg/cwasi/pod")).unwrap();
    for (unknown, code) in [
        (FunctionRef::Id(id + 1), ErrorCode::NotFound),
        (of("/cg/cwasi/nobody"), ErrorCode::NotFound),
        (of("cwasi/pod"), ErrorCode::Invalid),
    ] {
        assert_eq!(tell(&unknown).unwrap_err().code, code, "{unknown:?}");
    }
    assert_eq!(bench.told(), (5, 1));
    assert_eq!(bench.agent.flows().len(), 2);
}

#[test]
fn sums_never_fall_and_nothing_is_counted_twice() {
    let mut bench = Bench::new();
    let id = bench.sandbox("pod", 7, &[]);
    bench.tell(id, report(5, 1));
    bench.tell(id, report(4, 1));
    assert_eq!(bench.told(), (5, 1), "a count that went backwards");
    assert_eq!(bench.sandbox("pod", 7, &["10.2.0.2"]), id, "registered again");
    bench.tell(id, report(7, 1));
    assert_eq!(bench.told(), (7, 1));
    // Another process in the same cgroup begins anew.
    let second = Process {
        pid: 201,
        started: Some(20),
    };
    bench.fake.world().processes.insert(201, 20);
    let of = FunctionRef::Id(id);
    bench.agent.report_process(&of, report(2, 1), second).unwrap();
    assert_eq!(bench.told(), (9, 1));
    // It died before the agent saw whose the report is.
    let dead = Process {
        started: None,
        ..second
    };
    bench.agent.report_process(&of, report(3, 1), dead).unwrap();
    assert_eq!(bench.told(), (10, 1));
    // Unregistered while it lives, then registered once more.
    bench.agent.unregister(id).unwrap();
    assert_eq!(bench.told(), (10, 0));
    bench.agent.sweep_functions();
    let id = bench.sandbox("pod", 7, &[]);
    let of = FunctionRef::Id(id);
    bench.agent.report_process(&of, report(3, 2), second).unwrap();
    assert_eq!(bench.told(), (10, 2));
    // Its cgroup is gone, and another function comes.
    bench.fake.world().cgroups.remove(Path::new("/cg/cwasi/pod"));
    bench.agent.sweep_functions();
    assert_eq!(bench.told(), (10, 0));
    let id = bench.sandbox("pod", 70, &[]);
    bench.tell(id, report(1, 1));
    assert_eq!(bench.told(), (11, 1));
}

#[test]
fn sums_survive_the_agent_but_not_the_boot() {
    let mut bench = Bench::new();
    let ended = bench.sandbox("ended", 7, &[]);
    bench.tell(ended, report(100, 1));
    bench.fake.world().cgroups.remove(Path::new("/cg/cwasi/ended"));
    bench.agent.sweep_functions();
    let living = bench.sandbox("living", 8, &[]);
    bench.tell(living, report(10, 1));
    // Killed: what a living process told comes again with its next report.
    bench.restart();
    assert_eq!(bench.told(), (100, 0));
    bench.tell(living, report(11, 1));
    assert_eq!(bench.told(), (111, 1));
    // Stopped.
    bench.agent.save_processes();
    bench.restart();
    assert_eq!(bench.told(), (111, 0));
    bench.tell(living, report(12, 1));
    assert_eq!(bench.told(), (112, 1));
    let saved = SavedProcesses {
        boot: "another".to_owned(),
        ended: totals(9),
        processes: Vec::new(),
    };
    bench.agent.store.put_processes(&saved).unwrap();
    bench.restart();
    assert_eq!(bench.told(), (0, 0));
}

#[test]
fn what_a_dead_process_told_is_not_shown() {
    let mut bench = Bench::new();
    let id = bench.sandbox("pod", 7, &[]);
    bench.tell(id, report(5, 3));
    bench.agent.sweep_functions();
    assert_eq!(bench.told(), (5, 3));
    // The pid is another's by now; the cgroup and the launcher live on.
    bench.fake.world().processes.insert(200, 10);
    bench.agent.sweep_functions();
    assert_eq!(bench.told(), (5, 0));
    assert!(bench.agent.flows().is_empty());
    assert_eq!(bench.ids(), [id]);
}

#[test]
fn a_report_that_cannot_be_used_changes_nothing() {
    let mut bench = Bench::new();
    let id = bench.sandbox("pod", 7, &[]);
    bench.tell(id, report(5, 1));
    let too_many = report(6, MAX_CONNECTIONS + 1);
    let mut unnamed = report(6, 2);
    unnamed.connections[1].server.function = "default/\u{1b}[2Jecho".to_owned();
    for (bad, says) in [(too_many, "257 connections"), (unnamed, "function ")] {
        let refusal = bench
            .agent
            .report_process(&FunctionRef::Id(id), bad, REPORTER)
            .unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Invalid);
        assert!(refusal.message.starts_with(says), "{refusal}");
        assert!(!refusal.message.contains('\u{1b}'));
    }
    assert_eq!(bench.told(), (5, 1));
}

#[test]
fn all_processes_together_list_no_more_than_fits() {
    let mut processes = Processes::default();
    let mut take = |cgroup_id, connections| {
        let report = report(1, connections);
        processes.take(cgroup_id, Path::new("/cg/x"), report, REPORTER, || unreachable!());
        (processes.listed(), processes.open())
    };
    let (fit, each) = ((MAX_LISTED / MAX_CONNECTIONS) as u64, MAX_CONNECTIONS as u64);
    for cgroup_id in 1..=fit {
        assert_eq!(take(cgroup_id, MAX_CONNECTIONS).1, cgroup_id * each);
    }
    assert_eq!(take(1, MAX_CONNECTIONS), (MAX_LISTED, fit * each));
    assert_eq!(
        take(fit + 1, MAX_CONNECTIONS),
        (MAX_LISTED, (fit + 1) * each),
        "counted, not listed"
    );
    assert_eq!(take(1, 0), (MAX_LISTED - MAX_CONNECTIONS, fit * each));
    assert_eq!(
        take(fit + 1, MAX_CONNECTIONS),
        (MAX_LISTED, fit * each),
        "there is room now"
    );
}

#[test]
fn functions_that_come_and_go_leave_only_their_sums() {
    let mut processes = Processes::default();
    let rounds = 3 * u64::from(MAX_FUNCTIONS);
    for cgroup_id in 1..=rounds {
        // Every cgroup stays, and one function is registered at a time beside the first.
        let registered = || HashSet::from([1, cgroup_id]);
        processes.take(cgroup_id, Path::new("/cg/x"), report(2, 1), REPORTER, registered);
        if cgroup_id > 1 {
            processes.close(cgroup_id);
        }
        if cgroup_id % 1000 == 0 {
            assert!(processes.saved("").processes.len() <= MAX_FUNCTIONS as usize);
        }
    }
    assert_eq!(processes.total().messages, 2 * rounds);
    assert_eq!(processes.total_of(1).messages, 2, "still registered");
    assert_eq!((processes.open(), processes.listed()), (1, 1));
}

#[test]
fn explain_knows_who_shares_a_process() {
    let mut bench = Bench::new();
    bench.sandbox("pod", 7, &["10.2.0.2"]);
    bench.sandbox("alone", 8, &[]);
    bench.register("b", 9, &["10.2.0.3"]);
    for (src, dst, path) in [
        ("ping", "echo", "process"),
        ("default/pod", "default/ping", "process"),
        ("10.2.0.2", "echo", "process"),
        ("alone", "alone", "process"),
        ("ping", "10.2.0.2:80", "depends"),
        ("ping", "127.0.0.1:80", "depends"),
        ("ping", "b", "kernel"),
        ("b", "echo", "kernel"),
    ] {
        let explanation = bench.agent.explain(src, dst).unwrap();
        assert_eq!(explanation.path, path, "{src} to {dst}: {:?}", explanation.steps);
    }
    bench.agent.set_enabled(false).unwrap();
    assert_eq!(bench.agent.explain("ping", "echo").unwrap().path, "process");
    assert_eq!(
        bench.agent.explain("b", "b").unwrap().path,
        "network",
        "one function that connects to itself does so through the kernel"
    );
}

fn hostile_end() -> impl Strategy<Value = ProcessEnd> {
    let names = prop_oneof![
        4 => "[a-z]{1,8}",
        1 => "\\PC{0,300}",
        1 => "[\\x00-\\x7f]{0,20}",
    ];
    (names, any::<SocketAddr>(), any::<u64>(), any::<u64>()).prop_map(
        |(function, address, messages, bytes)| ProcessEnd {
            function,
            address,
            messages,
            bytes,
        },
    )
}

fn hostile() -> impl Strategy<Value = ProcessReport> {
    let number = || prop_oneof![Just(0), Just(u64::MAX), any::<u64>(), 0_u64..100];
    let connection = (hostile_end(), hostile_end(), any::<u64>());
    let connection = connection
        .prop_map(|(client, server, established_ns)| ProcessConnection {
            client,
            server,
            established_ns,
        })
        .boxed();
    // Long lists of one connection: what matters of them is their length.
    let connections = prop_oneof![
        prop::collection::vec(connection.clone(), 0..3),
        (connection, 0_usize..2 * MAX_CONNECTIONS).prop_map(|(connection, count)| vec![connection; count]),
    ];
    (number(), number(), number(), number(), connections).prop_map(
        |(opened, messages, bytes, open, connections)| ProcessReport {
            totals: ProcessTotals {
                connections: opened,
                messages,
                bytes,
            },
            open,
            connections,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Sums never fall, what is shown is bounded and fit to be printed, and what is refused changes nothing.
    #[test]
    fn hostile_reports_break_nothing(
        reports in prop::collection::vec((0_u64..3, 200_u32..203, hostile(), any::<bool>()), 1..20),
    ) {
        let mut bench = Bench::new();
        let ids: Vec<u32> = (0..3).map(|cgroup| bench.sandbox(&format!("f{cgroup}"), cgroup + 7, &[])).collect();
        let mut before = bench.agent.status().traffic;
        for (function, pid, report, sweep) in reports {
            let by = Process { pid, started: Some(9) };
            let of = FunctionRef::Id(ids[usize::try_from(function).unwrap()]);
            let open = report.open.max(report.connections.len() as u64);
            let flows = bench.agent.flows();
            let taken = bench.agent.report_process(&of, report, by);
            let status = bench.agent.status();
            match taken {
                Ok(()) => prop_assert!(status.flows.process >= open),
                Err(refusal) => {
                    prop_assert_eq!(refusal.code, ErrorCode::Invalid);
                    prop_assert_eq!(status.traffic, before);
                    prop_assert_eq!(bench.agent.flows(), flows);
                }
            }
            prop_assert!(status.traffic.process_messages >= before.process_messages);
            prop_assert!(status.traffic.process_bytes >= before.process_bytes);
            prop_assert!(status.traffic.process_connections >= before.process_connections);
            before = status.traffic;
            let flows = bench.agent.flows();
            prop_assert!(flows.len() <= 2 * 3 * MAX_CONNECTIONS);
            for flow in flows {
                prop_assert!(!flow.src.contains(|c: char| c.is_control() || c.is_whitespace()));
                prop_assert_eq!(flow.path, "process");
            }
            crate::metrics::render(&bench.agent.snapshot()).unwrap();
            if sweep {
                bench.agent.sweep_functions();
            }
            bench.check();
        }
    }
}
