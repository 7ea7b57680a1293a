//! A limit on how often, for one connection.

use std::time::{Duration, Instant};

/// A token bucket: a full window's allowance may come at once, then it refills evenly.
#[derive(Debug)]
pub struct RateLimit {
    /// The setting it comes from, as errors name it.
    name: &'static str,
    count_max: u32,
    window: Duration,
    /// In units of one message.
    allowance: f64,
    last: Instant,
}

/// A limit on how often was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} reached: {count_max} per {} s; the next one is taken in {} s", window.as_secs_f64(), wait.as_secs() + 1)]
pub struct RateExceeded {
    pub name: &'static str,
    pub count_max: u32,
    pub window: Duration,
    /// The time after which the next one is allowed.
    pub wait: Duration,
}

impl RateLimit {
    /// `per_minute` of 0 means no limit.
    pub fn new(per_minute: u32, now: Instant) -> RateLimit {
        let minute = Duration::from_secs(60);
        RateLimit::per("messages_per_minute_max", per_minute, minute, now)
    }

    /// At most `count_max` at once and on average per `window`; 0 means no limit. `name` is what the
    /// client is told it has reached.
    pub fn per(name: &'static str, count_max: u32, window: Duration, now: Instant) -> RateLimit {
        RateLimit {
            name,
            count_max,
            window,
            allowance: f64::from(count_max),
            last: now,
        }
    }

    /// Counts one message; `Err` is the time after which the next one is allowed.
    pub fn count(&mut self, now: Instant) -> Result<(), Duration> {
        if self.count_max == 0 || self.window.is_zero() {
            return Ok(());
        }
        let per_second = f64::from(self.count_max) / self.window.as_secs_f64();
        let passed = now.saturating_duration_since(self.last).as_secs_f64();
        self.last = now;
        self.allowance = (self.allowance + passed * per_second).min(f64::from(self.count_max));
        if self.allowance < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.allowance) / per_second));
        }
        self.allowance -= 1.0;
        Ok(())
    }

    /// As [`RateLimit::count`], with an error that says which limit it is.
    pub fn check(&mut self, now: Instant) -> Result<(), RateExceeded> {
        self.count(now).map_err(|wait| RateExceeded {
            name: self.name,
            count_max: self.count_max,
            window: self.window,
            wait,
        })
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

    #[test]
    fn a_window_of_any_length_and_an_error_that_names_the_limit() {
        let start = Instant::now();
        let window = Duration::from_secs(30);
        let mut limit = RateLimit::per("presence_calls_max", 5, window, start);
        assert!((0..5).all(|_| limit.check(start).is_ok()));
        let error = limit.check(start).expect_err("the allowance is used up");
        assert_eq!((error.name, error.count_max), ("presence_calls_max", 5));
        let text = "presence_calls_max reached: 5 per 30 s; the next one is taken in 7 s";
        assert_eq!(error.to_string(), text);
        assert!(limit.check(start + Duration::from_secs(6)).is_ok());
        assert!(limit.check(start + Duration::from_secs(6)).is_err());
        assert!((0..5).all(|_| limit.check(start + 2 * window).is_ok()));
        let mut limit = RateLimit::per("joins_per_second_max", 2, Duration::from_secs(1), start);
        assert_eq!((0..9).filter(|_| limit.check(start).is_ok()).count(), 2);
        assert!(limit.check(start + Duration::from_millis(500)).is_ok());
    }
}
