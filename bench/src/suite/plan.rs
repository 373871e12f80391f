//! Which workloads run, with which peers, and about how long it takes.

use std::time::Duration;

use super::peer::{Carrier, Host, Peer};
use super::workload::{Group, Kind, Route, Workload};
use crate::compare::Cpus;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const MB: u64 = 1_000_000;

/// Sizes of messages.
const RTT: [u64; 7] = [64, KIB, 16 * KIB, 64 * KIB, MIB, 10 * MB, 100 * MB];

/// Sizes of writes.
const STREAM: [u64; 8] = [64, 256, KIB, 16 * KIB, 64 * KIB, MIB, 10 * MB, 100 * MB];

/// Sizes of a quick run: those of the goals.
const QUICK: [u64; 3] = [64, 64 * KIB, MIB];

/// Sizes without NODELAY: where it makes a difference, and some more.
const NODELAY_RTT: [u64; 4] = [64, KIB, 64 * KIB, MIB];
const NODELAY_STREAM: [u64; 5] = [64, 256, KIB, 16 * KIB, 64 * KIB];

/// Messages of the published tables.
const TRANSFER: [u64; 3] = [2 * MB, 10 * MB, 100 * MB];

/// Functions on the side of the many, with messages of 2 MB; and with larger ones.
const DEGREES: [u16; 5] = [1, 2, 4, 8, 16];
const DEGREE_OF_LARGE: u16 = 4;

/// Connections at the same time.
const CONNECTIONS: [u16; 4] = [1, 4, 16, 64];

/// What a run costs beside the time in which it measures: starts, ends, and waiting for a port.
const OVERHEAD: Duration = Duration::from_millis(150);

/// How thoroughly a suite measures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Rounds that count.
    pub rounds: usize,
    /// What a run should take.
    pub run: Duration,
    /// Whether sizes are left out.
    pub quick: bool,
}

impl Scale {
    /// Five rounds of every size.
    pub const FULL: Self = Self {
        rounds: 5,
        run: Duration::from_millis(300),
        quick: false,
    };

    /// Two short rounds of the goals' sizes.
    pub const QUICK: Self = Self {
        rounds: 2,
        run: Duration::from_millis(100),
        quick: true,
    };
}

/// A workload and the peers that run it in each round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is run.
    pub workload: Workload,
    /// By whom.
    pub peers: Vec<Peer>,
}

/// The workloads of the groups, each with those of `peers` that have a part in it.
#[must_use]
pub fn plan(groups: &[Group], peers: &[Peer], quick: bool) -> Vec<Entry> {
    let workloads = groups.iter().flat_map(|group| group.workloads(quick));
    let entries = workloads.map(|workload| Entry {
        workload,
        peers: peers
            .iter()
            .copied()
            .filter(|peer| workload.group.includes(*peer))
            .collect(),
    });
    entries.filter(|entry| !entry.peers.is_empty()).collect()
}

/// Functions on the side of the many, at most.
#[must_use]
pub fn most_functions(plan: &[Entry]) -> u16 {
    let functions = plan
        .iter()
        .map(|entry| entry.workload.servers().max(entry.workload.clients()));
    functions.max().unwrap_or(1)
}

/// About how long a plan takes, its first round included.
#[must_use]
pub fn estimate(plan: &[Entry], scale: Scale) -> Duration {
    let runs = u32::try_from(plan.iter().map(|entry| entry.peers.len()).sum::<usize>()).unwrap_or(u32::MAX);
    let rounds = u32::try_from(scale.rounds).unwrap_or(u32::MAX);
    // The first round's amounts are guesses that take less.
    (scale.run + OVERHEAD) * runs * rounds + (scale.run / 2 + OVERHEAD) * runs
}

