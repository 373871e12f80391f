//! The command lines of a workload's two ends, and what its client prints.
//!
//! Guests and native programs take the same words where they can. Each client prints its result on stdout as a JSON object in a
//! line of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::Value;

use super::peer::{Host, Peer};
use super::workload::{Kind, Metric, Workload};
use crate::{Error, Result};

/// A program and its arguments, as every host runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The guest, or the subcommand of a native program.
    pub program: &'static str,
    /// Its arguments.
    pub args: Vec<String>,
}

/// The two ends of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Listens, and ends after its last connection.
    pub server: End,
    /// Prints the result.
    pub client: End,
}

/// What a run measured.
pub type Figures = BTreeMap<Metric, f64>;

/// The result of `ping`.
#[derive(Deserialize)]
struct Ping {
    p50_us: f64,
    p99_us: f64,
    mean_us: f64,
}

/// The result of `stream source`.
#[derive(Deserialize)]
struct Streamed {
    bytes: u64,
    seconds: f64,
    ok: bool,
}

impl End {
    fn new(program: &'static str, args: impl IntoIterator<Item = impl ToString>) -> Self {
        Self {
            program,
            args: args.into_iter().map(|word| word.to_string()).collect(),
        }
    }

    fn option(mut self, name: &str, value: u64) -> Self {
        self.args.extend([format!("--{name}"), value.to_string()]);
        self
    }

    fn flag(mut self, name: &str, set: bool) -> Self {
        self.args.extend(set.then(|| format!("--{name}")));
        self
    }
}

impl Ends {
    /// The ends that meet at `address`. `amount` is of round trips, or of bytes.
    #[must_use]
    pub fn of(workload: &Workload, peer: Peer, address: SocketAddr, amount: u64) -> Self {
        // Guests ask too, and the host decides: WASI 0.2 has no such option.
        let nodelay = workload.nodelay;
        let (server, client) = match workload.kind {
            Kind::Rtt => {
                let echo = End::new("echo", [address]);
                // A native echo sends whole messages back, a guest whatever it has read.
                let echo = match peer.host() {
                    Host::Rust => echo.option("size", workload.size).flag("nodelay", nodelay),
                    Host::Stock | Host::Runner => echo,
                };
                let ping = End::new("ping", [address])
                    .option("size", workload.size)
                    .option("count", amount)
                    // The first messages of a connection go by TCP also where others do not.
                    .option("warmup", (amount / 20).clamp(1, 200));
                (echo, ping)
            }
            Kind::Stream => {
                let source = End::new("stream", ["source".to_owned(), address.to_string()]);
                (
                    End::new("stream", ["sink".to_owned(), address.to_string()]),
                    source.option("size", workload.size).option("bytes", amount),
                )
            }
        };
        Self {
            server: server.option("connections", 1),
            client: client.flag("nodelay", nodelay),
        }
    }
}

/// The result of a client: its figures, and the seconds that one of its amount takes. In one process both ends print on the
/// same stdout: what the server says of itself is passed over.
///
/// # Errors
/// There is no result, or it tells of wrong data.
pub fn result(kind: Kind, stdout: &str) -> Result<(Figures, f64)> {
    let missing = || Error::Output {
        program: "the client".to_owned(),
        detail: format!("no result in {stdout:?}"),
    };
    let objects: Vec<Value> = stdout
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    match kind {
        Kind::Rtt => {
            let ping: Ping = all(&objects).next().ok_or_else(missing)?;
            let figures = [(Metric::RttP50, ping.p50_us), (Metric::RttP99, ping.p99_us)];
            Ok((figures.into(), ping.mean_us / 1e6))
        }
        Kind::Stream => {
            let ends: Vec<Streamed> = all(&objects).collect();
            if ends.iter().any(|end| !end.ok) {
                return Err(Error::Data(format!("an end of a stream says so: {stdout}")));
            }
            // The source waits for the sink's acknowledgement, so that its time is the longer one.
            let source = ends.into_iter().max_by(|a, b| a.seconds.total_cmp(&b.seconds));
            let source = source.ok_or_else(missing)?;
            let each = source.seconds / source.bytes as f64;
            Ok(([(Metric::Throughput, 1e-9 / each)].into(), each))
        }
    }
}

fn all<T: for<'a> Deserialize<'a>>(objects: &[Value]) -> impl Iterator<Item = T> {
    objects.iter().filter_map(|object| T::deserialize(object).ok())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::workload::Group;
    use super::*;
    use crate::native;

    #[test]
    fn the_native_program_takes_every_command_line() {
        let address = "10.0.0.1:7000".parse().unwrap();
        for kind in [Kind::Rtt, Kind::Stream] {
            for nodelay in [false, true] {
                let workload = Workload {
                    nodelay,
                    ..Workload::new(Group::Nodelay, kind, 1000)
                };
                let ends = Ends::of(&workload, Peer::Rust, address, 4000);
                for end in [ends.server, ends.client] {
                    let words = ["cwasi-native", end.program].map(str::to_owned);
                    native::Args::try_parse_from(words.into_iter().chain(end.args)).unwrap();
                }
            }
        }
    }

    #[test]
    fn guests_are_not_told_the_size_of_an_echo() {
        let workload = Workload::new(Group::Rtt, Kind::Rtt, 64);
        let ends = Ends::of(&workload, Peer::Stock, "1.2.3.4:5".parse().unwrap(), 1000);
        assert_eq!(ends.server.args, ["1.2.3.4:5", "--connections", "1"]);
        assert_eq!(
            ends.client.args.join(" "),
            "1.2.3.4:5 --size 64 --count 1000 --warmup 50 --nodelay"
        );
    }

    #[test]
    fn results_are_read_from_lines() {
        let ping =
            r#"{"size":64,"count":3,"p50_us":10.0,"p99_us":30.0,"mean_us":12.0,"min_us":1,"max_us":2}"#;
        let (figures, each) = result(Kind::Rtt, ping).unwrap();
        assert_eq!(
            (figures[&Metric::RttP50], figures[&Metric::RttP99], each),
            (10.0, 30.0, 12e-6)
        );
        let line = |seconds: f64, ok: bool| {
            format!(
                r#"{{"bytes":1000000000,"size":1,"seconds":{seconds},"gb_per_s":9,"checksum":"x","ok":{ok}}}"#
            )
        };
        let both = format!("{}\n{}\n", line(0.4, true), line(0.5, true));
        let (figures, each) = result(Kind::Stream, &both).unwrap();
        assert_eq!((figures[&Metric::Throughput], each), (2.0, 0.5e-9));
        assert!(matches!(
            result(Kind::Stream, &line(1.0, false)),
            Err(Error::Data(_))
        ));
        assert!(result(Kind::Rtt, "listening").is_err());
    }
}
