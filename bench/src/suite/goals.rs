//! The goals of the project, and whether a run reaches them.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use super::peer::Peer;
use super::results::Results;
use super::table::Table;
use super::workload::{Group, Kind, Metric, Workload};
use crate::report;
use crate::stats::{self, Ratio};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const MB: u64 = 1_000_000;

/// What a measured value has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

/// A goal in the light of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// What is compared with what.
    pub name: String,
    /// What is wanted.
    pub wanted: Bound,
    /// The ratio, or the milliseconds where the goal is of these; none when the run has not what it takes.
    pub measured: Option<Ratio>,
    /// Whether the median is as wanted.
    pub reached: Option<bool>,
    /// What else is to be known of it.
    pub note: String,
}

impl Display for Bound {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(value) => write!(f, "≤ {value}"),
            Self::AtLeast(value) => write!(f, "≥ {value}"),
        }
    }
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Goal {
    fn new(name: impl Into<String>, wanted: Bound, measured: Option<Ratio>) -> Self {
        Self {
            name: name.into(),
            wanted,
            measured,
            reached: measured.map(|ratio| wanted.holds(ratio.median)),
            note: String::new(),
        }
    }

    fn row(&self) -> Vec<String> {
        let measured = self.measured.map_or_else(
            || "not measured".to_owned(),
            |ratio| {
                let [median, low, high] = [ratio.median, ratio.low, ratio.high].map(report::number);
                format!("{median} ({low}–{high})")
            },
        );
        let reached = match self.reached {
            Some(true) => "yes",
            Some(false) => "no",
            None => "–",
        };
        vec![
            self.name.clone(),
            self.wanted.to_string(),
            measured,
            reached.to_owned(),
            self.note.clone(),
        ]
    }
}

/// Every goal.
#[must_use]
pub fn of(results: &Results) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    let rtt = Workload::new(Group::Rtt, Kind::Rtt, 64);
    let stream = |size| Workload::new(Group::Stream, Kind::Stream, size);
    let compare = |name: &str, workload: &Workload, over, under, wanted| {
        Goal::new(name, wanted, results.ratio(workload, over, under))
    };
    vec![
        Goal {
            note: by_processors(results, Peer::Kernel, Peer::Stock),
            ..compare(
                "two pods, round trip 64 B: kernel / stock",
                &rtt,
                Peer::Kernel,
                Peer::Stock,
                AtMost(0.5),
            )
        },
        Goal {
            note: by_processors(results, Peer::Kernel, Peer::CKernel),
            ..compare(
                "two pods, round trip 64 B: kernel / c-kernel",
                &rtt,
                Peer::Kernel,
                Peer::CKernel,
                AtMost(1.5),
            )
        },
        compare(
            "two pods, stream 64 KiB: kernel / stock",
            &stream(64 * KIB),
            Peer::Kernel,
            Peer::Stock,
            AtLeast(1.5),
        ),
        compare(
            "two pods, stream 1 MiB: kernel / stock",
            &stream(MIB),
            Peer::Kernel,
            Peer::Stock,
            AtLeast(1.5),
        ),
        Goal {
            note: by_processors(results, Peer::Process, Peer::Stock),
            ..compare(
                "one process, round trip 64 B: process / stock",
                &rtt,
                Peer::Process,
                Peer::Stock,
                AtMost(0.1),
            )
        },
        compare(
            "one process, stream 1 MiB: process / stock",
            &stream(MIB),
            Peer::Process,
            Peer::Stock,
            AtLeast(3.0),
        ),
        Goal {
            name: "the same code at any size, NODELAY on and off: speed in the kernel / by plain TCP, the lowest".to_owned(),
            ..never_slower(results, &[Group::Rtt, Group::Stream, Group::Nodelay], 0.98)
        },
    ]
    .into_iter()
    .chain(against_redis(results))
    .chain([Goal {
        name: "another node: speed with the agent on / off, the lowest".to_owned(),
        ..never_slower(results, &[Group::Remote], 0.99)
    }])
    .chain(cwasi_table(results))
    .collect()
}

