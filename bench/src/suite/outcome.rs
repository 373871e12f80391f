//! What a run measured, read from what its functions printed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::cast::Run;
use super::workload::{Kind, Metric, Workload};
use crate::{Error, Result, stats};

/// Figures of a run.
pub type Figures = BTreeMap<Metric, f64>;

/// What a run measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its figures.
    pub figures: Figures,
    /// Seconds that one of the amount takes.
    pub each: f64,
}

/// The result of a client that sends requests.
#[derive(Deserialize)]
struct Requests {
    seconds: f64,
    per_second: f64,
    gb_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    round: Option<Round>,
}

#[derive(Deserialize)]
struct Round {
    p50_us: f64,
}

/// What a server says of the requests that it has answered.
#[derive(Deserialize)]
struct Served {
    requests: u64,
    seconds: f64,
    per_second: f64,
    gb_per_s: f64,
    failed: u64,
}

/// The result of either end of a stream.
#[derive(Deserialize)]
struct Streamed {
    bytes: u64,
    seconds: f64,
    ok: bool,
}

impl Outcome {
    /// Reads what all functions of a workload printed, each result in a line.
    ///
    /// # Errors
    /// A result is missing, or tells of wrong data.
    pub fn read(workload: &Workload, run: Run, stdout: &str) -> Result<Self> {
        let lines: Vec<Value> = stdout
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let outcome = match workload.kind {
            Kind::Stream => stream(all(&lines))?,
            Kind::FanIn => fan_in(all(&lines), all(&lines), run),
            kind => all(&lines).next().map(|requests| answered(kind, &requests, run)),
        };
        outcome.ok_or_else(|| Error::Output {
            program: workload.name(),
            detail: format!("no result in {stdout:?}"),
        })
    }
}

fn answered(kind: Kind, requests: &Requests, run: Run) -> Outcome {
    let figures = match kind {
        Kind::FanOut => {
            let round = requests.round.as_ref().map_or(0.0, |round| round.p50_us);
            vec![
                (Metric::Latency, round / 1e3),
                (Metric::Rate, requests.per_second),
                (Metric::Throughput, requests.gb_per_s),
            ]
        }
        Kind::Transfer => vec![
            (Metric::Latency, requests.p50_us / 1e3),
            (Metric::Rate, requests.per_second),
            (Metric::Throughput, requests.gb_per_s),
        ],
        _ => vec![
            (Metric::RttP50, requests.p50_us),
            (Metric::RttP99, requests.p99_us),
            (Metric::Rate, requests.per_second),
        ],
    };
    Outcome {
        figures: figures.into_iter().collect(),
        each: requests.seconds / run.amount as f64,
    }
}

/// The server knows when the last of all was there, the clients how long each waited.
fn fan_in(
    mut served: impl Iterator<Item = Served>,
    clients: impl Iterator<Item = Requests>,
    run: Run,
) -> Option<Outcome> {
    let served = served.find(|served| served.requests > 0 && served.failed == 0)?;
    let waits: Vec<f64> = clients.map(|client| client.p50_us / 1e3).collect();
    (!waits.is_empty()).then(|| Outcome {
        figures: Figures::from([
            (Metric::Latency, stats::median(&waits)),
            (Metric::Rate, served.per_second),
            (Metric::Throughput, served.gb_per_s),
        ]),
        each: served.seconds / run.amount as f64,
    })
}

fn stream(ends: impl Iterator<Item = Streamed>) -> Result<Option<Outcome>> {
    let ends: Vec<Streamed> = ends.collect();
    if ends.iter().any(|end| !end.ok) {
        return Err(Error::Data("one end of a stream has other bytes".to_owned()));
    }
    // Where both ends tell: the source waits for the sink's acknowledgement, so that its time is the longer one.
    let source = ends.into_iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
    Ok(source.map(|source| {
        let each = source.seconds / source.bytes as f64;
        Outcome {
            figures: Figures::from([(Metric::Throughput, 1e-9 / each)]),
            each,
        }
    }))
}

/// The lines that have the fields of a result.
fn all<T: for<'a> Deserialize<'a>>(lines: &[Value]) -> impl Iterator<Item = T> {
    lines.iter().filter_map(|line| T::deserialize(line).ok())
}

#[cfg(test)]
mod tests {
    use super::super::workload::Group;
    use super::*;

    const RUN: Run = Run {
        amount: 10,
        verify: false,
    };

    fn workload(kind: Kind) -> Workload {
        Workload::new(Group::Rtt, kind, 64)
    }

    fn client(p50_us: f64) -> String {
        format!(
            r#"{{"size":64,"answer":1,"connections":1,"count":10,"seconds":0.5,"per_second":20.0,"gb_per_s":0.25,"p50_us":{p50_us},"p99_us":90.0,"mean_us":1,"min_us":1,"max_us":1,"round":{{"p50_us":4000.0,"p99_us":1,"mean_us":1,"min_us":1,"max_us":1}}}}"#
        )
    }

    #[test]
    fn requests_are_read_for_what_they_are_about() {
        let read = |kind| Outcome::read(&workload(kind), RUN, &client(2000.0)).unwrap();
        let rtt = read(Kind::Rtt);
        assert_eq!((rtt.figures[&Metric::RttP50], rtt.each), (2000.0, 0.05));
        assert_eq!(read(Kind::Transfer).figures[&Metric::Latency], 2.0);
        assert_eq!(read(Kind::FanOut).figures[&Metric::Latency], 4.0);
        assert_eq!(read(Kind::Connect).figures[&Metric::Rate], 20.0);
        for kind in [
            Kind::Rtt,
            Kind::Transfer,
            Kind::FanOut,
            Kind::Connect,
            Kind::Connections,
        ] {
            assert!(read(kind).figures.contains_key(&kind.metric()), "{kind:?}");
        }
        assert!(Outcome::read(&workload(Kind::Rtt), RUN, "listening").is_err());
    }

    #[test]
    fn the_server_of_a_fan_in_tells_its_rate() {
        let served = r#"{"connections":2,"requests":20,"bytes":9,"seconds":0.8,"per_second":25.0,"gb_per_s":0.5,"failed":0}"#;
        let text = format!("{}\n{served}\n{}\n", client(2000.0), client(4000.0));
        let outcome = Outcome::read(&workload(Kind::FanIn), RUN, &text).unwrap();
        assert_eq!(
            (
                outcome.figures[&Metric::Latency],
                outcome.figures[&Metric::Rate],
                outcome.each
            ),
            (3.0, 25.0, 0.08)
        );
        assert!(Outcome::read(&workload(Kind::FanIn), RUN, served).is_err());
        let failed = text.replace("\"failed\":0", "\"failed\":1");
        assert!(Outcome::read(&workload(Kind::FanIn), RUN, &failed).is_err());
    }

    #[test]
    fn the_longer_time_of_a_stream_counts() {
        let line = |seconds: f64, ok: bool| {
            format!(
                r#"{{"bytes":1000000000,"size":1,"seconds":{seconds},"gb_per_s":9,"checksum":"x","ok":{ok}}}"#
            )
        };
        let both = format!("{}\n{}\n", line(0.4, true), line(0.5, true));
        let outcome = Outcome::read(&workload(Kind::Stream), RUN, &both).unwrap();
        assert_eq!(
            (outcome.figures[&Metric::Throughput], outcome.each),
            (2.0, 0.5e-9)
        );
        let wrong = Outcome::read(&workload(Kind::Stream), RUN, &line(1.0, false));
        assert!(matches!(wrong, Err(Error::Data(_))));
    }
}
