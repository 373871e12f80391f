//! What is run and what is measured.

use std::net::SocketAddr;
use std::process::Command;

use serde::Serialize;

use crate::Result;

/// The unit of a measure, which tells whether more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Microseconds; less is better.
    #[serde(rename = "us")]
    Microseconds,
    /// 10⁹ bytes per second; more is better.
    #[serde(rename = "GB/s")]
    GigabytesPerSecond,
    /// Requests or connections per second; more is better.
    #[serde(rename = "1/s")]
    PerSecond,
}

impl Unit {
    /// How it is written.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Microseconds => "µs",
            Self::GigabytesPerSecond => "GB/s",
            Self::PerSecond => "1/s",
        }
    }

    /// Whether a lower figure is the better one.
    #[must_use]
    pub const fn lower_is_better(self) -> bool {
        matches!(self, Self::Microseconds)
    }
}

/// One figure of a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measure {
    /// What it is of, with all that tells it from others.
    pub name: String,
    /// Its unit.
    pub unit: Unit,
}

/// A server and a client, run in two pods.
pub trait Workload {
    /// The figures that [`Workload::values`] gives, in its order.
    fn measures(&self) -> Vec<Measure>;

    /// Tools that it needs beside the programs of this repository.
    fn tools(&self) -> &'static [&'static str] {
        &[]
    }

    /// The server, which listens on `address`. `verify` asks for a check of every byte, at any cost in speed.
    ///
    /// # Errors
    /// Its files cannot be written.
    fn server(&self, address: SocketAddr, verify: bool) -> Result<Command>;

    /// The client, which ends by itself and fails when anything is wrong.
    fn client(&self, address: SocketAddr, verify: bool) -> Command;

    /// The figures in what the client printed on stdout.
    ///
    /// # Errors
    /// They are not there, or the client counted errors.
    fn values(&self, stdout: &str) -> Result<Vec<f64>>;
}
