//! The kinds of figures.

use clap::ValueEnum;
use serde::Serialize;

use crate::guests::Talk;
use crate::rate::{self, Load};
use crate::start::{self, Event};
use crate::{Peer, Result, Stage, memory};

/// A kind of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Group {
    /// Time to the first output, in an idle pod and with a new pod
    Output,
    /// Time to the first answer over TCP, in an idle pod and with a new pod
    Answer,
    /// Memory per idle function
    Memory,
    /// Functions started and finished in a second, in idle pods and with new pods
    Rate,
    /// Round trips and streams between functions in two pods
    Guests,
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Milliseconds; less is better.
    #[serde(rename = "ms")]
    Milliseconds,
    /// MiB of proportional set size; less is better.
    #[serde(rename = "MiB")]
    Mebibytes,
    /// Functions per second; more is better.
    #[serde(rename = "1/s")]
    PerSecond,
    /// Microseconds; less is better.
    #[serde(rename = "us")]
    Microseconds,
    /// 10⁹ bytes per second; more is better.
    #[serde(rename = "GB/s")]
    GigabytesPerSecond,
}

impl Unit {
    /// How it is written.
    #[must_use]
    pub const fn symbol(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Mebibytes => "MiB",
            Self::PerSecond => "1/s",
            Self::Microseconds => "µs",
            Self::GigabytesPerSecond => "GB/s",
        }
    }
}

/// What a group measures, and how much of it.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Idle functions of which memory is counted.
    pub idle: u16,
    /// Containers of which the rate is counted.
    pub containers: Load,
    /// Pods of which the rate is counted.
    pub pods: Load,
}

impl Scale {
    /// What takes about a minute for a round of all groups and peers.
    pub const FULL: Self = Self {
        idle: 20,
        containers: Load { workers: 4, each: 8 },
        pods: Load { workers: 4, each: 4 },
    };

    /// What takes seconds.
    pub const QUICK: Self = Self {
        idle: 3,
        containers: Load { workers: 2, each: 2 },
        pods: Load { workers: 2, each: 1 },
    };
}

impl Group {
    /// The figures that [`Group::run`] gives, in its order.
    #[must_use]
    pub fn measures(self, scale: &Scale) -> Vec<(String, Unit)> {
        match self {
            Self::Output => vec![
                ("container to first output".to_owned(), Unit::Milliseconds),
                ("pod to first output".to_owned(), Unit::Milliseconds),
            ],
            Self::Answer => vec![
                ("container to first answer".to_owned(), Unit::Milliseconds),
                ("pod to first answer".to_owned(), Unit::Milliseconds),
            ],
            Self::Memory => {
                vec![(
                    format!("memory per function, {} idle", scale.idle),
                    Unit::Mebibytes,
                )]
            }
            Self::Rate => vec![
                (
                    format!("containers, {} at once", scale.containers.workers),
                    Unit::PerSecond,
                ),
                (format!("pods, {} at once", scale.pods.workers), Unit::PerSecond),
            ],
            Self::Guests => vec![
                ("round trip 64 B, two pods".to_owned(), Unit::Microseconds),
                (
                    "stream 64 KiB writes, two pods".to_owned(),
                    Unit::GigabytesPerSecond,
                ),
            ],
        }
    }

    /// Whether the peer is of interest: how code was come by does not matter after the start, and the guests that talk are Wasm.
    #[must_use]
    pub fn includes(self, peer: Peer) -> bool {
        match peer {
            Peer::Cwasi | Peer::Stock => true,
            Peer::Cold => matches!(self, Self::Output | Self::Answer),
            Peer::Runc => self != Self::Guests,
        }
    }

    /// Takes the figures of one round of a peer.
    ///
    /// # Errors
    /// Something does not work, or not as it should.
    pub fn run(self, stage: &Stage, peer: Peer, scale: &Scale) -> Result<Vec<f64>> {
        let start = |event| {
            let start = start::measure(stage, peer, event)?;
            Ok(vec![
                start.container.as_secs_f64() * 1e3,
                start.pod.as_secs_f64() * 1e3,
            ])
        };
        match self {
            Self::Output => start(Event::Output),
            Self::Answer => start(Event::Answer),
            Self::Memory => Ok(vec![memory::measure(stage, peer, scale.idle)?]),
            Self::Rate => Ok(vec![
                rate::containers(stage, peer, scale.containers)?,
                rate::pods(stage, peer, scale.pods)?,
            ]),
            Self::Guests => [Talk::RoundTrips, Talk::Stream]
                .iter()
                .map(|talk| talk.measure(stage, peer))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_have_names_of_their_own() {
        let mut names: Vec<_> = Group::value_variants()
            .iter()
            .flat_map(|group| group.measures(&Scale::FULL))
            .map(|(name, _)| name)
            .collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
