//! How much of a workload a run does: as much as takes the wanted time.
//!
//! Peers differ by orders of magnitude. A first, short run of each, which does not count, tells its speed.

use std::time::Duration;

use super::workload::Kind;

/// Bytes of a stream's run at most, whatever its speed: a report of 2³² of them must not be mistaken for few.
const MOST_BYTES: u64 = 16 << 30;

/// Amounts of a kind and size: round trips, or bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amount {
    /// Of the first run.
    pub first: u64,
    least: u64,
    most: u64,
}

impl Amount {
    /// The amounts of a workload of messages or writes of `size` bytes.
    #[must_use]
    pub fn of(kind: Kind, size: u64) -> Self {
        match kind {
            // A median needs some round trips, except where each takes a good part of a second.
            Kind::Rtt => Self {
                first: (64_000_000 / size).clamp(2, 1000),
                least: (100_000_000 / size).clamp(2, 200),
                most: 1_000_000,
            },
            Kind::Stream => Self {
                first: (size * 30_000).clamp(size, (256 << 20).max(size)),
                least: (size * 10_000).clamp(size, (64 << 20).max(size * 2)),
                most: MOST_BYTES,
            },
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
    use super::*;

    #[test]
    fn amounts_follow_the_speed_within_bounds() {
        let rtt = Amount::of(Kind::Rtt, 64);
        let wanted = Duration::from_millis(400);
        assert_eq!(rtt.that_takes(wanted, 40e-6), 10_000);
        assert_eq!(rtt.that_takes(wanted, 1.0), 200);
        assert_eq!(rtt.that_takes(wanted, 0.0), 1_000_000);
        let large = Amount::of(Kind::Rtt, 100_000_000);
        assert_eq!((large.first, large.that_takes(wanted, 0.1)), (2, 4));
        assert_eq!(large.that_takes(wanted, 2.0), 2);
    }

    #[test]
    fn streams_have_whole_writes() {
        for size in [64, 1 << 20, 100_000_000] {
            let stream = Amount::of(Kind::Stream, size);
            assert!(stream.first >= size && stream.least >= size, "{size}");
            assert!(stream.that_takes(Duration::from_millis(400), 1e-9) >= stream.least);
        }
    }
}
