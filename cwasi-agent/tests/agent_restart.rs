//! Agents die, end, come back and are switched while functions talk: no byte is lost, no connection broken.

mod support;
mod support_agent;

use std::time::Duration;

use cwasi_client::cgroup::Leaf;
use cwasi_client::client::Client;
use cwasi_client::process_report::{FunctionRef, ProcessReport, ProcessTotals};
use cwasi_client::protocol::FunctionSpec;
use support_agent::agent::Agent;
use support_agent::busy::{Busy, ROUNDS};
use support_agent::counted::{counted, never_less};

/// The last byte of every stream has come back, and nothing of the functions stays.
fn finish(busy: Busy, agent: &Agent) {
    let _netns = busy.end();
    assert_eq!(agent.functions(), []);
    support::eventually("no flow stays behind", || agent.flows().is_empty());
}

#[test]
fn what_a_process_told_outlives_a_stop() {
    needs!();
    let agent = Agent::start();
    let leaf = Leaf::create("restart-process").unwrap();
    let client = || Client::connect(&agent.socket()).unwrap();
    let spec = FunctionSpec {
        name: "pod".to_owned(),
        namespace: "default".to_owned(),
        members: vec!["a".to_owned(), "b".to_owned()],
        cgroup: Some(leaf.path().to_owned()),
        ..FunctionSpec::default()
    };
    client().register(&spec).unwrap();
    let report = |messages| ProcessReport {
        totals: ProcessTotals {
            connections: 1,
            messages,
            bytes: 8 * messages,
        },
        open: 1,
        connections: Vec::new(),
    };
    let of = FunctionRef::Cgroup(leaf.path().to_owned());
    client().report_process(&of, &report(5)).unwrap();
    let before = counted(&agent);
    assert_eq!(before["cwasi_messages_total{path=\"process\"}"], 5);
    assert!(agent.terminate().success());
    agent.run();
    never_less(&before, &counted(&agent));
    client().report_process(&of, &report(6)).unwrap();
    let status = agent.status();
    assert_eq!((status.traffic.process_messages, status.flows.process), (6, 1));
}

#[test]
fn a_killed_agent_is_not_missed() {
    needs!();
    let agent = Agent::start();
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    let functions = |agent: &Agent| {
        let functions = agent.functions().into_iter();
        let known = functions.map(|function| {
            (
                function.id,
                function.cgroup_id,
                function.spec,
                function.accelerated,
            )
        });
        known.collect::<Vec<_>>()
    };
    let known = functions(&agent);
    assert_eq!(known.len(), 2);
    for _ in 0..2 {
        let (before, flows) = (counted(&agent), agent.flows());
        agent.kill();
        busy.caller.goes_on();
        // Nobody but the kernel is there to enrol this one.
        let (address, bytes) = busy.caller.talk(ROUNDS);
        agent.run();
        let after = counted(&agent);
        never_less(&before, &after);
        let grown = |name: &str| after[name] - before[name];
        assert_eq!(grown("cwasi_enrolled_ends_total"), 2);
        assert_eq!(functions(&agent), known);
        let now = agent.flows();
        let mut gone_on = false;
        for flow in flows {
            let adopted = now
                .iter()
                .find(|now| now.cookie == flow.cookie)
                .expect("the flow is adopted");
            assert_eq!((&adopted.src, &adopted.dst), (&flow.src, &flow.dst));
            assert!(adopted.sent.redirect_bytes >= flow.sent.redirect_bytes);
            gone_on |= adopted.sent.redirect_bytes > flow.sent.redirect_bytes;
        }
        assert!(gone_on, "redirection goes on without an agent");
        // The connection of meanwhile.
        agent.has_moved(address, bytes);
        busy.new_connection_is_redirected(&agent);
        busy.is_redirected(&agent);
    }
    assert!(agent.output(&["status"]).status.success());
    finish(busy, &agent);
}

