//! Order and flow control under stress: thousands of changes of path, and readers that do not read.

mod support;

use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cwasi_agent::kernel::selftest;
use cwasi_ebpf_common::maps::{Config, Counters};
use cwasi_ebpf_common::offsets::QueueMeasure;
use cwasi_ebpf_common::reason::Reason;
use support::duplex::{Duplex, Manner};
use support::netns::{Bridged, veth};
use support::node::Node;
use support::pod::{Pod, connect, pair};
use support::stream::Line;

/// Connections of a stress test, 50 at full effort; both directions of each are in use.
fn number_of_connections() -> u64 {
    u64::from(support::effort().div_ceil(2))
}

/// What a stress test did.
struct Done {
    bytes: u64,
    sums: [Counters; 2],
}

impl Done {
    fn transitions(&self) -> u64 {
        self.sums.iter().map(|sum| sum.to_redirect + sum.to_tcp).sum()
    }

    fn redirected(&self) -> u64 {
        self.sums.iter().map(|sum| sum.redirect_bytes).sum()
    }
}

/// How a test stresses.
struct Stress {
    name: String,
    budget: u32,
    manner: Manner,
    /// Least time for which the connections are disturbed, at full effort.
    length: Duration,
    /// Least number of changes of path, at full effort, however long they take.
    transitions: u64,
}

/// Changes of path of open connections.
fn transitions(node: &Node) -> u64 {
    let flows = node.flows();
    flows
        .iter()
        .map(|flow| flow.sent.to_redirect + flow.sent.to_tcp)
        .sum()
}

/// Talks on many connections for a while, with `disturb` called again and again, then ends them all.
fn stress(node: Node, stress: Stress, disturb: impl Fn(&Node, &mut fastrand::Rng)) -> Done {
    let Stress {
        name, budget, manner, ..
    } = stress;
    let [here, there] = veth();
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.configure(|config| config.budget = budget);
    let listener = server.listen((Bridged::v4(1), 0));
    let address = listener.local_addr().unwrap();
    let connections = (0..number_of_connections())
        .map(|_| connect(&client, &listener, address))
        .collect();
    let seed = support::seed(&name);
    let duplex = Duplex::start(connections, seed, manner);
    let mut random = fastrand::Rng::with_seed(seed);
    let end = Instant::now() + stress.length * support::effort() / 100;
    while Instant::now() < end {
        disturb(&node, &mut random);
    }
    let wanted = stress.transitions * u64::from(support::effort()) / 100;
    support::eventually(&format!("{wanted} changes of path"), || {
        disturb(&node, &mut random);
        transitions(&node) >= wanted
    });
    duplex.goes_on();
    let bytes = duplex.finish();
    node.settles();
    let sums = [(client.id, server.id), (server.id, client.id)].map(|(src, dst)| {
        let traffic = node.traffic(src, dst);
        assert_eq!(traffic.connections, number_of_connections());
        traffic.sent
    });
    let done = Done { bytes, sums };
    eprintln!(
        "{name}: {} transitions, {} MiB, {} % redirected",
        done.transitions(),
        bytes >> 20,
        100 * done.redirected() / bytes
    );
    // What a refused sender offers again is counted again: more than all is possible, less is not.
    assert!(
        done.sums
            .iter()
            .map(|sum| sum.redirect_bytes + sum.tcp_bytes)
            .sum::<u64>()
            >= bytes
    );
    assert!(done.redirected() <= bytes);
    done
}

#[test]
fn thousands_of_transitions_by_the_budget() {
    needs!();
    let done = stress(
        Node::new(),
        Stress {
            name: "thousands_of_transitions_by_the_budget".to_owned(),
            budget: 16 << 10,
            manner: Manner::RESTLESS,
            length: Duration::from_secs(8),
            transitions: 2000,
        },
        |_, _| thread::sleep(Duration::from_millis(50)),
    );
    assert!(
        done.redirected() > done.bytes / 100,
        "{} of {} bytes",
        done.redirected(),
        done.bytes
    );
}

#[test]
fn transitions_at_the_smallest_budget_of_an_agent() {
    needs!();
    let manner = Manner {
        longest: 512 << 10,
        reader_stalls: 4,
        ..Manner::RESTLESS
    };
    let done = stress(
        Node::new(),
        Stress {
            name: "transitions_at_the_smallest_budget_of_an_agent".to_owned(),
            budget: Config::MIN_BUDGET,
            manner,
            length: Duration::from_secs(6),
            transitions: 200,
        },
        |_, _| thread::sleep(Duration::from_millis(50)),
    );
    assert!(
        done.redirected() > done.bytes / 100,
        "{} of {} bytes",
        done.redirected(),
        done.bytes
    );
}

#[test]
fn thousands_of_transitions_by_the_kill_switch() {
    needs!();
    stress(
        Node::new(),
        Stress {
            name: "thousands_of_transitions_by_the_kill_switch".to_owned(),
            budget: Config::DEFAULT_BUDGET,
            manner: Manner::RESTLESS,
            length: Duration::from_secs(6),
            transitions: 2000,
        },
        |node, random| {
            node.configure(|config| config.enabled ^= 1);
            thread::sleep(Duration::from_micros(random.u64(100..20_000)));
        },
    );
}

