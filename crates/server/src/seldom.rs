//! Lines that clients can cause: so many that they tell what is going on, and no more.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

const INTERVAL: Duration = Duration::from_secs(1);

/// Lets one line through in a second. One for each place that logs.
pub(crate) struct Seldom(Mutex<State>);

struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Seldom {
    pub(crate) const fn new() -> Seldom {
        Seldom(Mutex::new(State {
            last: None,
            left_out: 0,
        }))
    }

    /// `Some`: it is to be written, with how many were left out since the last one.
    pub(crate) fn due(&self) -> Option<u64> {
        self.due_at(Instant::now())
    }

    fn due_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let is_due = state
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= INTERVAL);
        if !is_due {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_a_second_tells_of_the_others() {
        let seldom = Seldom::new();
        let begin = Instant::now();
        for (at, expected) in [
            (0, Some(0)),
            (1, None),
            (999, None),
            (1000, Some(2)),
            (2500, Some(0)),
            (2400, None), // another thread looked at its clock earlier
            (3500, Some(1)),
        ] {
            let now = begin + Duration::from_millis(at);
            assert_eq!(seldom.due_at(now), expected, "{at} ms");
        }
    }
}
