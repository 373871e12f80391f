//! What a live agent has on `/metrics`: dashboards and alerts are made of these names and labels, which stay as they are.

mod support;
mod support_agent;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use cwasi_agent::testing::exposition;
use support_agent::agent::{Agent, text};

const PATHS: &[&str] = &["path=kernel", "path=network", "path=process"];

const MAPS: &[&str] = &[
    "map=functions",
    "map=locality",
    "map=pairs",
    "map=sockets",
    "map=flows",
    "map=traffic",
    "map=learned",
];

/// Every metric: name, type, and the labels of its series.
const EXPECTED: &[(&str, &str, &[&str])] = &[
    ("cwasi_messages_total", "counter", PATHS),
    ("cwasi_bytes_total", "counter", PATHS),
    ("cwasi_flows_active", "gauge", PATHS),
    ("cwasi_enrolled_ends_total", "counter", &[""]),
    ("cwasi_process_connections_total", "counter", &[""]),
    (
        "cwasi_path_changes_total",
        "counter",
        &["to=kernel", "to=network"],
    ),
    (
        "cwasi_fallback_total",
        "counter",
        &[
            "reason=disabled,stage=enrol",
            "reason=remote,stage=enrol",
            "reason=not_a_function,stage=enrol",
            "reason=learned,stage=enrol",
            "reason=flows_full,stage=enrol",
            "reason=sockhash_full,stage=enrol",
            "reason=socket_busy,stage=enrol",
            "reason=socket_refused,stage=enrol",
            "reason=blocking,stage=enrol",
            "reason=disabled,stage=send",
            "reason=budget,stage=send",
            "reason=small_writes,stage=send",
            "reason=upper_layer,stage=send",
            "reason=closing,stage=send",
            "reason=unmeasured,stage=send",
            "reason=edge_triggered,stage=send",
        ],
    ),
    ("cwasi_functions_registered", "gauge", &[""]),
    ("cwasi_accelerating", "gauge", &[""]),
    ("cwasi_acceleration_enabled", "gauge", &[""]),
    (
        "cwasi_degraded",
        "gauge",
        &[
            "reason=self_test_redirect",
            "reason=self_test_queue_charged",
            "reason=self_test_order_across_spill",
            "reason=self_test_eof_after_data",
            "reason=self_test_unaccepted_removed",
            "reason=load",
            "reason=readers",
            "reason=state_dir",
            "reason=attach",
            "reason=locality",
            "reason=kernel_maps",
            "reason=map_full",
            "reason=socket_busy",
            "reason=sockhash_full",
            "reason=flows_full",
            "reason=socket_refused",
        ],
    ),
    (
        "cwasi_kernel_probe",
        "gauge",
        &[
            "probe=redirect",
            "probe=queue_charged",
            "probe=order_across_spill",
            "probe=eof_after_data",
            "probe=unaccepted_removed",
            "probe=load",
            "probe=readers",
        ],
    ),
    ("cwasi_bpf_map_entries", "gauge", MAPS),
    ("cwasi_bpf_map_capacity", "gauge", MAPS),
    ("cwasi_events_lost_total", "counter", &[""]),
    ("cwasi_build_info", "gauge", &["layout,object,version"]),
    ("process_cpu_seconds_total", "counter", &[""]),
    ("process_max_fds", "gauge", &[""]),
    ("process_open_fds", "gauge", &[""]),
    ("process_resident_memory_bytes", "gauge", &[""]),
    ("process_start_time_seconds", "gauge", &[""]),
    ("process_threads", "gauge", &[""]),
    ("process_virtual_memory_bytes", "gauge", &[""]),
];

type Metrics = BTreeMap<String, (String, BTreeSet<String>)>;

/// Name, type and labels of what is exposed, without the values of those that tell of the build.
fn shown(text: &str) -> Metrics {
    let families = exposition::parse(text).unwrap_or_else(|wrong| panic!("{wrong}"));
    let families = families.into_iter().map(|(name, family)| {
        let label = |(label, value): (String, String)| match name.as_str() {
            "cwasi_build_info" => label,
            _ => format!("{label}={value}"),
        };
        let series = family.samples.into_keys();
        let series = series.map(|labels| labels.into_iter().map(label).collect::<Vec<_>>().join(","));
        let series: BTreeSet<String> = series.collect();
        (name, (family.kind, series))
    });
    families.collect()
}

#[test]
fn names_types_and_labels_are_exactly_these() {
    needs!();
    let agent = Agent::start();
    let labels = |labels: &[&str]| labels.iter().map(|labels| (*labels).to_owned()).collect();
    let expected = EXPECTED.iter().map(|(name, kind, series)| {
        let series: BTreeSet<String> = labels(series);
        ((*name).to_owned(), ((*kind).to_owned(), series))
    });
    let expected: Metrics = expected.collect();
    assert_eq!(shown(&agent.metrics()), expected);
    // Whatever has happened.
    agent.succeed(&["disable"]);
    let text = agent.metrics();
    assert_eq!(shown(&text), expected);
    assert!(text.contains("\ncwasi_accelerating 0\n"), "{text}");
    assert!(text.contains("\ncwasi_acceleration_enabled 0\n"), "{text}");
}

#[test]
fn promtool_finds_no_fault() {
    needs!();
    needs_program!("promtool" of "prometheus");
    let agent = Agent::start();
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run promtool");
    let mut input = promtool.stdin.take().expect("piped");
    input
        .write_all(agent.metrics().as_bytes())
        .expect("hand over the metrics");
    drop(input);
    let output = promtool.wait_with_output().expect("wait for promtool");
    let found = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success() && found.is_empty(), "{found}");
}
