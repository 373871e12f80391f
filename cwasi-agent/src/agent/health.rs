//! What keeps the data plane from working as it should, each with its remedy.

use std::time::{Duration, Instant};

use cwasi_client::protocol::{Degradation, MapUsage};
use cwasi_ebpf_common::reason::{REASONS, Reason};

use super::{Agent, Totals};
use crate::kernel::readers::READERS;
use crate::run::LOAD;

/// How long a refusal of the kernel counts as one of now.
pub const RECENT: Duration = Duration::from_secs(300);

const STATE_DIR: &str = "state_dir";
const ATTACH: &str = "attach";
const LOCALITY: &str = "locality";
const KERNEL_MAPS: &str = "kernel_maps";
const MAP_FULL: &str = "map_full";

/// Every reason for which an agent may be degraded: what its start finds, what keeps it from its work, what the kernel refuses.
pub const DEGRADATIONS: [&str; 16] = [
    "self_test_redirect",
    "self_test_queue_charged",
    "self_test_order_across_spill",
    "self_test_eof_after_data",
    "self_test_unaccepted_removed",
    LOAD,
    READERS,
    STATE_DIR,
    ATTACH,
    LOCALITY,
    KERNEL_MAPS,
    MAP_FULL,
    Reason::SocketBusy.label(),
    Reason::SockhashFull.label(),
    Reason::FlowsFull.label(),
    Reason::SocketRefused.label(),
];

/// Maps that nothing makes room in: one that is full leaves connections on TCP.
const BOUNDED: [&str; 5] = ["functions", "locality", "pairs", "sockets", "flows"];

/// Refusals that an operator can do something about.
const ALARMING: [(Reason, &str); 4] = [
    (
        Reason::SocketBusy,
        "another sk_msg owner (Cilium before 1.14 with sockops, OBI or Beyla) holds these sockets: keep one of the two away from the functions' cgroups",
    ),
    (
        Reason::SockhashFull,
        "close connections: the node has more enrolled sockets than fit",
    ),
    (
        Reason::FlowsFull,
        "close connections: the node has more enrolled sockets than fit",
    ),
    (
        Reason::SocketRefused,
        "see the kernel's log, and run `cwasi-agent probe`",
    ),
];

/// Remembers when the kernel last refused a connection.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    seen: [u64; REASONS],
    when: [Option<(Instant, u64)>; REASONS],
}

impl Recent {
    /// Counts from these totals on.
    pub(super) fn since(totals: &Totals) -> Self {
        Self {
            seen: totals.fallbacks(),
            ..Self::default()
        }
    }

    /// Takes note of new refusals.
    pub(super) fn note(&mut self, totals: &Totals, now: Instant) {
        for ((seen, when), total) in self.seen.iter_mut().zip(&mut self.when).zip(totals.fallbacks()) {
            if total > *seen {
                *when = Some((now, total));
                *seen = total;
            }
        }
    }

    fn degradations(&self, now: Instant) -> impl Iterator<Item = Degradation> {
        ALARMING.iter().filter_map(move |(reason, remedy)| {
            let (when, total) = self.when[reason.index()]?;
            let age = now.saturating_duration_since(when);
            (age < RECENT).then(|| Degradation {
                reason: reason.label().to_owned(),
                detail: format!(
                    "{total} connections were left to TCP, the last {} s ago",
                    age.as_secs()
                ),
                remedy: (*remedy).to_owned(),
            })
        })
    }
}

impl Agent {
    /// Everything that is wrong now, given the fill of the maps.
    pub(super) fn degradations(&self, maps: &[MapUsage]) -> Vec<Degradation> {
        let mut found = self.kernel_degraded.clone();
        let mut add = |reason: &str, detail: String, remedy: &str| {
            found.push(Degradation {
                reason: reason.to_owned(),
                detail,
                remedy: remedy.to_owned(),
            });
        };
        if let Some(detail) = &self.unsaved {
            let remedy =
                "make the directory writable, or give --state-dir: a restart forgets functions until then";
            add(STATE_DIR, detail.clone(), remedy);
        }
        let failed = || {
            self.functions
                .values()
                .filter_map(|entry| Some((entry, entry.attach_error.as_ref()?)))
        };
        if let Some((entry, error)) = failed().next() {
            let detail = format!(
                "{} functions, {} for one: {error}",
                failed().count(),
                entry.title()
            );
            add(
                ATTACH,
                detail,
                "their connections stay on TCP; the agent tries again every few seconds",
            );
        }
        if self.stale_localities {
            let detail = "the kernel's prefixes of this node are not up to date".to_owned();
            add(
                LOCALITY,
                detail,
                "see the agent's log; the agent tries again every few seconds",
            );
        }
        if let Some(detail) = &self.unread {
            add(
                KERNEL_MAPS,
                detail.clone(),
                "see the agent's log; restart the agent",
            );
        }
        for map in maps
            .iter()
            .filter(|map| BOUNDED.contains(&map.name.as_str()) && map.entries >= map.capacity)
        {
            let detail = format!(
                "map {} holds {} of {} entries",
                map.name, map.entries, map.capacity
            );
            add(
                MAP_FULL,
                detail,
                "new connections stay on TCP until old ones are closed",
            );
        }
        found.extend(self.recent.degradations(Instant::now()));
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::selftest::CHECKS;

    #[test]
    fn every_reason_is_in_the_list() {
        let checks = CHECKS.map(|check| format!("self_test_{check}"));
        assert_eq!(DEGRADATIONS[..CHECKS.len()], checks);
        let refusals = ALARMING.map(|(reason, _)| reason.label());
        assert_eq!(DEGRADATIONS[DEGRADATIONS.len() - ALARMING.len()..], refusals);
    }

    #[test]
    fn every_reason_has_its_heading_in_the_documentation() {
        let page = include_str!("../../../docs/reasons.md");
        let mut headings: Vec<&str> = page
            .lines()
            .filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'))
            .collect();
        let mut reasons = [&DEGRADATIONS[..], &Reason::ALL.map(Reason::label)].concat();
        headings.sort_unstable();
        reasons.sort_unstable();
        reasons.dedup();
        assert_eq!(headings, reasons);
    }

    #[test]
    fn a_refusal_is_forgotten_after_a_while() {
        let mut totals = Totals::default();
        totals.at_enrolment[Reason::SocketBusy.index()] = 7;
        let mut recent = Recent::since(&totals);
        let start = Instant::now();
        recent.note(&totals, start);
        assert_eq!(recent.degradations(start).count(), 0, "before this agent");
        totals.at_enrolment[Reason::SocketBusy.index()] = 9;
        totals.at_enrolment[Reason::Remote.index()] = 9;
        recent.note(&totals, start);
        let found: Vec<_> = recent.degradations(start + Duration::from_secs(9)).collect();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].reason, "socket_busy");
        assert_eq!(
            found[0].detail,
            "9 connections were left to TCP, the last 9 s ago"
        );
        assert_eq!(recent.degradations(start + RECENT).count(), 0);
    }
}
