//! A limit on how often, for one connection.

use std::time::{Duration, Instant};

/// A token bucket: a full minute's allowance may come at once, then it refills evenly.
#[derive(Debug)]
pub struct RateLimit {
    per_minute: u32,
    /// In units of one message.
    allowance: f64,
    last: Instant,
}

impl RateLimit {
    /// `per_minute` of 0 means no limit.
    pub fn new(per_minute: u32, now: Instant) -> RateLimit {
        RateLimit {
            per_minute,
            allowance: f64::from(per_minute),
            last: now,
        }
    }

    /// Counts one message; `Err` is the time after which the next one is allowed.
    pub fn count(&mut self, now: Instant) -> Result<(), Duration> {
        if self.per_minute == 0 {
            return Ok(());
        }
        let per_second = f64::from(self.per_minute) / 60.0;
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.allowance = (self.allowance + passed * per_second).min(f64::from(self.per_minute));
        if self.allowance < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.allowance) / per_second));
        }
        self.allowance -= 1.0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_an_even_pace() {
        let start = Instant::now();
        let mut limit = RateLimit::new(60, start);
        assert!((0..60).all(|_| limit.count(start).is_ok()));
        let wait = limit.count(start).expect_err("the allowance is used up");
        assert!(wait <= Duration::from_secs(1) && wait > Duration::from_millis(900));
        assert!(limit.count(start + Duration::from_secs(1)).is_ok());
        assert!(limit.count(start + Duration::from_secs(1)).is_err());
    }

    #[test]
    fn zero_is_no_limit() {
        let start = Instant::now();
        let mut limit = RateLimit::new(0, start);
        assert!((0..10_000).all(|_| limit.count(start).is_ok()));
    }
}
