//! The reference page of the metrics, docs/metrics.md.

use std::fmt::Write;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricType;

use super::table::{METRICS, Metric, Series};

/// What the page says before its tables.
const HEAD: &str = "\
# Metrics

<!-- Written by `cargo xtask metrics` from cwasi-agent/src/metrics/table.rs. -->

The agent serves these on `http://ADDR:PORT/metrics`, where `--metrics-addr` says. [Operations](operations.md#metrics) says how long
counters live, and [reasons and remedies](reasons.md) what the reasons mean. No label bears an address or the name of a function: an
agent has the series that are counted here, and never more.

";

/// The page, as Markdown.
#[must_use]
pub fn reference() -> String {
    let mut page = HEAD.to_owned();
    page += "| Metric | Type | Unit | Series | Meaning |\n|---|---|---|---|---|\n";
    for metric in &METRICS {
        let _ = writeln!(
            page,
            "| `{}` | {} | {} | {} | {} |",
            selector(metric),
            metric.kind.label(),
            metric.unit,
            values(metric).map_or(1, |values| values.len()),
            metric.help
        );
    }
    page += "\n## Values of labels\n\n| Series | Values of its last label |\n|---|---|\n";
    for metric in METRICS.iter().filter(|metric| !metric.labels.is_empty()) {
        for (series, values) in by_last_label(metric) {
            let _ = writeln!(page, "| `{series}` | {values} |");
        }
    }
    page += "\n## The agent's own process\n\n| Metric | Type | Meaning |\n|---|---|---|\n";
    let mut families = ProcessCollector::for_self().collect();
    families.sort_by(|a, b| a.name().cmp(b.name()));
    for family in families {
        let kind = match family.get_field_type() {
            MetricType::COUNTER => "counter",
            _ => "gauge",
        };
        let _ = writeln!(page, "| `{}` | {kind} | {} |", family.name(), family.help());
    }
    page
}

/// `name{label,label}`.
fn selector(metric: &Metric) -> String {
    match metric.labels {
        [] => metric.name.to_owned(),
        labels => format!("{}{{{}}}", metric.name, labels.join(",")),
    }
}

/// The label values of each series, `None` where they are not known before the agent runs.
fn values(metric: &Metric) -> Option<Vec<Vec<&'static str>>> {
    match metric.series {
        Series::One(_) => Some(vec![vec![]]),
        Series::Each(all, _) => Some(all()),
        Series::Build => None,
    }
}

/// Series with all but the last label given, each with the values of that one.
fn by_last_label(metric: &Metric) -> Vec<(String, String)> {
    let Some(series) = values(metric) else {
        return vec![(selector(metric), "of the build".to_owned())];
    };
    let mut rows: Vec<(String, String)> = Vec::new();
    for values in series {
        let pairs = metric.labels.iter().zip(&values);
        let mut labels: Vec<_> = pairs
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let last = values.len() - 1;
        labels[last] = metric.labels[last].to_owned();
        let row = format!("{}{{{}}}", metric.name, labels.join(","));
        match rows.last_mut().filter(|(known, _)| *known == row) {
            Some((_, shown)) => *shown += &format!(", `{}`", values[last]),
            None => rows.push((row, format!("`{}`", values[last]))),
        }
    }
    rows
}
