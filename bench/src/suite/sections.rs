//! The parts of the report.

use super::peer::Peer;
use super::results::Results;
use super::table::{self, Table};
use super::workload::{Group, Metric, Workload};
use crate::compare::Skipped;

/// A part of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its heading.
    pub title: &'static str,
    /// What its figures mean.
    pub text: String,
    /// Files of its charts.
    pub charts: Vec<&'static str>,
    /// Its tables.
    pub tables: Vec<Table>,
}

/// The parts for which there are figures, in their order.
#[must_use]
pub fn of(results: &Results) -> Vec<Section> {
    let mut sections: Vec<Section> = ORDER
        .iter()
        .filter_map(|group| {
            let workloads = workloads(results, *group);
            (!workloads.is_empty()).then(|| group.section(results, &workloads))
        })
        .collect();
    sections.extend(left_out(
        "What was left out",
        "Not measured, and why.",
        &results.skipped,
    ));
    sections.extend(left_out(
        "What failed",
        "Measured, until a run of it failed.",
        &results.failed,
    ));
    sections
}

const ORDER: [Group; 4] = [Group::Rtt, Group::Stream, Group::Nodelay, Group::Cpus];

fn workloads(results: &Results, group: Group) -> Vec<Workload> {
    let mut workloads = results.workloads();
    workloads.retain(|workload| workload.group == group);
    workloads
}

impl Group {
    fn section(self, results: &Results, workloads: &[Workload]) -> Section {
        let table = |metric, caption: &str| Table::of(results, workloads, metric, caption);
        match self {
            Self::Rtt => Section {
                title: "Round trips",
                text: "A message is sent back before the next one is sent. A guest has no second thread to read with while it writes: \
                       messages over 64 KiB go in pieces of which at most two are on their way, while native programs send \
                       whole ones."
                    .to_owned(),
                charts: vec!["rtt.svg"],
                tables: vec![
                    table(Metric::RttP50, "Median round trip by size of the message"),
                    table(Metric::RttP99, "99th percentile"),
                    against_plain(results, workloads),
                ],
            },
            Self::Stream => Section {
                title: "Streams",
                text: "Bytes in one direction, until the receiver has acknowledged all of them, by size of the write. Guests make up every \
                       byte and check it; native programs do neither. Processor time is that of both ends, starts included: by rusage and by \
                       cgroup, which see no soft interrupts and no kernel workers, and of the whole machine, which sees them and \
                       everything else."
                    .to_owned(),
                charts: vec!["stream.svg", "cpu.svg"],
                tables: vec![
                    table(Metric::Throughput, "Throughput"),
                    against_plain(results, workloads),
                    table(Metric::CpuRusage, "Processor seconds per GB, rusage"),
                    table(Metric::CpuCgroup, "Processor seconds per GB, cgroups"),
                    table(Metric::CpuMachine, "Processor seconds per GB, machine"),
                ],
            },
            Self::Nodelay => {
                let of = |metric: Metric| -> Vec<Workload> {
                    let kind = |workload: &&Workload| workload.kind.metric() == metric;
                    workloads.iter().filter(kind).copied().collect()
                };
                let (rtt, stream) = (of(Metric::RttP50), of(Metric::Throughput));
                Section {
                    title: "Without TCP_NODELAY",
                    text: "WASI 0.2 has no such option: cwasi's host always sets it, a stock host never does. Native programs \
                           choose; everywhere else in this report they set it, here they do not."
                        .to_owned(),
                    charts: Vec::new(),
                    tables: vec![
                        Table::of(results, &rtt, Metric::RttP50, "Median round trip"),
                        against_plain(results, &rtt),
                        Table::of(results, &stream, Metric::Throughput, "Throughput"),
                        against_plain(results, &stream),
                    ],
                }
            }
            Self::Cpus => Section {
                title: "Processors",
                text: "The same round trip with the ends on one processor each, and on the same one. Left to the scheduler they are now the one \
                       and now the other."
                    .to_owned(),
                charts: Vec::new(),
                tables: vec![table(Metric::RttP50, "Median round trip")],
            },
        }
    }
}

/// Peers in the kernel against the same code over plain TCP.
fn against_plain(results: &Results, workloads: &[Workload]) -> Table {
    let mut header = vec!["in the kernel / plain TCP".to_owned()];
    header.extend(workloads.iter().map(Workload::column));
    let peers = results.peers(workloads);
    let pairs = peers
        .iter()
        .filter_map(|peer| Some((*peer, peer.plain()?)))
        .filter(|(_, plain)| peers.contains(plain));
    let row = |(kernel, plain): (Peer, Peer)| {
        let cells = workloads
            .iter()
            .map(|workload| table::ratio(results.ratio(workload, kernel, plain)));
        [format!("{} / {}", kernel.name(), plain.name())]
            .into_iter()
            .chain(cells)
            .collect()
    };
    Table {
        caption: "The same code, in the kernel against plain TCP (ratio)".to_owned(),
        header,
        rows: pairs.map(row).collect(),
    }
}

fn left_out(title: &'static str, text: &str, what: &[Skipped]) -> Option<Section> {
    let rows: Vec<_> = what
        .iter()
        .map(|one| vec![one.workload.clone(), one.reason.clone()])
        .collect();
    (!rows.is_empty()).then(|| Section {
        title,
        text: text.to_owned(),
        charts: Vec::new(),
        tables: vec![Table {
            caption: String::new(),
            header: ["what", "why"].map(str::to_owned).to_vec(),
            rows,
        }],
    })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_group_has_a_place() {
        let groups = Group::value_variants();
        assert_eq!(ORDER.len(), groups.len());
        assert!(groups.iter().all(|group| ORDER.contains(group)));
    }
}
