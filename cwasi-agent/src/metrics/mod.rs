//! Prometheus text of a [`Snapshot`], as the [`table`] has it.

mod reference;
pub mod table;

use prometheus::process_collector::ProcessCollector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::agent::Snapshot;
use table::{Kind, METRICS, Metric, Series};

pub use reference::reference;

/// Content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// The metrics of the snapshot and of this process, in Prometheus' text format.
///
/// # Errors
/// A metric is declared twice or with wrong labels.
pub fn render(snapshot: &Snapshot) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    for metric in &METRICS {
        register(&registry, metric, snapshot)?;
    }
    registry.register(Box::new(ProcessCollector::for_self()))?;
    TextEncoder::new().encode_to_string(&registry.gather())
}

fn register(registry: &Registry, metric: &Metric, snapshot: &Snapshot) -> Result<(), prometheus::Error> {
    let options = Opts::new(metric.name, metric.help);
    let samples = samples(&metric.series, snapshot);
    match metric.kind {
        Kind::Counter => {
            let counters = IntCounterVec::new(options, metric.labels)?;
            for (values, count) in samples {
                counters.get_metric_with_label_values(&values)?.inc_by(count);
            }
            registry.register(Box::new(counters))
        }
        Kind::Gauge => {
            let gauges = IntGaugeVec::new(options, metric.labels)?;
            for (values, value) in samples {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                gauges.get_metric_with_label_values(&values)?.set(value);
            }
            registry.register(Box::new(gauges))
        }
    }
}

