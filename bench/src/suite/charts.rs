//! The charts of the report.

use super::chart::{Chart, Point, Series};
use super::peer::Peer;
use super::results::Results;
use super::workload::{Group, Metric, Workload};
use crate::{report, stats};

/// What is drawn: file, heading, group, figure, and what is upwards.
const CHARTS: [(&str, &str, Group, Metric, &str); 6] = [
    (
        "rtt.svg",
        "Round trip by size of the message",
        Group::Rtt,
        Metric::RttP50,
        "median round trip",
    ),
    (
        "stream.svg",
        "Throughput by size of the write",
        Group::Stream,
        Metric::Throughput,
        "throughput",
    ),
    (
        "cpu.svg",
        "Processor time of a stream by size of the write",
        Group::Stream,
        Metric::CpuCgroup,
        "processor time of both ends",
    ),
    (
        "fan-out.svg",
        "One function gives 2 MB to each of several",
        Group::FanOut,
        Metric::Latency,
        "until all have it",
    ),
    (
        "fan-in.svg",
        "Several functions give 2 MB each to one",
        Group::FanIn,
        Metric::Throughput,
        "throughput of all",
    ),
    (
        "connections.svg",
        "Round trips of 64 B on several connections",
        Group::Connections,
        Metric::Rate,
        "round trips of all",
    ),
];

/// The charts for which there are figures: file names and drawings.
#[must_use]
pub fn of(results: &Results) -> Vec<(&'static str, String)> {
    let drawn = CHARTS.iter().filter_map(|(file, title, group, metric, y)| {
        let mut workloads = results.workloads();
        workloads.retain(|workload| workload.group == *group);
        if group.is_of_degrees() {
            // One line has one size.
            let size = workloads.first().map(|workload| workload.size);
            workloads.retain(|workload| Some(workload.size) == size);
        }
        let chart = Chart {
            title: (*title).to_owned(),
            x: group.horizontal().to_owned(),
            y: format!("{y} ({})", metric.unit()),
            ticks: workloads.iter().map(place).collect(),
            series: series(results, &workloads, *metric),
        };
        Some((*file, chart.svg()?))
    });
    drawn.collect()
}

fn series(results: &Results, workloads: &[Workload], metric: Metric) -> Vec<Series> {
    let of_peer = |peer: Peer| {
        let points = workloads.iter().filter_map(|workload| {
            let values = results.values(workload, peer, metric);
            let point = Point {
                x: place(workload).0,
                y: stats::median(values),
                range: stats::range(values),
            };
            // A logarithmic axis has no room for 0.
            (point.range.0 > 0.0).then_some(point)
        });
        let (colour, dashed) = peer.colour();
        Series {
            name: peer.name().to_owned(),
            colour,
            dashed,
            points: points.collect(),
        }
    };
    let mut series: Vec<Series> = results.peers(workloads).into_iter().map(of_peer).collect();
    series.retain(|series| !series.points.is_empty());
    series
}

/// Where a workload is to the right, and its name there.
fn place(workload: &Workload) -> (f64, String) {
    if workload.group.is_of_degrees() {
        (workload.degree.into(), workload.degree.to_string())
    } else {
        (workload.size as f64, report::bytes(workload.size))
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::tests::sample;
    use super::*;

    #[test]
    fn what_was_measured_is_drawn_with_every_peer() {
        let results = sample();
        let charts = of(&results);
        let [(file, svg)] = &charts[..] else {
            panic!("{} charts", charts.len());
        };
        assert_eq!(*file, "rtt.svg");
        let document = roxmltree::Document::parse(svg).unwrap();
        for peer in results.peers(&results.workloads()) {
            assert!(
                document
                    .descendants()
                    .any(|node| node.text() == Some(peer.name()))
            );
        }
    }

    #[test]
    fn files_have_names_of_their_own() {
        for (number, (file, ..)) in CHARTS.iter().enumerate() {
            assert!(CHARTS[..number].iter().all(|(other, ..)| other != file));
        }
    }
}