/// Messages of 2 MB, by each of our ways, against those through Redis.
fn against_redis(results: &Results) -> Vec<Goal> {
    let workload = Workload::new(Group::Transfer, Kind::Transfer, 2 * MB);
    let compare = |peer: Peer, metric: Metric, what: &str, wanted: Bound| {
        let ratio = Ratio::paired(
            results.values(&workload, peer, metric),
            results.values(&workload, Peer::Redis, metric),
        );
        Goal::new(format!("2 MB, {what}: {} / redis", peer.name()), wanted, ratio)
    };
    [Peer::Kernel, Peer::Process]
        .into_iter()
        .flat_map(|peer| {
            [
                compare(peer, Metric::Latency, "time", Bound::AtMost(0.05)),
                compare(peer, Metric::Throughput, "throughput", Bound::AtLeast(30.0)),
            ]
        })
        .collect()
}

/// CWASI's table, guest to guest, by each of our ways.
fn cwasi_table(results: &Results) -> Vec<Goal> {
    let sizes = [(2, 1.0), (10, 5.0), (100, 50.0)];
    sizes
        .into_iter()
        .flat_map(|(size, most)| {
            [Peer::Kernel, Peer::Process].map(|peer| {
                let workload = Workload::new(Group::Transfer, Kind::Transfer, size * MB);
                let times = results.values(&workload, peer, Metric::Latency);
                let (low, high) = stats::range(times);
                let measured = (!times.is_empty()).then(|| Ratio {
                    median: stats::median(times),
                    low,
                    high,
                });
                Goal::new(
                    format!("CWASI's table, {size} MB guest to guest: {} (ms)", peer.name()),
                    Bound::AtMost(most),
                    measured,
                )
            })
        })
        .collect()
}

/// The goals as a table.
#[must_use]
pub fn table(goals: &[Goal]) -> Table {
    Table {
        caption: String::new(),
        header: ["goal", "wanted", "measured", "reached", "note"]
            .map(str::to_owned)
            .to_vec(),
        rows: goals.iter().map(Goal::row).collect(),
    }
}

/// A ratio of round trips where the scheduler has no choice: left to it, one peer may have had both ends on one processor when
/// the other had not.
fn by_processors(results: &Results, over: Peer, under: Peer) -> String {
    let notes = results.workloads().into_iter().filter_map(|workload| {
        let cpus = workload.cpus?;
        let ratio = results.ratio(&workload, over, under)?;
        (workload.group == Group::Cpus)
            .then(|| format!("{} with {}", report::number(ratio.median), cpus.phrase()))
    });
    notes.collect::<Vec<_>>().join(", ")
}

/// The kernel path against plain TCP with the same code, as speeds, where it is worst in these groups.
fn never_slower(results: &Results, groups: &[Group], least: f64) -> Goal {
    let mut all = Vec::new();
    for workload in results.workloads() {
        if !groups.contains(&workload.group) {
            continue;
        }
        for kernel in Peer::ALL {
            let ratio = kernel
                .plain()
                .and_then(|plain| speed(results, &workload, kernel, plain));
            all.extend(ratio.map(|ratio| (ratio, workload, kernel)));
        }
    }
    let slower = all.iter().filter(|(ratio, ..)| ratio.median < least).count();
    let worst = all
        .iter()
        .min_by(|(a, ..), (b, ..)| a.median.total_cmp(&b.median));
    let measured = worst.map(|(ratio, ..)| *ratio);
    let mut goal = Goal::new(String::new(), Bound::AtLeast(least), measured);
    if let Some((_, workload, kernel)) = worst {
        goal.note = format!(
            "{}, {}; {slower} of {} are below",
            workload.name(),
            kernel.name(),
            all.len()
        );
    }
    goal
}