#[test]
fn transitions_by_budget_and_kill_switch_together() {
    needs!();
    stress(
        Node::new(),
        Stress {
            name: "transitions_by_budget_and_kill_switch_together".to_owned(),
            budget: 64 << 10,
            manner: Manner::RESTLESS,
            length: Duration::from_secs(6),
            transitions: 2000,
        },
        |node, random| {
            node.configure(|config| {
                config.enabled = u32::from(random.u8(..3) != 0);
                config.budget = 1 << random.u32(10..22);
                config.small_streak = random.u32(..64);
            });
            thread::sleep(Duration::from_micros(random.u64(100..20_000)));
        },
    );
}

/// Kernels differ in how the queue can be measured: here are those that this one can, the best of which the others use.
#[test]
fn transitions_with_every_measure() {
    needs!();
    for measure in QueueMeasure::ALL {
        if !selftest::try_measure(measure).iter().all(|check| check.passed) {
            support::probe::skipped(&format!(
                "the queue cannot be measured by {} here",
                measure.label()
            ));
            continue;
        }
        stress(
            Node::with(|options| options.measure = measure),
            Stress {
                name: format!("transitions_with_every_measure, {}", measure.label()),
                budget: 64 << 10,
                manner: Manner::RESTLESS,
                length: Duration::from_secs(3),
                transitions: 500,
            },
            |_, _| thread::sleep(Duration::from_millis(50)),
        );
    }
}

/// Fills the connection until its non-blocking sender is refused.
fn fill(line: &mut Line, stream: &TcpStream, message: usize) {
    /// Far more than TCP's buffers and the budget take together.
    const TOO_MUCH: u64 = 256 << 20;
    let before = line.sent.at;
    loop {
        match line.send_some(stream, message) {
            Ok(_) => assert!(
                line.sent.at - before < TOO_MUCH,
                "an idle reader took {TOO_MUCH} bytes"
            ),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("send to an idle reader: {error}"),
        }
    }
}

fn idle_reader(budget: u32, message: usize) {
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.configure(|config| {
        config.budget = budget;
        // Nothing but the budget may stop redirection here.
        config.small_streak = u32::MAX;
    });
    let (from, to) = pair(&client, &server, Bridged::v4(1));
    let mut line = Line::new(5);
    for round in 0..3 {
        let before = node.flow(&from).sent;
        fill(&mut line, &from, message);
        let after = node.flow(&from).sent;
        let queued = after.redirect_bytes - before.redirect_bytes;
        assert!(queued > 0, "round {round}: {after:?}");
        assert!(
            queued <= u64::from(budget) + message as u64,
            "round {round}: {queued} bytes wait for an idle reader, the budget is {budget}"
        );
        assert_eq!(after.to_tcp, before.to_tcp + 1);
        assert_eq!(node.flow(&from).fallbacks[Reason::Budget.index()], round + 1);
        line.drain(&to);
        support::eventually("redirection resumes when the reader has read", || {
            let redirected = node.flow(&from).sent.to_redirect > after.to_redirect;
            line.send(&from, 100);
            line.drain(&to);
            redirected
        });
    }
}

#[test]
fn an_idle_reader_is_bounded_and_resumes() {
    needs!();
    for message in [1000, 64 << 10, 1 << 20] {
        idle_reader(Config::MIN_BUDGET, message);
    }
}

#[test]
fn an_idle_reader_is_bounded_by_the_default_budget() {
    needs!();
    idle_reader(Config::DEFAULT_BUDGET, 32 << 10);
}

/// A sender that waits in poll is woken when the reader resumes, by either path.
#[test]
fn a_stopped_sender_is_woken() {
    needs!();
    let (node, [here, there]) = (Node::new(), veth());
    let (client, server) = (Pod::enrolled(&node, &here), Pod::enrolled(&node, &there));
    node.configure(|config| config.budget = Config::MIN_BUDGET);
    let (from, to) = pair(&client, &server, Bridged::v4(1));
    let (mut up, mut check) = (Line::new(5), Line::new(5));
    const TOTAL: usize = 64 << 20;
    let done = &AtomicBool::new(false);
    thread::scope(|scope| {
        let from = &from;
        scope.spawn(move || {
            for _ in 0..TOTAL >> 20 {
                up.send(from, 1 << 20);
            }
            done.store(true, Ordering::Relaxed);
        });
        for stop in 1..=4 {
            thread::sleep(Duration::from_millis(300));
            assert!(!done.load(Ordering::Relaxed), "the sender waits for its reader");
            check.expect(&to, TOTAL / 8 * stop / 2);
        }
        check.expect(&to, TOTAL - TOTAL / 8 * (1 + 2 + 3 + 4) / 2);
    });
}
