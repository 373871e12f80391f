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
}

/// What a workload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Messages of some bytes, each sent back before the next one.
    Rtt,
    /// Bytes in one direction, in writes of some bytes.
    Stream,
}

/// A workload: one row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Workload {
    /// The part of the report that it belongs to.
    pub group: Group,
    /// What it does.
    pub kind: Kind,
    /// Bytes of a message, or of a write.
    pub size: u64,
    /// Whether programs that can choose set TCP_NODELAY.
    pub nodelay: bool,
    /// On which processors the ends run; none is the suite's own choice.
    pub cpus: Option<Cpus>,
}

/// A figure of a workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Median round trip of a run in microseconds.
    RttP50,
    /// 99th percentile of the round trips of a run in microseconds.
    RttP99,
    /// 10⁹ bytes per second.
    Throughput,
    /// Processor seconds per 10⁹ bytes that the processes of both ends used.
    CpuRusage,
    /// The same of their cgroups.
    CpuCgroup,
    /// The same of the whole machine.
    CpuMachine,
}

impl Group {
    /// What its workloads differ in, for the axis of a chart.
    #[must_use]
    pub const fn horizontal(self) -> &'static str {
        match self {
            Self::Rtt | Self::Cpus => "size of the message",
            Self::Stream | Self::Nodelay => "size of the write",
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
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Rtt => "round trip",
            Self::Stream => "stream",
        }
    }
}

impl Metric {
    /// Its unit.
    #[must_use]
    pub const fn unit(self) -> &'static str {
        match self {
            Self::RttP50 | Self::RttP99 => "µs",
            Self::Throughput => "GB/s",
            Self::CpuRusage | Self::CpuCgroup | Self::CpuMachine => "s/GB",
        }
    }

    /// Whether a lower figure is the better one.
    #[must_use]
    pub const fn lower_is_better(self) -> bool {
        !matches!(self, Self::Throughput)
    }
}

impl Workload {
    /// A workload in which programs set TCP_NODELAY, on the suite's processors.
    #[must_use]
    pub const fn new(group: Group, kind: Kind, size: u64) -> Self {
        Self {
            group,
            kind,
            size,
            nodelay: true,
            cpus: None,
        }
    }

    /// Its name within its group, as the head of a column.
    #[must_use]
    pub fn column(&self) -> String {
        let size = report::bytes(self.size);
        match self.cpus {
            Some(cpus) => format!("{size}, {}", cpus.phrase()),
            None => size,
        }
    }

    /// Its name, with all that tells it from others.
    #[must_use]
    pub fn name(&self) -> String {
        let mut name = format!("{} {}", self.kind.name(), report::bytes(self.size));
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
            cpus: Some(Cpus::Together),
            ..workload
        };
        assert_eq!(
            other.name(),
            "round trip 64 B, without NODELAY, both peers on one CPU"
        );
    }
}
