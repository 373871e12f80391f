//! Workloads of `cwasi-native`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use cwasi_peer::bulk::Sent;
use serde::de::DeserializeOwned;

use super::workload::{Measure, Unit, Workload};
use crate::native::{Fetched, Ping, Rate};
use crate::{Error, Result, report};

/// A client and a server of `cwasi-native`.
#[derive(Debug)]
pub(super) struct Native {
    /// The file of `cwasi-native`.
    pub(super) program: PathBuf,
    pub(super) job: Job,
    /// Bytes of a message, a write or a file.
    pub(super) size: u64,
    /// Messages, connections or fetches; bytes for a stream.
    pub(super) amount: u64,
    pub(super) nodelay: bool,
}

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Ping,
    Stream,
    Connect,
    SendFile,
}

impl Native {
    fn command(&self, words: &[&str], address: SocketAddr) -> Command {
        let mut command = Command::new(&self.program);
        command.args(words).arg(address.to_string());
        if self.nodelay && words != ["stream", "sink"] {
            command.arg("--nodelay");
        }
        command
    }

    fn sized(&self, words: &[&str], address: SocketAddr) -> Command {
        let mut command = self.command(words, address);
        command.arg("--size").arg(self.size.to_string());
        command
    }
}

impl Workload for Native {
    fn measures(&self) -> Vec<Measure> {
        let size = report::bytes(self.size);
        let (name, unit) = match self.job {
            Job::Ping => (format!("round trip {size}"), Unit::Microseconds),
            Job::Stream => (format!("stream {size} writes"), Unit::GigabytesPerSecond),
            Job::Connect => ("connections, one request each".to_owned(), Unit::PerSecond),
            Job::SendFile => (format!("sendfile {size}"), Unit::GigabytesPerSecond),
        };
        let name = if self.nodelay {
            format!("{name}, NODELAY")
        } else {
            name
        };
        vec![Measure { name, unit }]
    }

    fn server(&self, address: SocketAddr, verify: bool) -> Result<Command> {
        let mut command = match self.job {
            Job::Ping => self.sized(&["echo"], address),
            Job::Stream => self.command(&["stream", "sink"], address),
            Job::Connect => self.sized(&["serve"], address),
            Job::SendFile => self.sized(&["serve-file"], address),
        };
        if verify && self.job == Job::Stream {
            command.arg("--verify");
        }
        Ok(command)
    }

    fn client(&self, address: SocketAddr, verify: bool) -> Command {
        let (words, amount): (&[&str], _) = match self.job {
            Job::Ping => (&["ping"], "--count"),
            Job::Stream => (&["stream", "source"], "--bytes"),
            Job::Connect => (&["connect-rate"], "--count"),
            Job::SendFile => (&["fetch"], "--count"),
        };
        let mut command = self.sized(words, address);
        command.arg(amount).arg(self.amount.to_string());
        match self.job {
            Job::Ping => {
                // The first messages of a connection still go by TCP in every mode.
                command.arg("--warmup").arg((self.amount / 20).to_string());
            }
            Job::SendFile if verify => {
                command.arg("--verify");
            }
            _ => {}
        }
        command
    }

    fn values(&self, stdout: &str) -> Result<Vec<f64>> {
        let value = match self.job {
            Job::Ping => json::<Ping>(stdout)?.times.p50_us,
            Job::Stream => json::<Sent>(stdout)?.gb_per_s,
            Job::Connect => json::<Rate>(stdout)?.per_second,
            Job::SendFile => json::<Fetched>(stdout)?.gb_per_s,
        };
        Ok(vec![value])
    }
}

fn json<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::Output {
        program: "cwasi-native".to_owned(),
        detail: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::native::Args;

    #[test]
    fn the_native_program_takes_every_command_line() {
        let address = "10.0.0.1:7000".parse().unwrap();
        for job in [Job::Ping, Job::Stream, Job::Connect, Job::SendFile] {
            for flags in 0..4 {
                let workload = Native {
                    program: "cwasi-native".into(),
                    job,
                    size: 64,
                    amount: 1000,
                    nodelay: flags & 1 == 1,
                };
                let verify = flags & 2 == 2;
                for command in [
                    workload.server(address, verify).unwrap(),
                    workload.client(address, verify),
                ] {
                    let words = [command.get_program()].into_iter().chain(command.get_args());
                    Args::try_parse_from(words).unwrap();
                }
            }
        }
    }

    #[test]
    fn figures_are_taken_out() {
        let workload = Native {
            program: PathBuf::new(),
            job: Job::Stream,
            size: 1024,
            amount: 1,
            nodelay: true,
        };
        let line = r#"{"bytes":5,"size":1024,"seconds":0.5,"gb_per_s":2.5,"ok":true}"#;
        assert_eq!(workload.values(line).unwrap(), [2.5]);
        assert_eq!(workload.measures()[0].name, "stream 1 KiB writes, NODELAY");
        assert!(workload.values("").is_err());
    }
}
