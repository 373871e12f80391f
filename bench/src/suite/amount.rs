//! How much of a workload a run does: as much as takes the wanted time.
//!
//! Peers differ by orders of magnitude, so each is given what it can do in the time, by the speed of its run before.

use std::time::Duration;

use super::workload::{Kind, Workload};

/// Bytes of a stream's run at most, whatever its speed.
const MOST_BYTES: u64 = 16 << 30;

/// Connections of a run at most: each leaves a port in TIME_WAIT.
const MOST_CONNECTIONS: u64 = 10_000;

/// Amounts of a workload: requests on each connection, or bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Of the first run.
    pub first: u64,
    least: u64,
    most: u64,
}

impl Amount {
    /// The amounts of a workload.
    #[must_use]
    pub fn of(workload: &Workload) -> Self {
        let size = workload.size;
        match workload.kind {
            Kind::Stream => Self {
                first: (size * 30_000).clamp(size, (256 << 20).max(size)),
                least: (size * 10_000).clamp(size, (64 << 20).max(size)),
                most: MOST_BYTES,
            },
            kind => {
                // A median needs some requests, except where each takes a good part of a second.
                let at_once = size * u64::from(workload.degree);
                let most = if kind == Kind::Connect {
                    MOST_CONNECTIONS
                } else {
                    1_000_000
                };
                Self {
                    first: (32_000_000 / at_once).clamp(2, 1000),
                    least: (100_000_000 / at_once).clamp(2, 100),
                    most,
                }
            }
        }
    }

    /// The amount that takes `wanted`, when one of it takes `each` seconds.
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Bounded by `most`, and never negative.
    pub fn that_takes(self, wanted: Duration, each: f64) -> u64 {
        let fitting = (wanted.as_secs_f64() / each).min(self.most as f64).max(0.0);
        (fitting as u64).clamp(self.least, self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::super::workload::Group;
    use super::*;

    const WANTED: Duration = Duration::from_millis(400);

    fn amount(kind: Kind, size: u64) -> Amount {
        Amount::of(&Workload::new(Group::Rtt, kind, size))
    }

    #[test]
    fn amounts_follow_the_speed_within_bounds() {
        let rtt = amount(Kind::Rtt, 64);
        assert_eq!(rtt.that_takes(WANTED, 40e-6), 10_000);
        assert_eq!(rtt.that_takes(WANTED, 1.0), 100);
        assert_eq!(rtt.that_takes(WANTED, 0.0), 1_000_000);
        assert_eq!(amount(Kind::Connect, 64).that_takes(WANTED, 1e-9), 10_000);
        let large = amount(Kind::Rtt, 100_000_000);
        assert_eq!((large.first, large.that_takes(WANTED, 0.1)), (2, 4));
        assert_eq!(large.that_takes(WANTED, 2.0), 2);
    }

    #[test]
    fn many_do_less_each() {
        let one = Workload::new(Group::FanOut, Kind::FanOut, 2_000_000);
        assert!(Amount::of(&one.times(16)).first < Amount::of(&one).first);
    }

    #[test]
    fn streams_have_whole_writes() {
        for size in [64, 1 << 20, 100_000_000] {
            let stream = amount(Kind::Stream, size);
            assert!(stream.first >= size && stream.least >= size, "{size}");
            assert!(stream.that_takes(WANTED, 1e-9) >= stream.least);
        }
    }
}
