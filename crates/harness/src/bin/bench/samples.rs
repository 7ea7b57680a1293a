//! Durations and their percentiles.

use std::time::Duration;

/// Sorted durations.
pub(crate) struct Samples {
    micros: Vec<f64>,
}

impl Samples {
    pub(crate) fn new(durations: impl IntoIterator<Item = Duration>) -> Samples {
        let micros = durations
            .into_iter()
            .map(|duration| duration.as_secs_f64() * 1e6);
        let mut micros: Vec<_> = micros.collect();
        micros.sort_by(f64::total_cmp);
        Samples { micros }
    }

    /// The smallest sample that `share` (0 to 1) of all are not above, in milliseconds.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let rank = (share * self.micros.len() as f64).ceil() as usize;
        let micros = self.micros.get(rank.saturating_sub(1));
        micros.copied().unwrap_or(f64::NAN) / 1000.0
    }
}

/// The middle one; of an even number the lower of the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len().saturating_sub(1) / 2;
    values.get(middle).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let samples = Samples::new((1..=1000).rev().map(Duration::from_millis));
        let cases = [
            (0.5, 500.0),
            (0.99, 990.0),
            (0.999, 999.0),
            (1.0, 1000.0),
            (0.0, 1.0),
        ];
        for (share, expected) in cases {
            assert_eq!(samples.percentile_ms(share), expected, "{share}");
        }
        assert!(Samples::new([]).percentile_ms(0.5).is_nan());
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.0);
    }
}