/// How fast `over` is, in terms of `under`.
fn speed(results: &Results, workload: &Workload, over: Peer, under: Peer) -> Option<Ratio> {
    if workload.kind.metric().lower_is_better() {
        results.ratio(workload, under, over)
    } else {
        results.ratio(workload, over, under)
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{sample, series};
    use super::*;
    use crate::compare::Cpus;

    fn goal<'a>(goals: &'a [Goal], part: &str) -> &'a Goal {
        goals.iter().find(|goal| goal.name.contains(part)).unwrap()
    }

    #[test]
    fn ratios_are_held_against_bounds() {
        let mut results = sample();
        let stream = Workload::new(Group::Stream, Kind::Stream, MIB);
        results.series.extend([
            series(stream, Peer::Stock, [1.0, 1.0]),
            series(stream, Peer::Kernel, [1.4, 1.5]),
            series(stream, Peer::Process, [3.0, 4.0]),
        ]);
        let goals = of(&results);
        let rtt = goal(&goals, "64 B: kernel / stock");
        assert_eq!(rtt.reached, Some(true), "{rtt:?}");
        assert_eq!(goal(&goals, "1 MiB: kernel / stock").reached, Some(false));
        assert_eq!(goal(&goals, "1 MiB: process / stock").reached, Some(true));
        let unknown = goal(&goals, "64 KiB");
        assert_eq!((unknown.measured, unknown.reached), (None, None));
        let table = table(&goals).text();
        assert!(
            table.contains("not measured") && table.contains("≤ 0.5"),
            "{table}"
        );
    }

    #[test]
    fn the_worst_of_all_sizes_counts_as_a_speed() {
        let mut results = sample();
        let rtt = Workload::new(Group::Rtt, Kind::Rtt, 64);
        let stream = Workload {
            nodelay: false,
            ..Workload::new(Group::Nodelay, Kind::Stream, 256)
        };
        results.series.extend([
            series(rtt, Peer::Off, [20.0, 20.0]),
            series(stream, Peer::Rust, [2.0, 2.0]),
            series(stream, Peer::RustKernel, [1.5, 1.5]),
        ]);
        let goals = of(&results);
        let worst = goal(&goals, "any size");
        assert_eq!(worst.measured.unwrap().median, 0.75);
        assert_eq!(worst.reached, Some(false));
        assert_eq!(
            worst.note,
            "stream 256 B, without NODELAY, rust-kernel; 1 of 2 are below"
        );
    }

    #[test]
    fn times_are_held_against_redis_and_against_the_table() {
        let mut results = sample();
        let message = Workload::new(Group::Transfer, Kind::Transfer, 2 * MB);
        results.series.extend([
            series(message, Peer::Redis, [40.0, 40.0]),
            series(message, Peer::Kernel, [1.2, 1.0]),
            series(message, Peer::Process, [0.5, 0.5]),
        ]);
        let goals = of(&results);
        let redis = goal(&goals, "2 MB, time: process / redis");
        assert_eq!(
            (redis.measured.unwrap().median, redis.reached),
            (0.0125, Some(true))
        );
        assert_eq!(
            goal(&goals, "table, 2 MB guest to guest: kernel").reached,
            Some(false)
        );
        assert_eq!(
            goal(&goals, "table, 2 MB guest to guest: process").reached,
            Some(true)
        );
        assert_eq!(goal(&goals, "table, 100 MB").reached, None);
    }

    #[test]
    fn processors_are_told_where_they_were_measured() {
        let mut results = sample();
        let workload = Workload {
            cpus: Some(Cpus::Apart),
            ..Workload::new(Group::Cpus, Kind::Rtt, 64)
        };
        results.series.extend([
            series(workload, Peer::Stock, [100.0]),
            series(workload, Peer::Kernel, [60.0]),
        ]);
        assert_eq!(
            goal(&of(&results), "64 B: kernel / stock").note,
            "0.600 with peers on one CPU each"
        );
    }
}