/// Each of them dies somewhere on the way from its first system call to a served socket.
#[test]
fn agents_killed_while_they_start() {
    needs!();
    let agent = Agent::start();
    let mut busy = Busy::start(&agent);
    let before = counted(&agent);
    agent.kill();
    let mut random = fastrand::Rng::with_seed(support::seed("agents_killed_while_they_start"));
    let mut dead = Vec::new();
    for _ in 0..6 {
        agent.launch();
        dead.push(agent.pid());
        std::thread::sleep(Duration::from_millis(random.u64(5..300)));
        agent.kill();
        busy.caller.goes_on();
    }
    agent.run();
    assert!(agent.output(&["status"]).status.success());
    support::eventually("no cgroup of their self-tests stays behind", || {
        let selftests = support_agent::leaves("selftest").into_iter();
        let mut pids = selftests.filter_map(|name| name.strip_prefix("selftest-")?.parse().ok());
        pids.all(|pid: u32| !dead.contains(&pid))
    });
    never_less(&before, &counted(&agent));
    busy.is_redirected(&agent);
    busy.new_connection_is_redirected(&agent);
    finish(busy, &agent);
}

/// The new agent's programs take the place of the old ones in their links.
#[test]
fn upgraded_under_load() {
    needs!();
    let agent = Agent::start();
    let mut busy = Busy::start(&agent);
    for _ in 0..3 {
        let before = counted(&agent);
        let links = support_agent::names_in(&agent.pins().join("links"));
        assert_eq!(links.len(), 2);
        assert_eq!(agent.terminate().code(), Some(0));
        assert_eq!(support_agent::names_in(&agent.pins().join("links")), links);
        busy.caller.goes_on();
        agent.run();
        never_less(&before, &counted(&agent));
        busy.is_redirected(&agent);
        busy.new_connection_is_redirected(&agent);
    }
    finish(busy, &agent);
}

#[test]
fn switched_off_and_on_by_the_agent() {
    needs!();
    let agent = Agent::start();
    let mut busy = Busy::start(&agent);
    for _ in 0..2 {
        busy.is_redirected(&agent);
        assert!(agent.succeed(&["disable", "-o", "json"]).contains("\"agent\""));
        is_off(&agent, &mut busy);
        let (address, _) = busy.caller.talk(ROUNDS);
        assert_eq!(agent.flow_of(address), None, "a new connection is plain TCP");
        agent.succeed(&["enable"]);
    }
    busy.is_redirected(&agent);
    finish(busy, &agent);
}

#[test]
fn switched_off_and_on_without_an_agent() {
    needs!();
    let agent = Agent::start();
    let mut busy = Busy::start(&agent);
    busy.is_redirected(&agent);
    agent.kill();
    assert!(agent.succeed(&["disable", "-o", "json"]).contains("\"pins\""));
    busy.caller.goes_on();
    let (address, _) = busy.caller.talk(ROUNDS);
    agent.run();
    assert_eq!(agent.flow_of(address), None, "a new connection is plain TCP");
    is_off(&agent, &mut busy);
    agent.kill();
    assert!(agent.succeed(&["enable", "-o", "json"]).contains("\"pins\""));
    let (address, bytes) = busy.caller.talk(ROUNDS);
    agent.run();
    assert!(agent.status().accelerating);
    agent.has_moved(address, bytes);
    busy.is_redirected(&agent);
    finish(busy, &agent);
}

/// Shows that the streams go on and nothing is redirected.
fn is_off(agent: &Agent, busy: &mut Busy) {
    let status = agent.status();
    assert!(!status.enabled && !status.accelerating);
    // What was on its way when the switch was set may still come.
    support::eventually("switched off is off", || {
        let before = agent.status().traffic.redirect_bytes;
        busy.caller.goes_on();
        agent.status().traffic.redirect_bytes == before
    });
    let flows = agent.flows();
    assert!(!flows.is_empty());
    assert!(flows.iter().all(|flow| flow.path == "network"), "{flows:?}");
}
