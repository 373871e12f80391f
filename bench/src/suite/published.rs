//! What others published for the same job, and the same messages of this run beside it.

use super::peer::Peer;
use super::results::Results;
use super::table::{self, Table};
use super::workload::{Group, Kind, Metric, Workload};
use crate::report;

const MB: u64 = 1_000_000;

/// How the measures differ.
pub const DIFFERENCE: &str = "CWASI's figures of its local buffer are of the host's segment alone, from shim to shim; ours begin in the memory of \
    one function and end, acknowledged, in that of the other, all calls of the guests and their hosts between included. Roadrunner's are of two \
    functions of one Wasm VM, whose host copies from one memory to the other when it is told to; ours of such functions (process) talk by \
    sockets, unmodified. Theirs are from their authors' machines, ours from this one: orders of magnitude compare, percentages do not.";

/// Published times of a message in milliseconds, by size.
struct Published {
    what: &'static str,
    times: &'static [(u64, f64)],
}

/// From one function to the next.
const SEQUENTIAL: [Published; 5] = [
    Published {
        what: "CWASI, local buffer (host segment only)",
        times: &[(2 * MB, 5.14), (10 * MB, 22.7), (100 * MB, 146.0)],
    },
    Published {
        what: "CWASI's baseline, WasmEdge by HTTP",
        times: &[(2 * MB, 35.7), (10 * MB, 509.0), (100 * MB, 4615.0)],
    },
    Published {
        what: "CWASI's baseline, OpenFaaS containers",
        times: &[(2 * MB, 23.9), (10 * MB, 56.3), (100 * MB, 367.0)],
    },
    Published {
        what: "CWASI, networked buffer (Redis)",
        times: &[(2 * MB, 720.0), (10 * MB, 5100.0)],
    },
    Published {
        what: "Roadrunner, same VM",
        times: &[(10 * MB, 19.7), (100 * MB, 230.0)],
    },
];

/// CWASI's latency in milliseconds and requests per second with 2 MB.
const FAN_OUT: (f64, f64) = (4.79, 206.0);
const FAN_IN: (f64, f64) = (2.87, 326.0);

/// The peers whose messages are put beside published ones.
const OURS: [Peer; 6] = [
    Peer::Process,
    Peer::Kernel,
    Peer::Off,
    Peer::Stock,
    Peer::Http,
    Peer::Redis,
];

/// Published times beside those of this run; without tables when the run has none.
#[must_use]
pub fn tables(results: &Results) -> Vec<Table> {
    [sequential(results), many(results)]
        .into_iter()
        .flatten()
        .collect()
}

fn sequential(results: &Results) -> Option<Table> {
    let sizes: Vec<u64> = SEQUENTIAL[0].times.iter().map(|(size, _)| *size).collect();
    let ours: Vec<Vec<String>> = OURS
        .iter()
        .filter_map(|peer| {
            let cells: Vec<String> = sizes
                .iter()
                .map(|size| {
                    let workload = Workload::new(Group::Transfer, Kind::Transfer, *size);
                    table::figure(results.values(&workload, *peer, Metric::Latency))
                })
                .collect();
            let measured = cells.iter().any(|cell| cell != table::NONE);
            measured.then(|| row(&format!("here: {}", peer.name()), cells))
        })
        .collect();
    let theirs = SEQUENTIAL.iter().map(|published| {
        let cells = sizes.iter().map(|size| {
            let found = published.times.iter().find(|(of, _)| of == size);
            found.map_or_else(|| table::NONE.to_owned(), |(_, time)| report::number(*time))
        });
        row(published.what, cells)
    });
    (!ours.is_empty()).then(|| Table {
        caption: "One message, sequential (ms)".to_owned(),
        header: row("who", sizes.iter().map(|size| report::bytes(*size))),
        rows: theirs.chain(ours.clone()).collect(),
    })
}

/// 2 MB to and from several functions. CWASI's degree is not in its table: ours is in the column's head.
fn many(results: &Results) -> Option<Table> {
    let workloads: Vec<Workload> = results
        .workloads()
        .into_iter()
        .filter(|workload| {
            matches!(workload.kind, Kind::FanOut | Kind::FanIn)
                && workload.size == 2 * MB
                && workload.degree == 4
        })
        .collect();
    let columns: Vec<(Workload, Metric)> = workloads
        .iter()
        .flat_map(|workload| [Metric::Latency, Metric::Rate].map(|metric| (*workload, metric)))
        .collect();
    let published = columns.iter().map(|(workload, metric)| {
        let (latency, rate) = if workload.kind == Kind::FanOut {
            FAN_OUT
        } else {
            FAN_IN
        };
        report::number(if *metric == Metric::Latency { latency } else { rate })
    });
    let ours = OURS.iter().filter_map(|peer| {
        let cells: Vec<String> = columns
            .iter()
            .map(|(workload, metric)| table::figure(results.values(workload, *peer, *metric)))
            .collect();
        let measured = cells.iter().any(|cell| cell != table::NONE);
        measured.then(|| row(&format!("here: {}", peer.name()), cells))
    });
    (!columns.is_empty()).then(|| Table {
        caption: "Fan-out and fan-in of 2 MB".to_owned(),
        header: row(
            "who",
            columns
                .iter()
                .map(|(workload, metric)| format!("{} ({})", workload.name(), metric.unit())),
        ),
        rows: [row("CWASI (its degree is not in the table)", published)]
            .into_iter()
            .chain(ours)
            .collect(),
    })
}

fn row(name: &str, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    [name.to_owned()].into_iter().chain(cells).collect()
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::{sample, series};
    use super::*;

    #[test]
    fn what_was_published_is_beside_what_was_measured() {
        let mut results = sample();
        assert!(tables(&results).is_empty(), "nothing of the kind was measured");
        let transfer = Workload::new(Group::Transfer, Kind::Transfer, 10 * MB);
        let fan_out = Workload::new(Group::FanOut, Kind::FanOut, 2 * MB).times(4);
        results.series.extend([
            series(transfer, Peer::Process, [4.0, 4.0]),
            series(fan_out, Peer::Kernel, [2.0, 2.0]),
        ]);
        let [sequential, many] = &tables(&results)[..] else {
            panic!("two tables");
        };
        assert_eq!(sequential.header, ["who", "2 MB", "10 MB", "100 MB"]);
        let find = |table: &Table, name: &str| {
            let row = table.rows.iter().find(|row| row[0] == name);
            row.unwrap_or_else(|| panic!("{name}")).clone()
        };
        assert_eq!(find(sequential, "Roadrunner, same VM")[1..], ["–", "19.7", "230"]);
        assert_eq!(
            find(sequential, "here: process")[1..],
            ["–", "4.00 (4.00–4.00)", "–"]
        );
        assert_eq!(
            find(many, "CWASI (its degree is not in the table)")[1..],
            ["4.79", "206"]
        );
        assert_eq!(find(many, "here: kernel")[1..], ["2.00 (2.00–2.00)", "–"]);
    }
}
