//! A few sessions, and a bounded queue of those who wait for one.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::ask::{ChannelFailure, ChannelRefusal};
use super::seat::Seat;

pub(crate) struct Pool {
    permits: Semaphore,
    /// As many as there are permits free.
    seats: Mutex<Vec<Seat>>,
    waiting: AtomicUsize,
}

/// When a server comes back, all its clients join at once: two sessions judge a thousand in about a
/// second. Who comes later is told to try again.
const WAITING_MAX: usize = 5_000;
const WAIT_MAX: Duration = Duration::from_secs(8);

impl Pool {
    pub(crate) fn new(first: Seat, connections: usize) -> Pool {
        let connections = connections.max(1);
        let mut seats: Vec<Seat> = (1..connections).map(|_| Seat::default()).collect();
        seats.push(first); // the open one is taken first
        Pool {
            permits: Semaphore::new(connections),
            seats: Mutex::new(seats),
            waiting: AtomicUsize::new(0),
        }
    }

    /// First come, first served.
    pub(crate) async fn take(&self) -> Result<Taken<'_>, ChannelRefusal> {
        let permit = match self.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => self.wait().await?,
        };
        let seat = self.seats.lock().pop().unwrap_or_default();
        Ok(Taken {
            pool: self,
            seat: Some(seat),
            kept: false,
            _permit: permit,
        })
    }

    async fn wait(&self) -> Result<SemaphorePermit<'_>, ChannelRefusal> {
        let _waiting = Waiting::begin(&self.waiting)?;
        match timeout(WAIT_MAX, self.permits.acquire()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(ChannelFailure::Busy.into()),
        }
    }
}

/// Leaves the queue when dropped, however the waiting ends.
struct Waiting<'p>(&'p AtomicUsize);

impl<'p> Waiting<'p> {
    fn begin(count: &'p AtomicUsize) -> Result<Waiting<'p>, ChannelRefusal> {
        let waiting = Waiting(count);
        if count.fetch_add(1, Ordering::Relaxed) >= WAITING_MAX {
            return Err(ChannelFailure::Busy.into());
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A session of one's own until it is dropped. If it was not said to be as before, because something
/// failed or the asker is gone, it is given up: there may be a transaction in it.
pub(crate) struct Taken<'p> {
    pool: &'p Pool,
    seat: Option<Seat>,
    kept: bool,
    /// Returned after the seat, for fields are dropped after `drop` has run.
    _permit: SemaphorePermit<'p>,
}

impl Taken<'_> {
    pub(crate) fn seat(&mut self) -> &mut Seat {
        self.seat.get_or_insert_default()
    }

    /// The session is as it was.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut seat = self.seat.take().unwrap_or_default();
        if !self.kept {
            seat.slot.give_up();
        }
        self.pool.seats.lock().push(seat);
    }
}
