//! The figures of a run, from which every table and chart is made.

use std::collections::BTreeMap;

use cwasi_client::protocol::Traffic;
use serde::{Deserialize, Serialize};

use super::containerd::Containerd;
use super::machine::Machine;
use super::outcome::Figures;
use super::peer::Peer;
use super::workload::{Metric, Workload};
use crate::agent;
use crate::compare::{Cpus, Skipped};
use crate::stats::Ratio;

/// A workload as one peer ran it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Series {
    /// What was run.
    pub workload: Workload,
    /// By whom.
    pub peer: Peer,
    /// Each figure by round.
    pub figures: BTreeMap<Metric, Vec<f64>>,
    /// Share of the bytes that the kernel program moved, from 0 to 1; none where no connection was known to the agent.
    pub redirected_share: Option<f64>,
    #[serde(skip)]
    moved: Traffic,
}

/// All figures of a run, and where they are from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// Where it ran.
    pub machine: Machine,
    /// The commit that was built, and `-dirty` when it was changed.
    pub commit: String,
    /// The command line.
    pub command: String,
    /// Whether it was a quick one, whose figures are coarse.
    pub quick: bool,
    /// Rounds that count.
    pub rounds: usize,
    /// On which processors the ends ran, where the workload does not say.
    pub cpus: Cpus,
    /// How long it took in seconds.
    pub seconds: f64,
    /// The figures.
    pub series: Vec<Series>,
    /// Figures of functions in containerd.
    pub containerd: Option<Containerd>,
    /// What was not run.
    pub skipped: Vec<Skipped>,
    /// What was run and failed; earlier rounds of it are kept.
    pub failed: Vec<Skipped>,
}

impl Series {
    pub(super) fn new(workload: Workload, peer: Peer) -> Self {
        Self {
            workload,
            peer,
            figures: BTreeMap::new(),
            redirected_share: None,
            moved: Traffic::default(),
        }
    }

    /// Adds a round.
    pub(super) fn add(&mut self, figures: Figures, moved: &Traffic) {
        for (metric, value) in figures {
            self.figures.entry(metric).or_default().push(value);
        }
        self.moved.redirect_bytes += moved.redirect_bytes;
        self.moved.tcp_bytes += moved.tcp_bytes;
        self.redirected_share = agent::redirected_share(&Traffic::default(), &self.moved);
    }

    /// A figure by round; empty when it was not taken.
    #[must_use]
    pub fn values(&self, metric: Metric) -> &[f64] {
        self.figures.get(&metric).map_or(&[], Vec::as_slice)
    }
}

impl Results {
    /// A figure by round; empty when it was not taken.
    #[must_use]
    pub fn values(&self, workload: &Workload, peer: Peer, metric: Metric) -> &[f64] {
        let series = self
            .series
            .iter()
            .find(|series| series.workload == *workload && series.peer == peer);
        series.map_or(&[], |series| series.values(metric))
    }

    /// A workload's own figure of one peer over that of another, by round.
    #[must_use]
    pub fn ratio(&self, workload: &Workload, over: Peer, under: Peer) -> Option<Ratio> {
        let metric = workload.kind.metric();
        Ratio::paired(
            self.values(workload, over, metric),
            self.values(workload, under, metric),
        )
    }

    /// The workloads that were run, in their order.
    #[must_use]
    pub fn workloads(&self) -> Vec<Workload> {
        let mut workloads = Vec::new();
        for series in &self.series {
            if !workloads.contains(&series.workload) {
                workloads.push(series.workload);
            }
        }
        workloads
    }

    /// The peers that ran any of `workloads`, in the order of tables.
    #[must_use]
    pub fn peers(&self, workloads: &[Workload]) -> Vec<Peer> {
        let took_part = |peer: &Peer| {
            self.series
                .iter()
                .any(|series| series.peer == *peer && workloads.contains(&series.workload))
        };
        Peer::ALL.into_iter().filter(took_part).collect()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::workload::{Group, Kind};
    use super::*;

    /// A series of rounds of one figure.
    pub(in super::super) fn series(
        workload: Workload,
        peer: Peer,
        rounds: impl IntoIterator<Item = f64>,
    ) -> Series {
        let mut series = Series::new(workload, peer);
        for value in rounds {
            let figures = Figures::from([(workload.kind.metric(), value)]);
            series.add(figures, &Traffic::default());
        }
        series
    }

    /// Two rounds of one workload by the stock host and the kernel path.
    pub(in super::super) fn sample() -> Results {
        let workload = Workload::new(Group::Rtt, Kind::Rtt, 64);
        Results {
            machine: Machine {
                processor: "Some CPU".to_owned(),
                cpus: 2,
                memory_mib: 1024,
                kernel: "6.18".to_owned(),
                load: 0.1,
            },
            commit: "abc123".to_owned(),
            command: "cargo xtask bench --quick".to_owned(),
            quick: true,
            rounds: 2,
            cpus: Cpus::Free,
            seconds: 12.0,
            series: vec![
                series(workload, Peer::Stock, [38.0, 42.0]),
                series(workload, Peer::Kernel, [19.0, 20.0]),
            ],
            containerd: None,
            skipped: vec![Skipped {
                workload: "process".to_owned(),
                reason: "not there".to_owned(),
            }],
            failed: Vec::new(),
        }
    }

    #[test]
    fn figures_are_paired_by_round() {
        let results = sample();
        let workload = results.workloads()[0];
        let ratio = results.ratio(&workload, Peer::Kernel, Peer::Stock).unwrap();
        assert_eq!((ratio.low, ratio.high), (20.0 / 42.0, 0.5));
        assert_eq!(results.ratio(&workload, Peer::Kernel, Peer::Rust), None);
        assert_eq!(results.peers(&[workload]), [Peer::Stock, Peer::Kernel]);
    }

    #[test]
    fn shares_are_of_all_rounds() {
        let mut series = Series::new(Workload::new(Group::Rtt, Kind::Rtt, 64), Peer::Kernel);
        let traffic = |redirect_bytes, tcp_bytes| Traffic {
            redirect_bytes,
            tcp_bytes,
            ..Traffic::default()
        };
        series.add(Figures::new(), &traffic(100, 0));
        series.add(Figures::new(), &traffic(50, 50));
        assert_eq!(series.redirected_share, Some(0.75));
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let text = serde_json::to_string(&sample()).unwrap();
        let back: Results = serde_json::from_str(&text).unwrap();
        assert_eq!(
            back.values(&back.workloads()[0], Peer::Stock, Metric::RttP50),
            [38.0, 42.0]
        );
        assert_eq!(serde_json::to_string(&back).unwrap(), text);
    }
}
