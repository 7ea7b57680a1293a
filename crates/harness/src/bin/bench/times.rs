//! When each row or message was sent, for those who receive it on another thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::samples::Histogram;

/// The moments of the ids `first ..`, and how much later they arrived.
pub(crate) struct Times {
    begin: Instant,
    first: usize,
    /// Nanoseconds after `begin`.
    sent: Vec<AtomicU64>,
    delays: Mutex<Histogram>,
}

impl Times {
    pub(crate) fn new(first: usize, count: usize) -> Times {
        Times {
            begin: Instant::now(),
            first,
            sent: (0..count).map(|_| AtomicU64::new(0)).collect(),
            delays: Mutex::default(),
        }
    }

    /// `id` is about to be sent.
    pub(crate) fn send(&self, id: usize) {
        if let Some(place) = self.sent.get(id - self.first) {
            place.store(self.begin.elapsed().as_nanos() as u64, Ordering::Release);
        }
    }

    /// `id` has arrived at one who is to have it.
    pub(crate) fn arrive(&self, id: usize) {
        if let Some(place) = self.sent.get(id.wrapping_sub(self.first)) {
            let sent = Duration::from_nanos(place.load(Ordering::Acquire));
            let delay = self.begin.elapsed().saturating_sub(sent);
            self.delays().add(delay);
        }
    }

    /// The delays since the last call.
    pub(crate) fn take(&self) -> Histogram {
        std::mem::take(&mut self.delays())
    }

    fn delays(&self) -> MutexGuard<'_, Histogram> {
        self.delays.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
