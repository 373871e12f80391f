//! Prometheus text of a [`Snapshot`]. Names and labels are forever: see `docs/operations.md`.

use cwasi_ebpf_common::reason::Reason;
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::agent::Snapshot;

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Label values and the number that belongs to them.
type Sample<'a> = (Vec<&'a str>, u64);

/// The metrics of the snapshot and of this process, in Prometheus' text format.
///
/// # Errors
/// A metric is declared twice or with wrong labels.
pub fn render(snapshot: &Snapshot) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    counters(&registry, snapshot)?;
    gauges(&registry, snapshot)?;
    registry.register(Box::new(ProcessCollector::for_self()))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn counters(registry: &Registry, snapshot: &Snapshot) -> Result<(), prometheus::Error> {
    let traffic = &snapshot.totals.traffic;
    for (name, help, value) in [
        (
            "cwasi_redirect_messages_total",
            "Messages moved by the kernel program.",
            traffic.redirect_messages,
        ),
        (
            "cwasi_redirect_bytes_total",
            "Bytes moved by the kernel program.",
            traffic.redirect_bytes,
        ),
        (
            "cwasi_tcp_messages_total",
            "Messages of enrolled connections that went by TCP.",
            traffic.tcp_messages,
        ),
        (
            "cwasi_tcp_bytes_total",
            "Bytes of enrolled connections that went by TCP.",
            traffic.tcp_bytes,
        ),
        (
            "cwasi_connections_total",
            "Enrolled ends of connections; two for one between functions.",
            traffic.connections,
        ),
        (
            "cwasi_process_messages_total",
            "Messages between functions of one process, as the processes tell.",
            traffic.process_messages,
        ),
        (
            "cwasi_process_bytes_total",
            "Bytes between functions of one process, as the processes tell.",
            traffic.process_bytes,
        ),
        (
            "cwasi_process_connections_total",
            "Connections between functions of one process, each counted once.",
            traffic.process_connections,
        ),
        (
            "cwasi_events_lost_total",
            "Events that found the kernel's ring full.",
            snapshot.lost_events,
        ),
    ] {
        counter(registry, name, help, &[], [(vec![], value)])?;
    }
    let transitions = [
        (vec!["kernel"], traffic.to_redirect),
        (vec!["network"], traffic.to_tcp),
    ];
    let help = "Changes of the path of one direction of a connection, by the new path.";
    counter(registry, "cwasi_transitions_total", help, &["to"], transitions)?;
    let fallbacks = Reason::ALL.into_iter().zip(snapshot.totals.fallbacks);
    let fallbacks = fallbacks.map(|(reason, count)| (vec![reason.label()], count));
    let help = "Connections left to TCP and changes back to it, by reason.";
    counter(registry, "cwasi_fallback_total", help, &["reason"], fallbacks)
}

fn gauges(registry: &Registry, snapshot: &Snapshot) -> Result<(), prometheus::Error> {
    let flows = [
        (vec!["kernel"], snapshot.flows.kernel),
        (vec!["network"], snapshot.flows.network),
        (vec!["process"], snapshot.flows.process),
    ];
    gauge(
        registry,
        "cwasi_flows_active",
        "Open connections of functions, by path.",
        &["path"],
        flows,
    )?;
    let functions = [(vec![], snapshot.functions as u64)];
    gauge(
        registry,
        "cwasi_functions_registered",
        "Registered functions.",
        &[],
        functions,
    )?;
    let maps = || snapshot.maps.iter();
    let entries = maps().map(|map| (vec![map.name.as_str()], map.entries));
    gauge(
        registry,
        "cwasi_bpf_map_entries",
        "Entries in use of a kernel map.",
        &["map"],
        entries,
    )?;
    let capacity = maps().map(|map| (vec![map.name.as_str()], map.capacity));
    gauge(
        registry,
        "cwasi_bpf_map_capacity",
        "Entries that fit into a kernel map.",
        &["map"],
        capacity,
    )?;
    let probes = snapshot
        .probes
        .iter()
        .map(|(probe, passed)| (vec![*probe], u64::from(*passed)));
    let help = "Whether the kernel was seen to do what the data plane needs.";
    gauge(registry, "cwasi_kernel_probe", help, &["probe"], probes)?;
    let accelerating = [(vec![], u64::from(snapshot.accelerating))];
    let help = "Whether connections are redirected: switched on, and the kernel can.";
    gauge(registry, "cwasi_acceleration_enabled", help, &[], accelerating)?;
    let degraded = snapshot
        .degraded
        .iter()
        .map(|cause| (vec![cause.reason.as_str()], 1));
    gauge(
        registry,
        "cwasi_degraded",
        "1 for each thing that is wrong, by reason.",
        &["reason"],
        degraded,
    )?;
    let layout = snapshot.version.layout.to_string();
    let build = [(
        vec![
            snapshot.version.version.as_str(),
            &layout,
            &snapshot.version.object_sha256,
        ],
        1,
    )];
    gauge(
        registry,
        "cwasi_build_info",
        "Build of the agent.",
        &["version", "layout", "object"],
        build,
    )
}

