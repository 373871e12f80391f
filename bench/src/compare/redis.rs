//! redis-server and redis-benchmark.

use std::net::SocketAddr;
use std::process::Command;

use super::workload::{Measure, Unit, Workload};
use crate::{Error, Result, tool};

/// SET and GET of small values.
#[derive(Debug)]
pub(super) struct Redis {
    pub(super) connections: u32,
    /// Requests that are sent before an answer is waited for.
    pub(super) pipeline: u32,
    /// Requests of each kind.
    pub(super) requests: u64,
}

impl Workload for Redis {
    fn measures(&self) -> Vec<Measure> {
        let measure = |request: &str| {
            let mut name = format!("redis {request}, {} conn.", self.connections);
            if self.pipeline > 1 {
                name += &format!(", pipeline {}", self.pipeline);
            }
            Measure {
                name,
                unit: Unit::PerSecond,
            }
        };
        ["SET", "GET"].map(measure).into()
    }

    fn tools(&self) -> &'static [&'static str] {
        &["redis-server", "redis-benchmark"]
    }

    fn server(&self, address: SocketAddr, _verify: bool) -> Result<Command> {
        Ok(server(address))
    }

    fn client(&self, address: SocketAddr, _verify: bool) -> Command {
        let mut command = tool::command("redis-benchmark");
        command
            .args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()])
            .args([
                "-c",
                &self.connections.to_string(),
                "-P",
                &self.pipeline.to_string(),
            ])
            .args(["-n", &self.requests.to_string(), "-t", "set,get", "--csv"]);
        command
    }

    fn values(&self, stdout: &str) -> Result<Vec<f64>> {
        ["SET", "GET"]
            .iter()
            .map(|request| rate(stdout, request))
            .collect()
    }
}

/// A Redis of one's own.
pub(crate) fn server(address: SocketAddr) -> Command {
    let mut command = tool::command("redis-server");
    // Nothing is written to disk, which would be measured too.
    command
        .args([
            "--save",
            "",
            "--appendonly",
            "no",
            "--protected-mode",
            "no",
            "--daemonize",
            "no",
        ])
        .args([
            "--bind",
            &address.ip().to_string(),
            "--port",
            &address.port().to_string(),
        ]);
    command
}

/// The rate of a request in CSV lines such as `"SET","123.45","0.1"…`.
fn rate(csv: &str, request: &str) -> Result<f64> {
    let missing = || Error::Output {
        program: "redis-benchmark".to_owned(),
        detail: format!("no rate of {request} in {csv:?}"),
    };
    csv.lines()
        .find_map(|line| line.strip_prefix(&format!("\"{request}\",\""))?.split('"').next())
        .and_then(|rate| rate.parse().ok())
        .ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_from_csv() {
        let workload = Redis {
            connections: 20,
            pipeline: 16,
            requests: 1,
        };
        let csv = "\"test\",\"rps\",\"avg_latency_ms\"\n\"SET\",\"81234.5\",\"0.2\"\n\"GET\",\"90909.09\",\"0.1\"\n";
        assert_eq!(workload.values(csv).unwrap(), [81_234.5, 90_909.09]);
        assert_eq!(workload.measures()[1].name, "redis GET, 20 conn., pipeline 16");
        assert!(workload.values("\"SET\",\"1.0\"\n").is_err());
    }
}