impl Group {
    fn workloads(self, quick: bool) -> Vec<Workload> {
        let sizes = |full: &'static [u64]| if quick { &QUICK[..] } else { full };
        let each = |kind, sizes: &[u64]| -> Vec<Workload> {
            sizes
                .iter()
                .map(|size| Workload::new(self, kind, *size))
                .collect()
        };
        match self {
            Self::Rtt => each(Kind::Rtt, sizes(&RTT)),
            Self::Stream => each(Kind::Stream, sizes(&STREAM)),
            Self::Nodelay => {
                let both = [
                    each(Kind::Rtt, sizes(&NODELAY_RTT)),
                    each(Kind::Stream, sizes(&NODELAY_STREAM)),
                ];
                let without = |workload| Workload {
                    nodelay: false,
                    ..workload
                };
                both.into_iter().flatten().map(without).collect()
            }
            Self::Cpus => [Cpus::Apart, Cpus::Together]
                .map(|cpus| Workload {
                    cpus: Some(cpus),
                    ..Workload::new(self, Kind::Rtt, 64)
                })
                .to_vec(),
            Self::Transfer => each(Kind::Transfer, if quick { &TRANSFER[..1] } else { &TRANSFER }),
            Self::FanOut => self.many(Kind::FanOut, quick),
            Self::FanIn => self.many(Kind::FanIn, quick),
            Self::Connections => {
                let degrees = if quick { &CONNECTIONS[1..2] } else { &CONNECTIONS };
                degrees
                    .iter()
                    .map(|degree| Workload::new(self, Kind::Connections, 64).times(*degree))
                    .collect()
            }
            Self::Connect => each(Kind::Connect, &[64]),
            Self::Service => self.by(Route::Service),
            Self::Remote => self.by(Route::Remote),
            Self::Start => each(Kind::Start, &[8]),
            // Run by another program.
            Self::Containerd => Vec::new(),
        }
    }

    fn many(self, kind: Kind, quick: bool) -> Vec<Workload> {
        let of = |size, degree| Workload::new(self, kind, size).times(degree);
        if quick {
            return vec![of(TRANSFER[0], DEGREE_OF_LARGE)];
        }
        let small = DEGREES.map(|degree| of(TRANSFER[0], degree));
        let large = TRANSFER[1..].iter().map(|size| of(*size, DEGREE_OF_LARGE));
        small.into_iter().chain(large).collect()
    }

    fn by(self, route: Route) -> Vec<Workload> {
        let kinds = [(Kind::Rtt, 64), (Kind::Rtt, 64 * KIB), (Kind::Stream, 64 * KIB)];
        kinds
            .map(|(kind, size)| Workload {
                route,
                ..Workload::new(self, kind, size)
            })
            .to_vec()
    }

    /// Whether a peer has a part in the group.
    fn includes(self, peer: Peer) -> bool {
        match self {
            // Redis and HTTP are for handing messages over.
            _ if peer.carrier() != Carrier::Connection => self == Self::Transfer,
            // WASI 0.2 has no such option.
            Self::Nodelay => !peer.is_wasm() && peer != Peer::Unix,
            // Of pods only.
            Self::Service | Self::Remote => !matches!(peer, Peer::Process | Peer::Unix),
            // The program in C has one connection at a time.
            Self::FanOut | Self::FanIn | Self::Connections | Self::Connect => peer.host() != Host::C,
            Self::Start => matches!(peer, Peer::Stock | Peer::Off | Peer::Kernel | Peer::Rust),
            _ => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum;

    use super::*;

    #[test]
    fn workloads_differ_and_have_names_of_their_own() {
        for quick in [false, true] {
            let plan = plan(Group::value_variants(), &Peer::ALL, quick);
            let workloads: BTreeSet<_> = plan.iter().map(|entry| entry.workload).collect();
            let names: BTreeSet<_> = plan.iter().map(|entry| entry.workload.name()).collect();
            assert_eq!((workloads.len(), names.len()), (plan.len(), plan.len()));
        }
    }

    #[test]
    fn guests_have_no_part_where_programs_decide() {
        let plan = plan(&[Group::Nodelay], &Peer::ALL, true);
        assert_eq!(plan.len(), 6);
        let native = |entry: &Entry| entry.peers.iter().all(|peer| !peer.is_wasm());
        assert!(plan.iter().all(native));
        assert!(super::plan(&[Group::Nodelay], &[Peer::Stock], true).is_empty());
    }

    #[test]
    fn everything_takes_minutes() {
        let all = |scale: Scale| {
            let plan = plan(Group::value_variants(), &Peer::ALL, scale.quick);
            estimate(&plan, scale)
        };
        assert!(all(Scale::FULL) < Duration::from_secs(25 * 60));
        assert!(all(Scale::QUICK) < Duration::from_secs(4 * 60));
    }
}
