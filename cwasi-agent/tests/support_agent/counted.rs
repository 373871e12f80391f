//! What an agent counts, which may never fall.

use std::collections::BTreeMap;

use super::agent::Agent;

/// Everything that is counted, by name.
pub fn counted(agent: &Agent) -> BTreeMap<String, u64> {
    let mut counted = agent.counters();
    for function in agent.functions() {
        let sent = function.sent;
        let each = [
            ("redirect_messages", sent.redirect_messages),
            ("redirect_bytes", sent.redirect_bytes),
            ("tcp_messages", sent.tcp_messages),
            ("tcp_bytes", sent.tcp_bytes),
            ("to_redirect", sent.to_redirect),
            ("to_tcp", sent.to_tcp),
            ("connections", sent.connections),
            ("process_messages", sent.process_messages),
        ];
        counted.extend(each.map(|(name, value)| (format!("{} {name}", function.spec.name), value)));
    }
    assert!(counted.len() > 20, "{counted:?}");
    counted
}

/// Fails the test when a counter is less than it was.
#[track_caller]
pub fn never_less(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) {
    for (name, before) in before {
        assert!(
            after.get(name) >= Some(before),
            "{name}: {before}, then {:?}",
            after.get(name)
        );
    }
}
