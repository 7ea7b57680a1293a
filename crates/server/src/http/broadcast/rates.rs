//! How many messages one address may send over HTTP.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

pub(super) struct Rates {
    /// 0 means no limit.
    per_second: usize,
    spent: Mutex<HashMap<IpAddr, Spent>>,
}

/// Of one address: what it has used of its allowance, which comes back evenly.
struct Spent {
    messages: f64,
    last: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// It may be sent by and by.
    Now,
    /// More at once than ever is allowed.
    Ever,
}

/// A burst may be as large as the messages of so many seconds.
const WINDOW: Duration = Duration::from_secs(10);
/// Addresses that are remembered: those that sent within the last window.
const ADDRESSES_MAX: usize = 10_000;

impl Rates {
    pub(super) fn new(per_second: usize) -> Rates {
        Rates {
            per_second,
            spent: Mutex::default(),
        }
    }

    /// All of a batch or nothing.
    pub(super) fn count(&self, address: IpAddr, messages: usize) -> Result<(), Over> {
        self.count_at(address, messages, Instant::now())
    }

    fn count_at(&self, address: IpAddr, messages: usize, now: Instant) -> Result<(), Over> {
        if self.per_second == 0 {
            return Ok(());
        }
        let max = self.per_second as f64 * WINDOW.as_secs_f64();
        let messages = messages as f64;
        if messages > max {
            return Err(Over::Ever);
        }
        let mut all = self.spent.lock();
        if all.len() >= ADDRESSES_MAX && !all.contains_key(&address) {
            all.retain(|_, spent| now.saturating_duration_since(spent.last) < WINDOW);
            if all.len() >= ADDRESSES_MAX {
                return Err(Over::Now);
            }
        }
        let spent = all.entry(address).or_insert(Spent {
            messages: 0.0,
            last: now,
        });
        let passed = now.saturating_duration_since(spent.last).as_secs_f64();
        spent.messages = (spent.messages - passed * self.per_second as f64).max(0.0);
        spent.last = now;
        if spent.messages + messages > max {
            return Err(Over::Now);
        }
        spent.messages += messages;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_allowance() {
        let address = |last: u8| IpAddr::from([127, 0, 0, last]);
        let start = Instant::now();
        let rates = Rates::new(2);
        assert_eq!(rates.count_at(address(1), 21, start), Err(Over::Ever));
        assert_eq!(rates.count_at(address(1), 20, start), Ok(()));
        assert_eq!(rates.count_at(address(1), 1, start), Err(Over::Now));
        assert_eq!(rates.count_at(address(2), 20, start), Ok(()));
        let later = start + Duration::from_secs(1);
        assert_eq!(rates.count_at(address(1), 2, later), Ok(()));
        assert_eq!(rates.count_at(address(1), 1, later), Err(Over::Now));
        assert_eq!(Rates::new(0).count_at(address(1), 1_000, start), Ok(()));
    }
}
