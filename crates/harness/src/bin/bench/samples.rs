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

/// Very many durations: counts in buckets, each up to 1.6 % wide.
pub(crate) struct Histogram {
    buckets: Vec<u32>,
    count: u64,
}

/// Buckets of one power of two; a power of two itself.
const PER_OCTAVE: u64 = 64;
/// Durations of 2³² µs and more, over an hour, fall into the last one.
const BUCKETS: usize = 27 * PER_OCTAVE as usize;

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: vec![0; BUCKETS],
            count: 0,
        }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, duration: Duration) {
        let micros = duration.as_micros() as u64;
        let octave = (micros / PER_OCTAVE)
            .checked_ilog2()
            .map_or(0, |log| log + 1);
        let within = micros >> octave.saturating_sub(1);
        let bucket = u64::from(octave.saturating_sub(1)) * PER_OCTAVE + within;
        let bucket = (bucket as usize).min(BUCKETS - 1);
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
            self.count += 1;
        }
    }

    /// Where `share` (0 to 1) of all are not above, in milliseconds: the lower end of a bucket.
    pub(crate) fn percentile_ms(&self, share: f64) -> f64 {
        let rank = ((share * self.count as f64).ceil() as u64).max(1);
        let mut passed = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            passed += u64::from(*count);
            if passed >= rank {
                return lower_end_micros(bucket as u64) / 1000.0;
            }
        }
        f64::NAN
    }
}

fn lower_end_micros(bucket: u64) -> f64 {
    let octave = (bucket / PER_OCTAVE).saturating_sub(1);
    ((bucket - octave * PER_OCTAVE) << octave) as f64
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
    fn a_histogram_is_off_by_less_than_two_percent() {
        let mut micros = 1_u64;
        while micros < 3_000_000_000 {
            let mut histogram = Histogram::default();
            histogram.add(Duration::from_micros(micros));
            let found = histogram.percentile_ms(0.5) * 1000.0;
            let (least, most) = (micros as f64 * 0.984, micros as f64);
            assert!((least..=most).contains(&found), "{micros}: {found}");
            micros = micros * 5 / 4 + 1;
        }
        let mut histogram = Histogram::default();
        (1..=60).for_each(|micros| histogram.add(Duration::from_micros(micros)));
        assert_eq!(histogram.percentile_ms(0.5), 0.03);
        assert_eq!(histogram.percentile_ms(1.0), 0.06);
        assert!(Histogram::default().percentile_ms(0.5).is_nan());
    }

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.0);
    }
}
