//! How many changes a walk has judged together: as many as are judged quickly; and where that takes
//! long, more only if each then takes less, as on a long way to Postgres, but not under a slow policy.

use std::time::Duration;

/// At first, and under policies that take long for each.
const TOGETHER_MIN: usize = 4;
/// Judging that takes no longer may be of twice as many.
const QUICK: Duration = Duration::from_millis(200);
/// Judging is not to take longer, whatever it saves: who comes or goes waits for it.
const LONG: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Pace {
    together: usize,
    /// So many took so long each.
    last: Option<(usize, Duration)>,
    /// Of more, each takes less.
    pays: bool,
    slow: u32,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            together: TOGETHER_MIN,
            last: None,
            pays: true,
            slow: 0,
        }
    }
}

impl Pace {
    pub(crate) fn together(&self) -> usize {
        self.together
    }

    pub(crate) fn limit(&mut self, most: usize) {
        self.together = self.together.min(most);
    }

    /// How often, one after the other, so few took so long that it must be the policies.
    pub(crate) fn slow(&self) -> u32 {
        self.slow
    }

    /// Judging so many took so long.
    pub(crate) fn judged(&mut self, changes: usize, took: Duration) {
        if took <= QUICK {
            self.last = None;
            self.pays = true;
            self.slow = 0;
            self.together = self.together.saturating_mul(2);
            return;
        }
        if changes <= TOGETHER_MIN {
            self.slow += 1;
        }
        // There were no more: that tells nothing.
        if changes < self.together {
            return;
        }
        let each = took / u32::try_from(changes).unwrap_or(u32::MAX).max(1);
        self.pays = match self.last {
            Some((before, each_before)) if changes > before => each * 4 <= each_before * 3,
            Some((before, each_before)) if changes < before => each_before * 4 <= each * 3,
            _ => self.pays,
        };
        self.last = Some((changes, each));
        if self.pays && changes > TOGETHER_MIN {
            self.slow = 0;
        }
        self.together = match self.pays {
            true if took * 2 <= LONG => changes.saturating_mul(2),
            true if took <= LONG => changes,
            _ => (changes / 2).max(TOGETHER_MIN),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is judged together after so many judgements, each of which takes `whole` and `each` of
    /// its changes.
    fn after(judgements: usize, whole: u64, each: u64) -> Pace {
        let mut pace = Pace::default();
        for _ in 0..judgements {
            let changes = pace.together();
            let took = whole + each * changes as u64;
            pace.judged(changes, Duration::from_micros(took));
            pace.limit(1000);
        }
        pace
    }

    #[test]
    fn as_many_as_pay() {
        let cases = [
            // (a round trip, each: microseconds), then the least and the most together
            ((0, 1), (1000, 1000)),
            ((700_000, 1), (500, 1000)),
            ((900_000, 1000), (60, 1000)),
            ((0, 100_000), (4, 8)),
            ((0, 1_000_000), (4, 8)),
            ((200_000, 300_000), (4, 8)),
        ];
        for ((whole, each), (least, most)) in cases {
            for judgements in 12..15 {
                let together = after(judgements, whole, each).together();
                let fits = (least..=most).contains(&together);
                assert!(fits, "{whole} {each}: {together}");
            }
        }
    }

    #[test]
    fn slow_policies_are_told_from_a_long_way() {
        assert!(after(6, 0, 300_000).slow() >= 2);
        assert_eq!(after(6, 700_000, 1).slow(), 0);
        assert_eq!(after(6, 0, 1).slow(), 0);
    }

    #[test]
    fn the_end_of_the_log_tells_nothing() {
        let mut pace = after(12, 700_000, 1);
        let before = pace.together();
        pace.judged(1, Duration::from_millis(700));
        assert_eq!(pace.together(), before);
    }
}
