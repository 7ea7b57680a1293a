//! How long to wait before the next try to connect.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const MAX: Duration = Duration::from_secs(10);

/// 100 ms, doubled up to 10 s, each time with up to half of it left out at random.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(crate) fn tries(&self) -> u32 {
        self.tries
    }

    /// The pause before the next try; `random` is any number.
    pub(crate) fn next(&mut self, random: u64) -> Duration {
        let full = FIRST.saturating_mul(1 << self.tries.min(10)).min(MAX);
        self.tries = self.tries.saturating_add(1);
        let half = full / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(random % spread)
    }
}

/// Enough chance to keep many servers from coming back at the same moment.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0_u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_from_a_tenth_of_a_second_to_ten() {
        let mut backoff = Backoff::default();
        for full_ms in [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000] {
            let pause = backoff.next(random());
            let full = Duration::from_millis(full_ms);
            assert!(pause >= full / 2 && pause < full, "{pause:?} of {full:?}");
        }
        assert_eq!(backoff.tries(), 9);
    }
}
