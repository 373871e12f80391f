//! Medians, their spread, and ratios of paired rounds; the order within a round.

use serde::Serialize;

/// The percentile of sorted values, by nearest rank: one of the values. 0 for none.
#[must_use]
pub fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// The median of values in any order: the middle one, or the mean of the two in the middle. 0 for none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// How far apart values are: the lowest and the highest.
#[must_use]
pub fn range(values: &[f64]) -> (f64, f64) {
    let sorted = sorted(values);
    match (sorted.first(), sorted.last()) {
        (Some(&low), Some(&high)) => (low, high),
        _ => (0.0, 0.0),
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Everything that is measured in a round once, beginning with another in each round: none always runs on what the same other
/// left behind.
#[must_use]
pub fn rotated<T, All: AsMut<[T]>>(mut all: All, round: usize) -> All {
    let items = all.as_mut();
    items.rotate_left(round.checked_rem(items.len()).unwrap_or(0));
    all
}

/// A ratio of two measurements that were taken in the same rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// Median of the rounds' ratios.
    pub median: f64,
    /// Lowest ratio of a round.
    pub low: f64,
    /// Highest ratio of a round.
    pub high: f64,
}

impl Ratio {
    /// The ratio of `a` over `b`, whose values with the same index are of the same round: what disturbs the machine for
    /// longer than a round disturbs both. `None` without rounds, or when a `b` is 0.
    #[must_use]
    pub fn paired(a: &[f64], b: &[f64]) -> Option<Self> {
        let rounds: Vec<f64> = a.iter().zip(b).map(|(a, b)| a / b).collect();
        if rounds.is_empty() || !rounds.iter().all(|ratio| ratio.is_finite()) {
            return None;
        }
        let (low, high) = range(&rounds);
        Some(Self {
            median: median(&rounds),
            low,
            high,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 50), 100.0);
        assert_eq!(percentile(&values, 99), 198.0);
        assert_eq!(percentile(&[3.0], 99), 3.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }

    #[test]
    fn medians_of_even_and_odd_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn rounds_begin_in_turn() {
        assert_eq!(rotated([1, 2, 3], 0), [1, 2, 3]);
        assert_eq!(rotated([1, 2, 3], 4), [2, 3, 1]);
        assert_eq!(rotated([0; 0], 1), [0; 0]);
    }

    #[test]
    fn rounds_are_paired() {
        // A machine that is twice as slow in the second round changes no ratio.
        let ratio = Ratio::paired(&[10.0, 20.0, 12.0], &[20.0, 40.0, 20.0]).unwrap();
        assert_eq!((ratio.median, ratio.low, ratio.high), (0.5, 0.5, 0.6));
        assert_eq!(Ratio::paired(&[], &[]), None);
        assert_eq!(Ratio::paired(&[1.0], &[0.0]), None);
    }

    proptest! {
        #[test]
        fn a_median_has_as_many_below_as_above(values in proptest::collection::vec(-1e6..1e6, 1..50)) {
            let median = median(&values);
            let below = values.iter().filter(|value| **value < median).count();
            let above = values.iter().filter(|value| **value > median).count();
            prop_assert!(below <= values.len() / 2 && above <= values.len() / 2);
            let (low, high) = range(&values);
            prop_assert!(low <= median && median <= high);
        }
    }
}
