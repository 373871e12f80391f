//! The parts of the report.

use super::peer::Peer;
use super::published;
use super::results::Results;
use super::table::{self, Table};
use super::workload::{Group, Kind, Metric, Workload};
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

/// What a table of a section shows.
enum Show {
    /// A figure of the workloads of a kind.
    Figure(Kind, Metric, &'static str),
    /// Peers in the kernel against the same code over plain TCP, in the workloads of a kind.
    AgainstPlain(Kind),
}

/// The words of a section.
struct Words {
    title: &'static str,
    text: &'static str,
    charts: &'static [&'static str],
    tables: &'static [Show],
}

/// The parts for which there are figures, in their order.
#[must_use]
pub fn of(results: &Results) -> Vec<Section> {
    let mut sections: Vec<Section> = ORDER.iter().filter_map(|group| group.section(results)).collect();
    sections.extend(results.containerd.as_ref().map(|containerd| {
        let words = Group::Containerd.words();
        Section {
            title: words.title,
            text: words.text.to_owned(),
            charts: Vec::new(),
            tables: vec![containerd.table()],
        }
    }));
    let published = published::tables(results);
    if !published.is_empty() {
        sections.push(Section {
            title: "Beside published figures",
            text: published::DIFFERENCE.to_owned(),
            charts: Vec::new(),
            tables: published,
        });
    }
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

const ORDER: [Group; 13] = [
    Group::Rtt,
    Group::Stream,
    Group::Transfer,
    Group::FanOut,
    Group::FanIn,
    Group::Connections,
    Group::Connect,
    Group::Service,
    Group::Remote,
    Group::Nodelay,
    Group::Cpus,
    Group::Start,
    Group::Containerd,
];

impl Group {
    fn section(self, results: &Results) -> Option<Section> {
        let mut workloads = results.workloads();
        workloads.retain(|workload| workload.group == self);
        let words = self.words();
        let tables = words.tables.iter().map(|show| show.table(results, &workloads));
        (!workloads.is_empty()).then(|| Section {
            title: words.title,
            text: words.text.to_owned(),
            charts: words.charts.to_vec(),
            tables: tables.filter(|table| !table.rows.is_empty()).collect(),
        })
    }

    const fn words(self) -> Words {
        match self {
            Self::Rtt => Words {
                title: "Round trips",
                text: "A message is sent back, whole, before the next one is sent.",
                charts: &["rtt.svg"],
                tables: &[
                    Show::Figure(
                        Kind::Rtt,
                        Metric::RttP50,
                        "Median round trip by size of the message",
                    ),
                    Show::Figure(Kind::Rtt, Metric::RttP99, "99th percentile"),
                    Show::AgainstPlain(Kind::Rtt),
                ],
            },
            Self::Stream => Words {
                title: "Streams",
                text: "Bytes in one direction, until the receiver has acknowledged all of them, by size of the write. Neither end looks at the bytes. Processor time is that of both ends, starts included: by \
                       rusage and by cgroup, which see no soft interrupts and no kernel workers, and of the whole machine, which sees \
                       them and everything else.",
                charts: &["stream.svg", "cpu.svg"],
                tables: &[
                    Show::Figure(Kind::Stream, Metric::Throughput, "Throughput"),
                    Show::AgainstPlain(Kind::Stream),
                    Show::Figure(
                        Kind::Stream,
                        Metric::CpuRusage,
                        "Processor seconds per GB, rusage",
                    ),
                    Show::Figure(
                        Kind::Stream,
                        Metric::CpuCgroup,
                        "Processor seconds per GB, cgroups",
                    ),
                    Show::Figure(
                        Kind::Stream,
                        Metric::CpuMachine,
                        "Processor seconds per GB, machine",
                    ),
                ],
            },
            Self::Transfer => Words {
                title: "Messages from one function to the next",
                text: "Each message is in one buffer of the sender, and acknowledged by one byte when the receiver has all of it in one \
                       of its own. Through Redis the producer pushes it to a list on which the consumer waits, and the time is from before \
                       it is sent until the consumer has it, without an acknowledgement; by HTTP it is the body of a request, \
                       until its answer. Both are what functions of a stock host do without cwasi.",
                charts: &[],
                tables: &[
                    Show::Figure(Kind::Transfer, Metric::Latency, "Median time of a message"),
                    Show::Figure(Kind::Transfer, Metric::Throughput, "Throughput"),
                    Show::AgainstPlain(Kind::Transfer),
                ],
            },
            Self::FanOut => Words {
                title: "Fan-out",
                text: "One function gives a message to each of several, which all have one connection to it; the next round \
                       begins when all have acknowledged.",
                charts: &["fan-out.svg"],
                tables: &[
                    Show::Figure(
                        Kind::FanOut,
                        Metric::Latency,
                        "Median time until all have their message",
                    ),
                    Show::Figure(Kind::FanOut, Metric::Rate, "Messages per second"),
                    Show::AgainstPlain(Kind::FanOut),
                ],
            },
            Self::FanIn => Words {
                title: "Fan-in",
                text: "Several functions give messages to one, each on a connection of its own and the next one when the last is \
                       acknowledged.",
                charts: &["fan-in.svg"],
                tables: &[
                    Show::Figure(Kind::FanIn, Metric::Latency, "Median time of a message"),
                    Show::Figure(Kind::FanIn, Metric::Rate, "Messages per second, of all senders"),
                    Show::Figure(Kind::FanIn, Metric::Throughput, "Throughput of all senders"),
                    Show::AgainstPlain(Kind::FanIn),
                ],
            },
            Self::Connections => Words {
                title: "Many connections",
                text: "Round trips of 64 B between two functions, one on its way on each of several connections.",
                charts: &["connections.svg"],
                tables: &[
                    Show::Figure(
                        Kind::Connections,
                        Metric::Rate,
                        "Round trips per second, by connections",
                    ),
                    Show::Figure(
                        Kind::Connections,
                        Metric::RttP50,
                        "Median round trip, by connections",
                    ),
                    Show::AgainstPlain(Kind::Connections),
                ],
            },
            Self::Connect => Words {
                title: "Connections of one request",
                text: "Connect, one round trip of 64 B, and the server closes.",
                charts: &[],
                tables: &[
                    Show::Figure(Kind::Connect, Metric::Rate, "Connections per second"),
                    Show::Figure(Kind::Connect, Metric::RttP50, "Median time of each"),
                    Show::AgainstPlain(Kind::Connect),
                ],
            },
            Self::Service => Words {
                title: "By a Service address",
                text: "The client connects to an address that the node translates into the server's, as kube-proxy does.",
                charts: &[],
                tables: ROUTED,
            },
            Self::Remote => Words {
                title: "Another node",
                text: "The server is behind a router, on another node, where there is no agent: nothing can be redirected.",
                charts: &[],
                tables: ROUTED,
            },
            Self::Nodelay => Words {
                title: "Without TCP_NODELAY",
                text: "WASI 0.2 has no such option: cwasi's host always sets it, a stock host never does. Native programs choose; \
                       everywhere else in this report they set it, here they do not.",
                charts: &[],
                tables: ROUTED,
            },
            Self::Cpus => Words {
                title: "Processors",
                text: "The same round trip with the ends on one processor each, and on the same one. Left to the scheduler they \
                       are now the one and now the other.",
                charts: &[],
                tables: &[
                    Show::Figure(Kind::Rtt, Metric::RttP50, "Median round trip"),
                    Show::AgainstPlain(Kind::Rtt),
                ],
            },
            Self::Start => Words {
                title: "Start",
                text: "From the start of a process to the first answer of the function in it, as a client sees it that tries again \
                       every 0.2 ms. Guests were compiled before.",
                charts: &[],
                tables: &[Show::Figure(Kind::Start, Metric::Start, "Start to first answer")],
            },
            Self::Containerd => Words {
                title: "In containerd",
                text: "Functions as containers in pods of one private containerd, made over the CRI: with cwasi's shim and an agent, \
                       and with a stock shim as runwasi's is one. Interleaved among themselves, after everything else of this report. \
                       A stream's guests make up every byte and check it. The first answer is asked for from the node, in a new pod \
                       and in one that was idle.",
                charts: &[],
                tables: &[],
            },
        }
    }
}

/// Round trips and streams.
const ROUTED: &[Show] = &[
    Show::Figure(Kind::Rtt, Metric::RttP50, "Median round trip"),
    Show::AgainstPlain(Kind::Rtt),
    Show::Figure(Kind::Stream, Metric::Throughput, "Throughput of a stream"),
    Show::AgainstPlain(Kind::Stream),
];

impl Show {
    fn table(&self, results: &Results, workloads: &[Workload]) -> Table {
        let of = |kind: Kind| -> Vec<Workload> {
            let chosen = workloads.iter().filter(|workload| workload.kind == kind);
            chosen.copied().collect()
        };
        match self {
            Self::Figure(kind, metric, caption) => Table::of(results, &of(*kind), *metric, caption),
            Self::AgainstPlain(kind) => against_plain(results, &of(*kind)),
        }
    }
}

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
    let of = workloads
        .first()
        .map_or("", |workload| workload.kind.metric().phrase());
    Table {
        caption: format!("{of} in the kernel, over that of the same code by plain TCP (ratio)"),
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

    use super::super::plan;
    use super::super::results::tests::{sample, series};
    use super::*;

    #[test]
    fn every_group_has_a_place() {
        let groups = Group::value_variants();
        assert_eq!(ORDER.len(), groups.len());
        assert!(groups.iter().all(|group| ORDER.contains(group)));
    }

    #[test]
    fn every_workload_is_in_a_table_of_its_section() {
        let mut results = sample();
        results.series.clear();
        for entry in plan::plan(Group::value_variants(), &Peer::ALL, false) {
            let rounds = [1.0, 2.0];
            let of_peer = |peer: &Peer| series(entry.workload, *peer, rounds);
            results.series.extend(entry.peers.iter().map(of_peer));
        }
        let sections = of(&results);
        for group in ORDER.into_iter().filter(|group| *group != Group::Containerd) {
            let words = group.words();
            let section = sections.iter().find(|section| section.title == words.title);
            let section = section.unwrap_or_else(|| panic!("{group:?}"));
            let columns: Vec<&String> = section.tables.iter().flat_map(|table| &table.header).collect();
            for workload in results.workloads() {
                assert!(
                    workload.group != group || columns.contains(&&workload.column()),
                    "{workload:?}"
                );
            }
        }
    }
}