fn counter<'a>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    samples: impl IntoIterator<Item = Sample<'a>>,
) -> Result<(), prometheus::Error> {
    let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
    for (values, value) in samples {
        metric.get_metric_with_label_values(&values)?.inc_by(value);
    }
    registry.register(Box::new(metric))
}

fn gauge<'a>(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
    samples: impl IntoIterator<Item = Sample<'a>>,
) -> Result<(), prometheus::Error> {
    let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
    for (values, value) in samples {
        metric
            .get_metric_with_label_values(&values)?
            .set(i64::try_from(value).unwrap_or(i64::MAX));
    }
    registry.register(Box::new(metric))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use cwasi_client::protocol::{Degradation, MapUsage, PathCounts, Traffic, Version};
    use cwasi_ebpf_common::reason::REASONS;

    use super::*;
    use crate::agent::Totals;

    fn snapshot() -> Snapshot {
        let degradation = |reason: &str| Degradation {
            reason: reason.to_owned(),
            detail: "a \"detail\"\n".to_owned(),
            remedy: String::new(),
        };
        let mut fallbacks = [0; REASONS];
        fallbacks[Reason::Budget.index()] = 9;
        let traffic = Traffic {
            redirect_messages: 1,
            redirect_bytes: 2,
            tcp_messages: 3,
            tcp_bytes: 4,
            to_redirect: 5,
            to_tcp: 6,
            connections: 7,
            process_messages: 15,
            process_bytes: 16,
            process_connections: 17,
        };
        Snapshot {
            totals: Totals { traffic, fallbacks },
            flows: PathCounts {
                kernel: 10,
                network: 11,
                process: 18,
            },
            functions: 12,
            maps: vec![MapUsage {
                name: "sockets".to_owned(),
                entries: 13,
                capacity: 14,
            }],
            lost_events: 8,
            probes: vec![("redirect", true), ("eof_after_data", false)],
            accelerating: false,
            degraded: vec![
                degradation("map_full"),
                degradation("map_full"),
                degradation("attach"),
            ],
            version: Version {
                version: "1.2.3".to_owned(),
                layout: 1,
                object_sha256: "ab".to_owned(),
            },
        }
    }

    /// Names, labels and values are what dashboards and alerts are made of: nothing may be missing, added or renamed.
    #[test]
    fn names_and_labels_are_exactly_these() {
        let text = render(&snapshot()).unwrap();
        let samples: BTreeSet<&str> = text.lines().filter(|line| line.starts_with("cwasi_")).collect();
        let mut expected: BTreeSet<String> = [
            "cwasi_redirect_messages_total 1",
            "cwasi_redirect_bytes_total 2",
            "cwasi_tcp_messages_total 3",
            "cwasi_tcp_bytes_total 4",
            "cwasi_transitions_total{to=\"kernel\"} 5",
            "cwasi_transitions_total{to=\"network\"} 6",
            "cwasi_connections_total 7",
            "cwasi_process_messages_total 15",
            "cwasi_process_bytes_total 16",
            "cwasi_process_connections_total 17",
            "cwasi_events_lost_total 8",
            "cwasi_flows_active{path=\"kernel\"} 10",
            "cwasi_flows_active{path=\"network\"} 11",
            "cwasi_flows_active{path=\"process\"} 18",
            "cwasi_functions_registered 12",
            "cwasi_bpf_map_entries{map=\"sockets\"} 13",
            "cwasi_bpf_map_capacity{map=\"sockets\"} 14",
            "cwasi_kernel_probe{probe=\"redirect\"} 1",
            "cwasi_kernel_probe{probe=\"eof_after_data\"} 0",
            "cwasi_acceleration_enabled 0",
            "cwasi_degraded{reason=\"map_full\"} 1",
            "cwasi_degraded{reason=\"attach\"} 1",
            "cwasi_build_info{layout=\"1\",object=\"ab\",version=\"1.2.3\"} 1",
        ]
        .into_iter()
        .map(str::to_owned)
        .collect();
        for reason in [
            "disabled",
            "remote",
            "not_a_function",
            "learned",
            "flows_full",
            "sockhash_full",
            "socket_busy",
            "socket_refused",
            "unpaired",
            "budget",
            "undrained",
            "small_writes",
            "upper_layer",
            "closing",
            "unmeasured",
            "blocking",
            "edge_triggered",
            "unpolled",
        ] {
            let count = if reason == "budget" { 9 } else { 0 };
            expected.insert(format!("cwasi_fallback_total{{reason=\"{reason}\"}} {count}"));
        }
        assert_eq!(samples, expected.iter().map(String::as_str).collect());
        let types: BTreeSet<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("# TYPE cwasi_"))
            .collect();
        for line in types {
            let (name, kind) = line.split_once(' ').unwrap();
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        }
        assert!(text.contains("process_resident_memory_bytes "));
        assert!(text.contains("process_cpu_seconds_total "));
    }
}