/// Label values and the number that belongs to them.
fn samples(series: &Series, snapshot: &Snapshot) -> Vec<(Vec<String>, u64)> {
    match series {
        Series::One(value) => vec![(vec![], value(snapshot))],
        Series::Each(all, value) => {
            let sample = |labels: Vec<&str>| {
                let value = value(snapshot, &labels)?;
                Some((labels.into_iter().map(str::to_owned).collect(), value))
            };
            all().into_iter().filter_map(sample).collect()
        }
        Series::Build => {
            let version = &snapshot.version;
            let labels = [
                version.version.clone(),
                version.layout.to_string(),
                version.object_sha256.clone(),
            ];
            vec![(labels.to_vec(), 1)]
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use cwasi_client::protocol::{Degradation, MapUsage, PathCounts, Traffic, Version};
    use cwasi_ebpf_common::reason::{REASONS, Reason};
    use proptest::prelude::*;

    use super::*;
    use crate::agent::Totals;
    use crate::testing::exposition;

    fn snapshot() -> Snapshot {
        let degradation = |reason: &str| Degradation {
            reason: reason.to_owned(),
            detail: "a \"detail\"\n".to_owned(),
            remedy: String::new(),
        };
        let (mut at_enrolment, mut at_send) = ([0; REASONS], [0; REASONS]);
        at_enrolment[Reason::Disabled.index()] = 19;
        at_send[Reason::Disabled.index()] = 20;
        at_send[Reason::Budget.index()] = 9;
        // Where the map of sums was full.
        at_enrolment[Reason::Closing.index()] = 21;
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
            totals: Totals {
                traffic,
                at_enrolment,
                at_send,
            },
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
            enabled: true,
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

    /// That names and labels are the right ones is asserted of a live agent.
    #[test]
    fn every_number_is_shown_where_it_belongs() {
        let text = render(&snapshot()).unwrap();
        let samples: BTreeSet<&str> = text
            .lines()
            .filter(|line| line.starts_with("cwasi_") && !line.ends_with(" 0"))
            .collect();
        let expected = BTreeSet::from([
            "cwasi_messages_total{path=\"kernel\"} 1",
            "cwasi_messages_total{path=\"network\"} 3",
            "cwasi_messages_total{path=\"process\"} 15",
            "cwasi_bytes_total{path=\"kernel\"} 2",
            "cwasi_bytes_total{path=\"network\"} 4",
            "cwasi_bytes_total{path=\"process\"} 16",
            "cwasi_flows_active{path=\"kernel\"} 10",
            "cwasi_flows_active{path=\"network\"} 11",
            "cwasi_flows_active{path=\"process\"} 18",
            "cwasi_enrolled_ends_total 7",
            "cwasi_process_connections_total 17",
            "cwasi_path_changes_total{to=\"kernel\"} 5",
            "cwasi_path_changes_total{to=\"network\"} 6",
            "cwasi_fallback_total{reason=\"disabled\",stage=\"enrol\"} 19",
            "cwasi_fallback_total{reason=\"disabled\",stage=\"send\"} 20",
            "cwasi_fallback_total{reason=\"budget\",stage=\"send\"} 9",
            "cwasi_fallback_total{reason=\"closing\",stage=\"send\"} 21",
            "cwasi_functions_registered 12",
            "cwasi_acceleration_enabled 1",
            "cwasi_degraded{reason=\"map_full\"} 1",
            "cwasi_degraded{reason=\"attach\"} 1",
            "cwasi_kernel_probe{probe=\"redirect\"} 1",
            "cwasi_bpf_map_entries{map=\"sockets\"} 13",
            "cwasi_bpf_map_capacity{map=\"sockets\"} 14",
            "cwasi_events_lost_total 8",
            "cwasi_build_info{layout=\"1\",object=\"ab\",version=\"1.2.3\"} 1",
        ]);
        assert_eq!(samples, expected);
        assert!(text.contains("\ncwasi_accelerating 0\n"));
        assert!(text.contains("\ncwasi_kernel_probe{probe=\"eof_after_data\"} 0\n"));
        assert!(
            !text.contains("probe=\"load\"") && !text.contains("map=\"flows\""),
            "what is not known is not shown"
        );
    }

    #[test]
    fn every_fallback_that_the_kernel_counts_has_a_series() {
        let mut snapshot = snapshot();
        let kept_on_tcp = [Reason::Unpaired, Reason::Undrained, Reason::Unpolled];
        for reason in Reason::ALL {
            snapshot.totals.at_enrolment = [0; REASONS];
            snapshot.totals.at_send = [0; REASONS];
            snapshot.totals.at_send[reason.index()] = 77;
            let text = render(&snapshot).unwrap();
            let shown = text
                .lines()
                .any(|line| line.starts_with("cwasi_fallback_total{") && line.ends_with(" 77"));
            assert_eq!(shown, !kept_on_tcp.contains(&reason), "{reason:?}");
        }
    }

    /// Names of metrics with the labels of their series, but for those that tell of the build.
    fn series(families: &exposition::Families) -> BTreeSet<String> {
        let series = families.iter().flat_map(|(name, family)| {
            let labels = family.samples.keys().filter(move |_| name != "cwasi_build_info");
            labels.map(move |labels| format!("{name}{labels:?}"))
        });
        series.collect()
    }

    proptest! {
        /// Whatever words get into it: reasons and details of what is wrong, names of maps, the build.
        #[test]
        fn no_word_can_break_the_text_or_add_to_it(
            reasons in prop::collection::vec(any::<(String, String)>(), 0..5),
            maps in prop::collection::vec(any::<(String, u64, u64)>(), 0..5),
            build in any::<(String, u32, String)>(),
            number: u64,
        ) {
            let usual = snapshot();
            let (version, layout, object_sha256) = build;
            let absurd = Snapshot {
                degraded: reasons
                    .into_iter()
                    .map(|(reason, detail)| Degradation { reason, remedy: detail.clone(), detail })
                    .collect(),
                maps: maps
                    .into_iter()
                    .map(|(name, entries, capacity)| MapUsage { name, entries, capacity })
                    .chain(usual.maps.clone())
                    .collect(),
                version: Version { version, layout, object_sha256 },
                lost_events: number,
                ..usual.clone()
            };
            let (version, object) = (absurd.version.version.clone(), absurd.version.object_sha256.clone());
            let families = exposition::parse(&render(&absurd).unwrap());
            let families = families.unwrap_or_else(|wrong| panic!("{wrong}"));
            let expected = exposition::parse(&render(&usual).unwrap()).unwrap();
            prop_assert_eq!(series(&families), series(&expected));
            let lost = &families["cwasi_events_lost_total"].samples[&BTreeMap::new()];
            prop_assert!((lost - number as f64).abs() < 1.0, "{} is {}", lost, number);
            let (labels, _) = families["cwasi_build_info"].samples.first_key_value().unwrap();
            prop_assert_eq!((&labels["version"], &labels["object"]), (&version, &object));
        }
    }

    #[test]
    fn the_reference_page_is_the_committed_one() {
        let committed = include_str!("../../../docs/metrics.md");
        assert!(reference() == committed, "run `cargo xtask metrics`");
    }
}
