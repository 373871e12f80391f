//! What the demo found.

use std::collections::BTreeMap;

use cwasi_client::protocol::Traffic;
use serde::Serialize;

use super::jobs::Job;
use crate::agent::redirected_share;
use crate::{Error, Result, report, stats};

/// Least share of the bytes that must be redirected where acceleration is on. A stream whose reader lags goes by TCP until
/// the reader has caught up, so that all of it is not to be expected.
const LEAST_REDIRECTED: f64 = 0.25;

/// How the functions reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// In the kernel, by the pod's address.
    Kernel,
    /// Acceleration off, by the pod's address.
    Tcp,
    /// In the kernel, by a Service address that the node translates.
    Service,
}

impl Path {
    /// All paths.
    pub const ALL: [Self; 3] = [Self::Kernel, Self::Tcp, Self::Service];

    /// Every path once, in the order of a round.
    #[must_use]
    pub fn order(round: usize) -> [Self; 3] {
        stats::rotated(Self::ALL, round)
    }

    /// Its name for people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Kernel => "in the kernel",
            Self::Tcp => "acceleration off",
            Self::Service => "in the kernel, by a Service",
        }
    }

    /// Whether acceleration is on.
    #[must_use]
    pub const fn accelerated(self) -> bool {
        !matches!(self, Self::Tcp)
    }
}

/// What one run of a job measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) rtt_p50_us: Option<f64>,
    pub(super) gb_per_s: Option<f64>,
    /// Digest of the result, which no path may change.
    pub(super) sha256: Option<String>,
    /// What the functions sent.
    pub(super) traffic: Traffic,
}

/// Medians of a job's runs on one path.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// The job.
    pub name: &'static str,
    /// How the functions reached each other.
    pub path: Path,
    /// Median round trip in microseconds: of a message, or of a picture through the workflow; none for a stream.
    pub rtt_p50_us: Option<f64>,
    /// 10⁹ bytes per second; none for round trips.
    pub gb_per_s: Option<f64>,
    /// Share of the sent bytes that the kernel program moved, from 0 to 1.
    pub redirected_share: f64,
}

/// The samples of all rounds.
#[derive(Debug, Default)]
pub(super) struct Samples {
    runs: BTreeMap<(Job, Path), Vec<Sample>>,
    sha256: Option<String>,
}

impl Samples {
    pub(super) fn add(&mut self, job: Job, path: Path, sample: Sample) -> Result<()> {
        if let Some(found) = &sample.sha256 {
            let expected = self.sha256.get_or_insert_with(|| found.clone());
            if expected != found {
                return Err(Error::Data(format!(
                    "{} gave sha256 {found} {}, {expected} before",
                    job.name(),
                    path.title()
                )));
            }
        }
        self.runs.entry((job, path)).or_default().push(sample);
        Ok(())
    }

    /// Medians by job and path.
    ///
    /// # Errors
    /// The bytes did not go the way they should have.
    pub(super) fn results(&self) -> Result<Vec<Outcome>> {
        let results = self.runs.iter().map(|(&(job, path), samples)| {
            let median = |of: fn(&Sample) -> Option<f64>| {
                let values: Vec<f64> = samples.iter().filter_map(of).collect();
                (!values.is_empty()).then(|| stats::median(&values))
            };
            let sent = samples.iter().fold(Traffic::default(), |mut sum, sample| {
                sum.redirect_bytes += sample.traffic.redirect_bytes;
                sum.tcp_bytes += sample.traffic.tcp_bytes;
                sum
            });
            let result = Outcome {
                name: job.name(),
                path,
                rtt_p50_us: median(|sample| sample.rtt_p50_us),
                gb_per_s: median(|sample| sample.gb_per_s),
                redirected_share: redirected_share(&Traffic::default(), &sent).unwrap_or_default(),
            };
            check(&result)?;
            Ok(result)
        });
        results.collect()
    }
}

fn check(result: &Outcome) -> Result<()> {
    let share = result.redirected_share;
    let right = if result.path.accelerated() {
        share >= LEAST_REDIRECTED
    } else {
        share == 0.0
    };
    if right {
        return Ok(());
    }
    Err(Error::NotAccelerating(format!(
        "{:.1} % of the bytes of {} were redirected ({})",
        share * 100.0,
        result.name,
        result.path.title()
    )))
}

/// The table for people. Ratios are to the run of the same job with acceleration off.
pub(super) fn table(results: &[Outcome]) -> String {
    let header = [
        "job",
        "path",
        "RTT p50 (µs)",
        "ratio",
        "GB/s",
        "ratio",
        "redirected",
    ];
    let rows = results.iter().map(|result| {
        let plain = results
            .iter()
            .find(|other| other.name == result.name && other.path == Path::Tcp);
        let none = || "–".to_owned();
        let ratio = |of: fn(&Outcome) -> Option<f64>| match (of(result), plain.and_then(of)) {
            (Some(value), Some(plain)) => format!("{:.2}", value / plain),
            _ => none(),
        };
        [
            result.name.to_owned(),
            result.path.title().to_owned(),
            result.rtt_p50_us.map_or_else(none, report::number),
            ratio(|result| result.rtt_p50_us),
            result.gb_per_s.map_or_else(none, report::number),
            ratio(|result| result.gb_per_s),
            format!("{:.1} %", result.redirected_share * 100.0),
        ]
    });
    report::table(header, 2, rows).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rtt: f64, redirected: u64, tcp: u64) -> Sample {
        Sample {
            rtt_p50_us: Some(rtt),
            traffic: Traffic {
                redirect_bytes: redirected,
                tcp_bytes: tcp,
                ..Traffic::default()
            },
            ..Sample::default()
        }
    }

    #[test]
    fn medians_and_shares_are_by_job_and_path() {
        let mut samples = Samples::default();
        for rtt in [10.0, 30.0, 20.0] {
            samples.add(Job::Ping, Path::Kernel, sample(rtt, 99, 1)).unwrap();
            samples
                .add(Job::Ping, Path::Tcp, sample(2.0 * rtt, 0, 100))
                .unwrap();
        }
        let results = samples.results().unwrap();
        assert_eq!(results[0].rtt_p50_us, Some(20.0));
        assert_eq!(results[0].redirected_share, 0.99);
        assert_eq!(results[1].redirected_share, 0.0);
        let table = table(&results);
        assert!(table.contains("0.50") && table.contains("99.0 %"), "{table}");
        let json = serde_json::to_string(&results[0]).unwrap();
        assert_eq!(
            json,
            r#"{"name":"ping","path":"kernel","rtt_p50_us":20.0,"gb_per_s":null,"redirected_share":0.99}"#
        );
    }

    #[test]
    fn bytes_on_the_wrong_path_fail() {
        for (path, redirected, tcp) in [(Path::Kernel, 1, 99), (Path::Service, 0, 0), (Path::Tcp, 1, 99)] {
            let mut samples = Samples::default();
            samples
                .add(Job::Ping, path, sample(1.0, redirected, tcp))
                .unwrap();
            assert!(
                matches!(samples.results(), Err(Error::NotAccelerating(_))),
                "{path:?}"
            );
        }
    }

    #[test]
    fn digests_must_agree() {
        let mut samples = Samples::default();
        let digest = |text: &str| Sample {
            sha256: Some(text.to_owned()),
            ..Sample::default()
        };
        samples.add(Job::Workflow, Path::Kernel, digest("a")).unwrap();
        samples.add(Job::Workflow, Path::Tcp, digest("a")).unwrap();
        assert!(matches!(
            samples.add(Job::Workflow, Path::Service, digest("b")),
            Err(Error::Data(_))
        ));
    }
}
