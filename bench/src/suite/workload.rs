//! What functions do to each other, and what is measured of it.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::compare::Cpus;
use crate::report;

/// A kind of figures, chosen by `--only`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Round trips of 64 B to 100 MB
    Rtt,
    /// Streams of writes of 64 B to 100 MB, and their processor time
    Stream,
    /// Both without TCP_NODELAY, where a program decides that itself
    Nodelay,
    /// Round trips with the peers on processors of their own, and on the same one
    Cpus,
    /// Messages of 2, 10 and 100 MB from one function to the next, also through Redis and HTTP
    Transfer,
    /// One function gives messages to several
    FanOut,
    /// Several functions give messages to one
    FanIn,
    /// 1 to 64 connections at the same time
    Connections,
    /// Connections of one request each
    Connect,
    /// Round trips and streams by a Service address
    Service,
    /// Round trips and streams to another node
    Remote,
    /// From a function's start to its first answer
    Start,
    /// Round trips, streams and starts in containerd, with cwasi's shim and a stock one
    Containerd,
}

/// What a workload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Messages of some bytes, each sent back before the next one.
    Rtt,
    /// Bytes in one direction, in writes of some bytes.
    Stream,
    /// Messages of some bytes, each acknowledged by one byte when all of it is there.
    Transfer,
    /// The same from one function to several others at a time: the next round begins when all have acknowledged.
    FanOut,
    /// The same from several functions to one.
    FanIn,
    /// Round trips on several connections at the same time.
    Connections,
    /// Round trips, each on a connection of its own.
    Connect,
    /// A function is started and asked until it answers.
    Start,
}

/// How the client reaches the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Route {
    /// By the address of a pod of the same node.
    #[default]
    Pod,
    /// By a Service address, which the node translates.
    Service,
    /// Behind a router, on another node.
    Remote,
}

/// A workload: one column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// The part of the report that it belongs to.
    pub group: Group,
    /// What it does.
    pub kind: Kind,
    /// Bytes of a message, or of a write.
    pub size: u64,
    /// Functions on the side of the many, or connections.
    pub degree: u16,
    /// Whether programs that can choose set TCP_NODELAY.
    pub nodelay: bool,
    /// How the client reaches the server.
    pub route: Route,
    /// On which processors the ends run; none is the suite's own choice.
    pub cpus: Option<Cpus>,
}

/// A figure of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Metric {
    /// Median round trip of a run in microseconds.
    RttP50,
    /// 99th percentile of the round trips of a run in microseconds.
    RttP99,
    /// Median of a run's messages, or rounds of messages, in milliseconds.
    Latency,
    /// 10⁹ bytes per second.
    Throughput,
    /// Requests, messages or connections per second.
    Rate,
    /// Milliseconds from the start of a process to its first answer.
    Start,
    /// Processor seconds per 10⁹ bytes that the processes of both ends used.
    CpuRusage,
    /// The same of their cgroups.
    CpuCgroup,
    /// The same of the whole machine.
    CpuMachine,
}

impl Group {
    /// Whether its workloads differ in how many functions or connections there are.
    #[must_use]
    pub const fn is_of_degrees(self) -> bool {
        matches!(self, Self::FanOut | Self::FanIn | Self::Connections)
    }

    /// What its workloads differ in, for the axis of a chart.
    #[must_use]
    pub const fn horizontal(self) -> &'static str {
        match self {
            Self::Stream | Self::Nodelay => "size of the write",
            Self::FanOut => "receivers",
            Self::FanIn => "senders",
            Self::Connections => "connections",
            _ => "size of the message",
        }
    }
}

impl Kind {
    /// The figure that the workload is about.
    #[must_use]
    pub const fn metric(self) -> Metric {
        match self {
            Self::Rtt => Metric::RttP50,
            Self::Stream => Metric::Throughput,
            Self::Transfer | Self::FanOut | Self::FanIn => Metric::Latency,
            Self::Connections | Self::Connect => Metric::Rate,
            Self::Start => Metric::Start,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rtt => "round trip",
            Self::Stream => "stream",
            Self::Transfer => "message",
            Self::FanOut => "fan-out",
            Self::FanIn => "fan-in",
            Self::Connections => "round trips",
            Self::Connect => "connection and round trip",
            Self::Start => "start to first answer",
        }
    }
}

impl Metric {
    /// Its unit.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::RttP50 | Self::RttP99 => "µs",
            Self::Latency | Self::Start => "ms",
            Self::Throughput => "GB/s",
            Self::Rate => "1/s",
            Self::CpuRusage | Self::CpuCgroup | Self::CpuMachine => "s/GB",
        }
    }

    /// What it is, at the beginning of a sentence.
    #[must_use]
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::RttP50 => "Median round trip",
            Self::RttP99 => "99th percentile of round trips",
            Self::Latency => "Median time",
            Self::Throughput => "Throughput",
            Self::Rate => "Rate",
            Self::Start => "Time",
            Self::CpuRusage | Self::CpuCgroup | Self::CpuMachine => "Processor time",
        }
    }

    /// Whether a lower figure is the better one.
    #[must_use]
    pub const fn lower_is_better(self) -> bool {
        !matches!(self, Self::Throughput | Self::Rate)
    }
}

impl Workload {
    /// A workload of two pods, in which programs set TCP_NODELAY, on the suite's processors.
    #[must_use]
    pub const fn new(group: Group, kind: Kind, size: u64) -> Self {
        Self {
            group,
            kind,
            size,
            degree: 1,
            nodelay: true,
            route: Route::Pod,
            cpus: None,
        }
    }

    /// The same with several functions or connections.
    #[must_use]
    pub const fn times(self, degree: u16) -> Self {
        Self { degree, ..self }
    }

    /// Its name within its group, as the head of a column.
    #[must_use]
    pub fn column(&self) -> String {
        let size = report::bytes(self.size);
        match (self.group, self.cpus) {
            (_, Some(cpus)) => format!("{size}, {}", cpus.phrase()),
            (Group::FanOut | Group::FanIn, _) => format!("{size} × {}", self.degree),
            (Group::Connections, _) => self.degree.to_string(),
            _ => size,
        }
    }

    /// Its name, with all that tells it from others.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = format!("{} {}", self.kind.name(), report::bytes(self.size));
        match self.kind {
            Kind::FanOut => name += &format!(", 1 → {}", self.degree),
            Kind::FanIn => name += &format!(", {} → 1", self.degree),
            Kind::Connections => name += &format!(", {} connections", self.degree),
            _ => {}
        }
        name += match self.route {
            Route::Pod => "",
            Route::Service => ", by a Service",
            Route::Remote => ", another node",
        };
        if !self.nodelay {
            name += ", without NODELAY";
        }
        if let Some(cpus) = self.cpus {
            name += ", ";
            name += cpus.phrase();
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_all_that_differs() {
        let workload = Workload::new(Group::Rtt, Kind::Rtt, 64);
        assert_eq!(workload.name(), "round trip 64 B");
        let other = Workload {
            nodelay: false,
            route: Route::Service,
            cpus: Some(Cpus::Together),
            ..workload
        };
        assert_eq!(
            other.name(),
            "round trip 64 B, by a Service, without NODELAY, both peers on one CPU"
        );
        let many = Workload::new(Group::FanOut, Kind::FanOut, 10_000_000).times(4);
        assert_eq!(
            (many.name().as_str(), many.column().as_str()),
            ("fan-out 10 MB, 1 → 4", "10 MB × 4")
        );
    }
}
