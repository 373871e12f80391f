use std::path::Path;

use cwasi_client::protocol::{FunctionSpec, MapUsage};
use cwasi_ebpf_common::learn::Record;
use cwasi_ebpf_common::maps::{Counters, Destination, Event, EventKind, Flow, FunctionEntry, TrafficEntry};
use cwasi_ebpf_common::reason::Reason;
use proptest::prelude::*;

use super::*;
use crate::kernel::readers::READERS;
use crate::testing::Fake;

mod processes;

const LAUNCHER: Process = Process {
    pid: 100,
    started: Some(5),
};

struct Bench {
    fake: Fake,
    dir: tempfile::TempDir,
    agent: Agent,
}

fn settings() -> Settings {
    Settings {
        bpffs: "/no/bpffs".into(),
        budget: Config::DEFAULT_BUDGET,
        local: vec!["10.1.0.0/24".parse().unwrap()],
        service: vec!["10.96.0.0/12".parse().unwrap()],
        metrics_addr: None,
    }
}

fn broken() -> Degradation {
    Degradation {
        reason: "self_test_order_across_spill".to_owned(),
        detail: "byte 5 is not the one that was sent".to_owned(),
        remedy: "another kernel".to_owned(),
    }
}

fn kernel(fake: &Fake, degraded: Vec<Degradation>) -> Kernel {
    Kernel {
        plane: Some(fake.plane()),
        probes: vec![("redirect", true)],
        held_off: degraded
            .iter()
            .any(|cause| cause.reason.starts_with("self_test_")),
        degraded,
    }
}

impl Bench {
    fn new() -> Self {
        let fake = Fake::default();
        fake.world().processes.insert(100, 5);
        let dir = tempfile::tempdir().unwrap();
        let agent = Self::start(&fake, dir.path(), Vec::new());
        Self { fake, dir, agent }
    }

    fn start(fake: &Fake, dir: &Path, degraded: Vec<Degradation>) -> Agent {
        Agent::new(
            kernel(fake, degraded),
            settings(),
            fake.host(),
            Store::new(&dir.join("state")),
        )
    }

    fn restart(&mut self) {
        self.agent = Self::start(&self.fake, self.dir.path(), Vec::new());
    }

    fn restart_broken(&mut self) {
        self.agent = Self::start(&self.fake, self.dir.path(), vec![broken()]);
    }

    fn cgroup(&self, name: &str, id: u64) -> PathBuf {
        let path = PathBuf::from(format!("/cg/{name}"));
        self.fake.world().cgroups.insert(path.clone(), (id, 1));
        path
    }

    fn candidate(&self, name: &str, cgroup: u64, addresses: &[&str]) -> Candidate {
        let cgroup = self.cgroup(&format!("cwasi/{name}"), cgroup);
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Candidate {
            spec: FunctionSpec {
                name: name.to_owned(),
                namespace: "default".to_owned(),
                addresses,
                cgroup: Some(cgroup.clone()),
                ..FunctionSpec::default()
            },
            cgroup,
        }
    }

    fn register(&mut self, name: &str, cgroup: u64, addresses: &[&str]) -> Registered {
        let candidate = self.candidate(name, cgroup, addresses);
        self.agent.register(candidate, LAUNCHER).unwrap()
    }

    fn ids(&self) -> Vec<u32> {
        self.agent.functions.keys().copied().collect()
    }

    /// What must hold after any event.
    fn check(&self) {
        let world = self.fake.world();
        let registered: BTreeMap<u64, FunctionEntry> = self
            .agent
            .functions
            .values()
            .filter(|entry| entry.attach_error.is_none())
            .map(|entry| {
                (
                    entry.saved.cgroup_id,
                    FunctionEntry {
                        id: entry.saved.id,
                        sockets: 0,
                    },
                )
            })
            .collect();
        assert_eq!(world.attached, registered);
        assert_eq!(world.localities, self.agent.localities.desired());
        let held: HashSet<IpAddr> = self
            .agent
            .functions
            .values()
            .flat_map(|entry| entry.saved.spec.addresses.clone())
            .collect();
        for address in held {
            let prefix = mapped(IpNet::from(address));
            assert_eq!(
                world.localities.get(&prefix),
                Some(&cwasi_ebpf_common::maps::Locality::Local)
            );
        }
        let kept = self.agent.store.load();
        assert!(kept.warnings.is_empty());
        assert!(
            kept.functions
                .iter()
                .eq(self.agent.functions.values().map(|entry| &entry.saved))
        );
        assert_eq!(kept.agent, self.agent.saved());
    }
}

