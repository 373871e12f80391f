//! Percentiles of measured durations.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The distribution of durations, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The median.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The arithmetic mean.
    pub mean_us: f64,
    /// The shortest.
    pub min_us: f64,
    /// The longest.
    pub max_us: f64,
}

impl Summary {
    /// Summarises durations, which are sorted for it; `None` when there are none. Percentiles are nearest-rank: each is
    /// one of the measured values.
    pub fn of(durations: &mut [Duration]) -> Option<Self> {
        durations.sort_unstable();
        let (&min, &max) = (durations.first()?, durations.last()?);
        let count = durations.len();
        let percentile = |percent: usize| durations[(count * percent).div_ceil(100).max(1) - 1];
        let total: Duration = durations.iter().sum();
        Some(Self {
            p50_us: micros(percentile(50)),
            p99_us: micros(percentile(99)),
            mean_us: round(total.as_secs_f64() * 1e6 / count as f64),
            min_us: micros(min),
            max_us: micros(max),
        })
    }
}

fn micros(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1e6)
}

/// Nanoseconds are what the clocks have.
fn round(micros: f64) -> f64 {
    (micros * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut durations: Vec<Duration> = (1..=200).rev().map(Duration::from_micros).collect();
        let summary = Summary::of(&mut durations).unwrap();
        let values = [
            summary.p50_us,
            summary.p99_us,
            summary.mean_us,
            summary.min_us,
            summary.max_us,
        ];
        assert_eq!(values, [100.0, 198.0, 100.5, 1.0, 200.0]);
    }

    #[test]
    fn one_value_is_every_percentile_and_none_is_nothing() {
        let summary = Summary::of(&mut [Duration::from_micros(3)]).unwrap();
        assert_eq!((summary.p50_us, summary.p99_us), (summary.min_us, summary.max_us));
        assert_eq!(Summary::of(&mut []), None);
    }
}