#[test]
fn a_function_is_registered_found_and_forgotten() {
    let mut bench = Bench::new();
    let registered = bench.register("echo", 7, &["10.1.0.2", "fd00::2"]);
    assert_eq!(
        registered,
        Registered {
            id: 1,
            accelerated: true,
            reason: None
        }
    );
    bench.check();
    let functions = bench.agent.functions();
    assert_eq!(functions[0].cgroup_id, 7);
    assert_eq!(functions[0].registered_by, 100);
    bench.agent.unregister(1).unwrap();
    bench.check();
    assert_eq!(bench.agent.unregister(1).unwrap_err().code, ErrorCode::NotFound);
    assert_eq!(bench.register("echo", 7, &[]).id, 2, "ids are not used again");
}

#[test]
fn a_cgroup_that_registers_again_keeps_its_id() {
    let mut bench = Bench::new();
    assert_eq!(bench.register("echo", 7, &["10.2.0.2"]).id, 1);
    assert_eq!(bench.register("echo", 7, &["10.2.0.3"]).id, 1);
    bench.check();
    assert_eq!(
        bench.agent.functions()[0].spec.addresses,
        ["10.2.0.3".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(
        bench
            .fake
            .world()
            .localities
            .get(&mapped("10.2.0.2/32".parse().unwrap())),
        None
    );
}

#[test]
fn a_function_is_forgotten_by_its_cgroup() {
    let mut bench = Bench::new();
    let path = Path::new("/cg/cwasi/echo");
    bench.agent.unregister_cgroup(path).unwrap();
    bench.register("echo", 7, &["10.2.0.2"]);
    bench.register("other", 8, &["10.2.0.2"]);
    bench.agent.unregister_cgroup(path).unwrap();
    bench.check();
    assert_eq!(bench.ids(), [2]);
    // Gone, and made anew before the agent has noticed.
    bench.register("echo", 9, &[]);
    bench.fake.world().cgroups.remove(path);
    bench.agent.unregister_cgroup(path).unwrap();
    bench.check();
    bench.register("echo", 10, &[]);
    bench.register("echo", 11, &[]);
    assert_eq!(bench.ids(), [2, 4, 5]);
    bench.agent.unregister_cgroup(path).unwrap();
    assert_eq!(bench.ids(), [2]);
    assert_eq!(bench.fake.world().attached.len(), 1);
}

#[test]
fn everything_is_taken_over_but_what_is_gone() {
    let mut bench = Bench::new();
    bench.register("stays", 7, &["10.2.0.2"]);
    bench.register("gone", 8, &["10.2.0.3"]);
    bench.register("replaced", 9, &["10.2.0.4"]);
    bench.fake.world().cgroups.remove(Path::new("/cg/cwasi/gone"));
    bench.cgroup("cwasi/replaced", 99);
    bench
        .fake
        .world()
        .attached
        .insert(55, FunctionEntry { id: 77, sockets: 0 });
    bench.restart();
    bench.check();
    assert_eq!(bench.ids(), [1]);
    assert_eq!(bench.register("new", 10, &[]).id, 4);
}

#[test]
fn functions_of_another_boot_are_forgotten() {
    let mut bench = Bench::new();
    bench.register("echo", 7, &[]);
    let mut saved = bench.agent.functions[&1].saved.clone();
    saved.boot = "an earlier boot".to_owned();
    bench.agent.store.put(&saved).unwrap();
    bench.restart();
    bench.check();
    assert!(bench.ids().is_empty());
}

#[test]
fn without_its_state_the_agent_gives_no_id_that_the_kernel_still_knows() {
    let mut bench = Bench::new();
    bench.register("echo", 7, &[]);
    {
        let mut world = bench.fake.world();
        world
            .traffic
            .insert(TrafficKey { src: 41, dst: 0 }, TrafficEntry::EMPTY);
        world.traffic.insert(
            TrafficKey {
                src: u32::MAX,
                dst: u32::MAX,
            },
            TrafficEntry::EMPTY,
        );
        world.flows.push(Flow {
            function: 40,
            peer_function: 43,
            ..Flow::default()
        });
    }
    std::fs::remove_dir_all(bench.dir.path().join("state")).unwrap();
    bench.restart();
    bench.check();
    assert!(bench.ids().is_empty());
    assert_eq!(bench.register("echo", 7, &[]).id, 44);
    bench.agent.next_id = MAX_ID;
    assert_eq!(bench.register("last", 8, &[]).id, MAX_ID);
    assert_eq!(bench.register("wrapped", 9, &[]).id, 1);
    bench.agent.next_id = 40;
    assert_eq!(bench.register("between", 10, &[]).id, 42);
}

#[test]
fn the_sweep_drops_what_is_gone_and_leaves_of_dead_launchers() {
    let mut bench = Bench::new();
    bench.register("busy", 7, &[]);
    bench.register("idle", 8, &["10.2.0.3"]);
    bench.register("gone", 9, &[]);
    let foreign = bench.cgroup("kubepods/x", 10);
    let candidate = Candidate {
        cgroup: foreign.clone(),
        ..bench.candidate("pod", 11, &[])
    };
    bench.agent.register(candidate, LAUNCHER).unwrap();
    {
        let mut world = bench.fake.world();
        world.cgroups.remove(Path::new("/cg/cwasi/gone"));
        for (path, (_, processes)) in &mut world.cgroups {
            *processes = usize::from(path.ends_with("busy"));
        }
    }
    bench.agent.sweep_functions();
    bench.check();
    assert_eq!(bench.ids(), [1, 2, 4], "the launcher lives");
    bench.fake.world().processes.insert(100, 6);
    bench.agent.sweep_functions();
    bench.check();
    assert_eq!(bench.ids(), [1, 4], "the launcher's pid is another process now");
    assert!(
        !bench
            .fake
            .world()
            .cgroups
            .contains_key(Path::new("/cg/cwasi/idle"))
    );
    assert!(bench.fake.world().cgroups.contains_key(&foreign));
}

#[test]
fn a_launcher_that_was_dead_before_its_request_was_read_is_dead() {
    let mut bench = Bench::new();
    let by = |pid, started| Process { pid, started };
    for (id, by) in [(7, by(200, None)), (8, by(100, None)), (9, Process::UNSEEN)] {
        let candidate = bench.candidate(&format!("f{id}"), id, &[]);
        bench.agent.register(candidate, by).unwrap();
    }
    bench.agent.sweep_functions();
    assert_eq!(bench.ids(), [1, 2, 3], "a process lives in each");
    for (_, processes) in bench.fake.world().cgroups.values_mut() {
        *processes = 0;
    }
    bench.agent.sweep_functions();
    bench.check();
    assert_eq!(bench.ids(), [2, 3], "pid 200 is nobody's");
}

#[test]
fn a_cgroup_that_the_kernel_refuses_stays_on_tcp_and_is_tried_again() {
    let mut bench = Bench::new();
    bench.fake.world().refuse_attach.push("/cg/cwasi/echo".into());
    let registered = bench.register("echo", 7, &["10.2.0.2"]);
    assert!(!registered.accelerated);
    assert!(registered.reason.unwrap().contains("BPF_LINK_CREATE"));
    bench.check();
    assert_eq!(bench.agent.status().degraded[0].reason, "attach");
    bench.fake.world().refuse_attach.clear();
    bench.agent.sweep_functions();
    bench.check();
    assert!(bench.agent.functions()[0].accelerated);
    assert!(bench.agent.status().degraded.is_empty());
}

#[test]
fn what_is_detached_by_hand_is_attached_again() {
    let mut bench = Bench::new();
    assert!(bench.register("echo", 7, &["10.2.0.2"]).accelerated);
    bench.fake.world().attached.clear();
    bench.agent.sweep_functions();
    bench.check();
    assert!(bench.agent.functions()[0].accelerated);
    // Where it cannot be, that is told.
    bench.fake.world().attached.clear();
    bench.fake.world().refuse_attach.push("/cg/cwasi/echo".into());
    bench.agent.sweep_functions();
    assert!(!bench.agent.functions()[0].accelerated);
    assert_eq!(bench.agent.status().degraded[0].reason, "attach");
}

#[test]
fn a_refused_address_changes_nothing() {
    let mut bench = Bench::new();
    let candidate = bench.candidate("echo", 7, &["10.2.0.2"]);
    bench.fake.world().refuse_locality = true;
    assert_eq!(
        bench
            .agent
            .register(candidate.clone(), LAUNCHER)
            .unwrap_err()
            .code,
        ErrorCode::Internal
    );
    assert!(bench.ids().is_empty());
    bench.fake.world().refuse_locality = false;
    bench.agent.sweep_functions();
    bench.check();
    bench.agent.register(candidate, LAUNCHER).unwrap();
    bench.check();
    bench.fake.world().refuse_locality = true;
    bench.agent.unregister(1).unwrap();
    assert_eq!(bench.agent.status().degraded[0].reason, "locality");
    bench.fake.world().refuse_locality = false;
    bench.agent.sweep_functions();
    bench.check();
}

#[test]
fn a_gone_cgroup_and_too_many_functions_are_refused() {
    let mut bench = Bench::new();
    let mut candidate = bench.candidate("echo", 7, &[]);
    candidate.cgroup = "/cg/nowhere".into();
    assert_eq!(
        bench.agent.register(candidate, LAUNCHER).unwrap_err().code,
        ErrorCode::Invalid
    );
    let saved = SavedFunction {
        id: 0,
        boot: String::new(),
        spec: FunctionSpec::default(),
        cgroup: PathBuf::new(),
        cgroup_id: 0,
        registered_by: 0,
        started: None,
    };
    for id in 1..=MAX_FUNCTIONS {
        let saved = SavedFunction {
            id,
            cgroup_id: u64::from(id) + 1000,
            ..saved.clone()
        };
        bench.agent.functions.insert(id, Entry::new(saved));
    }
    let candidate = bench.candidate("one-more", 7, &[]);
    assert_eq!(
        bench.agent.register(candidate, LAUNCHER).unwrap_err().code,
        ErrorCode::Exhausted
    );
    let candidate = bench.candidate("again", 1001, &[]);
    assert_eq!(bench.agent.register(candidate, LAUNCHER).unwrap().id, 1);
}

#[test]
fn a_state_directory_that_cannot_be_written_degrades_and_recovers() {
    let mut bench = Bench::new();
    let state = bench.dir.path().join("state");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "in the way").unwrap();
    assert!(bench.register("echo", 7, &[]).accelerated);
    let degraded = bench.agent.status().degraded;
    assert_eq!(degraded[0].reason, "state_dir");
    assert!(degraded[0].detail.starts_with(state.to_str().unwrap()));
    std::fs::remove_file(&state).unwrap();
    bench.agent.sweep_functions();
    bench.check();
    assert!(bench.agent.status().degraded.is_empty());
}

#[test]
fn the_switch_survives_restarts_and_failed_self_tests() {
    let mut bench = Bench::new();
    bench.register("echo", 7, &[]);
    let enabled = |bench: &Bench| bench.fake.world().config.enabled;
    bench.agent.set_enabled(false).unwrap();
    assert_eq!(enabled(&bench), 0);
    let functions = bench.agent.functions();
    assert!(functions[0].reason.as_deref().unwrap().contains("switched off"));
    bench.restart();
    assert!(!bench.agent.enabled());
    bench.restart_broken();
    assert_eq!((enabled(&bench), bench.agent.enabled()), (0, false));
    bench.agent.set_enabled(true).unwrap();
    assert_eq!(
        (enabled(&bench), bench.agent.enabled()),
        (0, true),
        "held off, whatever the operator wants"
    );
    let status = bench.agent.status();
    assert!(!status.accelerating && status.enabled);
    assert_eq!(status.degraded, [broken()]);
    assert!(
        bench.agent.functions()[0]
            .reason
            .as_deref()
            .unwrap()
            .contains("byte 5")
    );
    bench.restart_broken();
    assert_eq!((enabled(&bench), bench.agent.enabled()), (0, true));
    bench.restart();
    assert_eq!((enabled(&bench), bench.agent.enabled()), (1, true));
    assert!(bench.agent.status().accelerating);
    // The switch thrown on the pins, while no agent lived.
    bench.fake.world().config.enabled = 0;
    bench.restart();
    assert!(!bench.agent.enabled());
}

#[test]
fn a_kernel_that_passes_later_is_used_from_then_on() {
    for without_plane in [false, true] {
        let mut bench = Bench::new();
        bench.register("kept", 7, &["10.2.0.1"]);
        bench.restart_broken();
        if without_plane {
            bench.agent.close_plane();
        }
        assert!(bench.agent.lacks_kernel());
        assert_ne!(bench.agent.has_plane(), without_plane);
        bench.register("new", 8, &["10.2.0.2"]);
        bench.agent.close_plane();
        bench.agent.adopt(kernel(&bench.fake, vec![broken()]));
        assert!(bench.agent.lacks_kernel() && !bench.agent.status().accelerating);
        bench.agent.close_plane();
        bench.agent.adopt(kernel(&bench.fake, Vec::new()));
        bench.check();
        assert!(!bench.agent.lacks_kernel());
        let status = bench.agent.status();
        assert!(status.accelerating);
        assert_eq!(status.degraded, []);
        assert_eq!(bench.fake.world().config.enabled, 1);
        assert_eq!(bench.ids(), [1, 2]);
        assert!(
            bench
                .agent
                .functions()
                .iter()
                .all(|function| function.accelerated)
        );
    }
    // Nothing comes back into the kernel of who was told to take it out.
    let mut bench = Bench::new();
    bench.agent.unload().unwrap();
    assert!(!bench.agent.has_plane() && !bench.agent.lacks_kernel());
}

#[test]
fn a_plane_that_cannot_be_held_off_is_not_used() {
    let mut bench = Bench::new();
    bench.register("echo", 7, &[]);
    bench.fake.world().attached.clear();
    bench.fake.world().refuse_reads = true;
    bench.restart_broken();
    assert!(bench.fake.world().attached.is_empty());
    assert!(!bench.agent.functions()[0].accelerated);
    assert!(!bench.agent.status().accelerating);
}

/// Functions that are vouched for are redirected to all the same.
#[test]
fn a_kernel_that_does_not_tell_of_readers_is_not_held_off() {
    let mut bench = Bench::new();
    let unseen = Degradation {
        reason: READERS.to_owned(),
        ..broken()
    };
    bench.agent = Bench::start(&bench.fake, bench.dir.path(), vec![unseen.clone()]);
    assert!(bench.register("echo", 8, &[]).accelerated);
    let status = bench.agent.status();
    assert!(status.accelerating);
    assert_eq!(status.degraded, [unseen]);
    assert_eq!(bench.fake.world().config.enabled, 1);
}

#[test]
fn without_a_plane_the_agent_still_answers() {
    let mut bench = Bench::new();
    bench.register("kept", 7, &[]);
    let kernel = Kernel {
        plane: None,
        probes: vec![("load", false)],
        degraded: vec![broken()],
        held_off: true,
    };
    let store = Store::new(&bench.dir.path().join("state"));
    bench.agent = Agent::new(kernel, settings(), bench.fake.host(), store);
    assert_eq!(bench.ids(), [1]);
    let registered = bench.register("echo", 8, &["10.2.0.2"]);
    assert!(!registered.accelerated);
    assert!(registered.reason.unwrap().contains("byte 5"));
    let status = bench.agent.status();
    assert!(!status.accelerating);
    assert_eq!(status.degraded, [broken()]);
    assert_eq!(status.queue_measure, None);
    assert!(bench.agent.flows().is_empty());
    assert_eq!(bench.agent.explain("echo", "10.2.0.2").unwrap().path, "network");
    bench.agent.set_enabled(false).unwrap();
    bench.agent.sweep_functions();
    bench.agent.sweep_plane();
    bench.agent.drain_events();
    bench.agent.unregister(2).unwrap();
    bench.restart();
    bench.check();
    assert_eq!(bench.ids(), [1]);
    assert!(!bench.agent.enabled(), "told to an agent without a plane");
}

#[test]
fn counters_are_sums_over_open_and_closed_and_never_fall() {
    let mut bench = Bench::new();
    bench.register("a", 7, &[]);
    bench.register("b", 8, &[]);
    let counters = |bytes| Counters {
        redirect_bytes: bytes,
        redirect_messages: 1,
        ..Counters::default()
    };
    let open = Flow {
        function: 1,
        peer_function: 2,
        sent: counters(100),
        ..Flow::default()
    };
    bench.fake.world().flows.push(open);
    let closed = TrafficEntry {
        sent: counters(10),
        connections: 1,
        ..TrafficEntry::EMPTY
    };
    bench
        .fake
        .world()
        .traffic
        .insert(TrafficKey { src: 1, dst: 2 }, closed);
    assert_eq!(bench.agent.status().traffic.redirect_bytes, 110);
    assert_eq!(bench.agent.status().traffic.connections, 2);
    let functions = bench.agent.functions();
    assert_eq!(
        (functions[0].sent.redirect_bytes, functions[1].sent.redirect_bytes),
        (110, 0)
    );
    // Missed between the two reads: neither sum nor flow.
    bench.fake.world().flows.clear();
    assert_eq!(bench.agent.snapshot().totals.traffic.redirect_bytes, 110);
    assert_eq!(bench.agent.functions()[0].sent.redirect_bytes, 110);
    let closed = TrafficEntry {
        sent: counters(150),
        connections: 2,
        ..TrafficEntry::EMPTY
    };
    bench
        .fake
        .world()
        .traffic
        .insert(TrafficKey { src: 1, dst: 2 }, closed);
    bench.fake.world().lost_events = 3;
    let snapshot = bench.agent.snapshot();
    assert_eq!(
        (snapshot.totals.traffic.redirect_bytes, snapshot.lost_events),
        (150, 3)
    );
    bench.fake.world().refuse_reads = true;
    assert_eq!(bench.agent.snapshot().lost_events, 3);
    let status = bench.agent.status();
    assert_eq!(status.traffic.redirect_bytes, 150);
    assert_eq!(status.degraded[0].reason, "kernel_maps");
    bench.fake.world().refuse_reads = false;
    assert!(bench.agent.status().degraded.is_empty());
}

#[test]
fn status_names_full_maps_and_foreign_owners() {
    let mut bench = Bench::new();
    let full = |name: &str| MapUsage {
        name: name.to_owned(),
        entries: 9,
        capacity: 9,
    };
    bench.fake.world().usage = vec![full("sockets"), full("learned")];
    let mut entry = TrafficEntry::EMPTY;
    entry.fallbacks[Reason::SocketBusy.index()] = 3;
    bench
        .fake
        .world()
        .traffic
        .insert(TrafficKey { src: 1, dst: 0 }, entry);
    let reasons: Vec<_> = bench
        .agent
        .status()
        .degraded
        .into_iter()
        .map(|found| found.reason)
        .collect();
    assert_eq!(reasons, ["map_full", "socket_busy"]);
    assert_eq!(
        bench.agent.status().fallbacks,
        [("socket_busy".to_owned(), 3)].into()
    );
}

#[test]
fn flows_and_events_carry_names() {
    let mut bench = Bench::new();
    bench.register("a", 7, &[]);
    let local_addr = "::ffff:10.2.0.2".parse::<std::net::Ipv6Addr>().unwrap().octets();
    bench.fake.world().flows.push(Flow {
        cookie: 5,
        function: 1,
        peer_function: 9,
        state: 1,
        local_addr,
        local_port: 1234,
        ..Flow::default()
    });
    let flows = bench.agent.flows();
    assert_eq!(
        (flows[0].src.as_str(), flows[0].dst.as_deref()),
        ("default/a", Some("#9"))
    );
    assert_eq!(
        (flows[0].path.as_str(), flows[0].reason.as_deref()),
        ("kernel", None)
    );
    assert_eq!(flows[0].local, "10.2.0.2:1234".parse().unwrap());
    {
        let mut world = bench.fake.world();
        let flow = &mut world.flows[0];
        flow.state = 0;
        flow.reason = Reason::Budget as u32;
    }
    assert_eq!(bench.agent.flows()[0].reason.as_deref(), Some("nothing_sent"));
    bench.fake.world().flows[0].sent.tcp_messages = 1;
    assert_eq!(bench.agent.flows()[0].reason.as_deref(), Some("budget"));

    let sent = Counters {
        tcp_bytes: 8,
        ..Counters::default()
    };
    let closed = Event {
        kind: EventKind::Closed as u32,
        function: 1,
        sent,
        ..Event::default()
    };
    let left = Event {
        kind: EventKind::LeftToTcp as u32,
        reason: 6,
        function: 1,
        ..Event::default()
    };
    bench.fake.world().events.extend([closed, left]);
    bench.agent.drain_events();
    let events = bench.agent.events(0);
    assert_eq!(events.next, 2);
    assert_eq!(
        (events.events[0].kind.as_str(), events.events[0].sent.tcp_bytes),
        ("closed", 8)
    );
    assert_eq!(events.events[1].reason.as_deref(), Some("socket_busy"));
    assert!(bench.agent.events(2).events.is_empty());
}

#[test]
fn unload_takes_the_plane_out() {
    let mut bench = Bench::new();
    bench.register("a", 7, &[]);
    bench.agent.unload().unwrap();
    assert!(bench.fake.world().unloaded);
    assert!(!bench.agent.status().accelerating);
}

#[test]
fn explain_follows_the_programs() {
    let mut bench = Bench::new();
    bench.register("a", 7, &["10.2.0.2"]);
    bench.register("b", 8, &["10.2.0.3", "fd00::3"]);
    bench.register("twin1", 9, &["10.2.0.9"]);
    bench.register("twin2", 10, &["10.2.0.9"]);
    bench.fake.world().refuse_attach.push("/cg/cwasi/c".into());
    bench.register("c", 11, &["10.2.0.4"]);
    let path = |bench: &Bench, src: &str, dst: &str| {
        let explanation = bench.agent.explain(src, dst).unwrap();
        assert!(!explanation.steps.is_empty());
        explanation.path
    };
    let steps = bench.agent.explain("a", "b").unwrap().steps.join("\n");
    assert_eq!(steps.matches("must be non-blocking").count(), 2, "{steps}");
    assert_eq!(steps.matches("level-triggered").count(), 2, "{steps}");
    for (src, dst, expected) in [
        ("a", "10.2.0.3", "kernel"),
        ("default/a", "10.2.0.3:80", "kernel"),
        ("10.2.0.2", "b", "kernel"),
        ("a", "::ffff:10.2.0.3", "kernel"),
        ("a", "[fd00::3]:80", "kernel"),
        ("a", "10.2.0.9", "depends"),
        ("a", "10.97.0.1:80", "depends"),
        ("a", "10.1.0.77", "depends"),
        ("a", "127.0.0.1:80", "depends"),
        ("a", "10.2.0.4", "network"),
        ("c", "10.2.0.3", "network"),
        ("a", "192.0.2.1:443", "network"),
        ("192.0.2.1", "b", "network"),
    ] {
        assert_eq!(path(&bench, src, dst), expected, "{src} to {dst}");
    }
    let explanation = bench.agent.explain("a", "10.97.0.1:80").unwrap();
    assert_eq!(explanation.matched, Some("10.96.0.0/12".parse().unwrap()));
    assert_eq!(
        bench.agent.explain("nobody", "b").unwrap_err().code,
        ErrorCode::NotFound
    );
    assert_eq!(
        bench.agent.explain("a", "nobody").unwrap_err().code,
        ErrorCode::NotFound
    );
    assert_eq!(
        bench.agent.explain("other/a", "b").unwrap_err().code,
        ErrorCode::NotFound
    );

    let addr = "::ffff:10.2.0.3".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let record = Record {
        connections: 10,
        skipped: 0,
        balance: -5,
    };
    bench.fake.world().learned.insert(
        Destination {
            addr,
            function: 1,
            port: 80,
        },
        record,
    );
    assert_eq!(path(&bench, "a", "10.2.0.3:80"), "network");
    assert_eq!(path(&bench, "a", "10.2.0.3:81"), "kernel");
    bench.fake.world().config.learn = 0;
    assert_eq!(path(&bench, "a", "10.2.0.3:80"), "kernel");
    bench.agent.set_enabled(false).unwrap();
    let explanation = bench.agent.explain("a", "b").unwrap();
    assert_eq!(explanation.path, "network");
    assert!(explanation.steps.last().unwrap().contains("switched off"));
}

/// Something that happens to an agent and its node.
#[derive(Clone, Debug)]
enum Happening {
    Register { cgroup: u64, addresses: Vec<u8> },
    Unregister { id: u32 },
    UnregisterCgroup { cgroup: u64 },
    CgroupGone { cgroup: u64 },
    LauncherDies,
    Empties { cgroup: u64 },
    Sweep,
    Restart { broken: bool },
    RefuseAttach { cgroup: u64 },
    Switch { on: bool },
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::{
        CgroupGone, Empties, LauncherDies, RefuseAttach, Register, Restart, Sweep, Switch, Unregister,
        UnregisterCgroup,
    };
    prop_oneof![
        4 => (0_u64..5, prop::collection::vec(0_u8..4, 0..3))
            .prop_map(|(cgroup, addresses)| Register { cgroup, addresses }),
        2 => (1_u32..8).prop_map(|id| Unregister { id }),
        1 => (0_u64..5).prop_map(|cgroup| UnregisterCgroup { cgroup }),
        1 => (0_u64..5).prop_map(|cgroup| CgroupGone { cgroup }),
        1 => Just(LauncherDies),
        1 => (0_u64..5).prop_map(|cgroup| Empties { cgroup }),
        2 => Just(Sweep),
        2 => any::<bool>().prop_map(|broken| Restart { broken }),
        1 => (0_u64..5).prop_map(|cgroup| RefuseAttach { cgroup }),
        1 => any::<bool>().prop_map(|on| Switch { on }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever happens, plane, state and state directory say the same, and ids are never used for two cgroups.
    #[test]
    fn plane_and_state_stay_equal(happenings in prop::collection::vec(happening(), 1..25)) {
        let mut bench = Bench::new();
        let mut given: BTreeMap<u32, u64> = BTreeMap::new();
        let mut wanted = true;
        let mut broken = false;
        let mut generation = 0;
        for happening in happenings {
            match happening {
                Happening::Register { cgroup, addresses } => {
                    let addresses: HashSet<String> = addresses.iter().map(|host| format!("10.2.0.{host}")).collect();
                    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
                    bench.fake.world().processes.insert(100, 5);
                    let name = format!("f{cgroup}");
                    let path = PathBuf::from(format!("/cg/cwasi/{name}"));
                    // A cgroup directory that was removed comes back under another id.
                    let before = bench.fake.world().cgroups.get(&path).map(|(id, _)| *id);
                    generation += 1;
                    let inode = before.unwrap_or(cgroup + 100 * generation);
                    let registered = bench.register(&name, inode, &addresses);
                    prop_assert_eq!(*given.entry(registered.id).or_insert(inode), inode);
                    prop_assert_eq!(registered.accelerated, registered.reason.is_none());
                    // The cgroup's id before, if any, is gone with its directory.
                    bench.agent.sweep_functions();
                }
                Happening::Unregister { id } => {
                    let known = bench.ids().contains(&id);
                    prop_assert_eq!(bench.agent.unregister(id).is_ok(), known);
                }
                Happening::UnregisterCgroup { cgroup } => {
                    let path = PathBuf::from(format!("/cg/cwasi/f{cgroup}"));
                    bench.agent.unregister_cgroup(&path).unwrap();
                    prop_assert!(!bench.agent.is_function(&path));
                }
                Happening::CgroupGone { cgroup } => {
                    let path = PathBuf::from(format!("/cg/cwasi/f{cgroup}"));
                    bench.fake.world().cgroups.remove(&path);
                    bench.agent.sweep_functions();
                }
                Happening::LauncherDies => bench.fake.world().processes.clear(),
                Happening::Empties { cgroup } => {
                    let path = PathBuf::from(format!("/cg/cwasi/f{cgroup}"));
                    if let Some((_, processes)) = bench.fake.world().cgroups.get_mut(&path) {
                        *processes = 0;
                    }
                }
                Happening::Sweep => bench.agent.sweep_functions(),
                Happening::Restart { broken: fails } => {
                    broken = fails;
                    if fails { bench.restart_broken() } else { bench.restart() }
                }
                Happening::RefuseAttach { cgroup } => {
                    let path = PathBuf::from(format!("/cg/cwasi/f{cgroup}"));
                    let mut world = bench.fake.world();
                    if !world.attached.keys().any(|id| world.cgroups.get(&path).is_some_and(|(at, _)| at == id)) {
                        world.refuse_attach.push(path);
                    }
                }
                Happening::Switch { on } => {
                    wanted = on;
                    bench.agent.set_enabled(on).unwrap();
                }
            }
            bench.check();
            prop_assert_eq!(bench.agent.enabled(), wanted);
            prop_assert_eq!(bench.fake.world().config.enabled != 0, wanted && !broken);
        }
    }
}
