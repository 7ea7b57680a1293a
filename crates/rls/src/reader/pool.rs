//! Who may read now, and in which session.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::warn;

use crate::CheckConfig;
use crate::lane::Lane;
use crate::reader::{ReadError, ReaderBounds};
use crate::session::Slot;

pub(crate) struct Pool {
    config: CheckConfig,
    /// Those not in use; at most as many as there are seats.
    slots: Mutex<Vec<Slot>>,
    seats: Arc<Semaphore>,
    /// Who reads, and who waits for it.
    places: Arc<Semaphore>,
}

/// The right to read, with a session's place. Dropped without [`Seat::leave`], the session is given up.
pub(crate) struct Seat {
    pool: Arc<Pool>,
    slot: Slot,
    clean: bool,
    _seat: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

/// For clearing or replacing a session.
const TIDYING_MAX: Duration = Duration::from_secs(30);

impl Pool {
    pub(crate) fn new(config: CheckConfig, bounds: ReaderBounds) -> Pool {
        let seats = bounds.readings_max.clamp(1, Semaphore::MAX_PERMITS / 2);
        let waiting = bounds.waiting_max.min(Semaphore::MAX_PERMITS / 2);
        Pool {
            config,
            slots: Mutex::default(),
            seats: Arc::new(Semaphore::new(seats)),
            places: Arc::new(Semaphore::new(seats + waiting)),
        }
    }

    pub(crate) fn config(&self) -> &CheckConfig {
        &self.config
    }

    /// In the order of asking.
    pub(crate) async fn seat(self: &Arc<Pool>, deadline: Instant) -> Result<Seat, ReadError> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| ReadError::Busy)?;
        let seat = timeout_at(deadline, self.seats.clone().acquire_owned()).await;
        let seat = seat.ok().and_then(Result::ok).ok_or(ReadError::Busy)?;
        let slot = self.slots.lock().pop().unwrap_or_default();
        Ok(Seat {
            pool: self.clone(),
            slot,
            clean: false,
            _seat: seat,
            _place: place,
        })
    }
}

impl Seat {
    /// A session that answers: it may have been lost while it lay idle.
    pub(crate) async fn session(&mut self) -> Result<(&Lane, &CheckConfig), ReadError> {
        let config = &self.pool.config;
        let lane = self.slot.open(config).await?;
        if lane.client.batch_execute("").await.is_err() {
            self.slot.give_up();
        }
        Ok((self.slot.open(config).await?, config))
    }

    /// Makes room for the next one. `idle`: the session waits for statements; whatever the viewer may
    /// have left in it is cleared. Else it is replaced, by which its backend is ended, whatever that
    /// does at the moment.
    pub(crate) async fn leave(mut self, idle: bool) {
        let config = &self.pool.config;
        if idle {
            let renewed = timeout(TIDYING_MAX, self.slot.renew(config)).await;
            self.clean = matches!(renewed, Ok(Ok(())));
        }
        if !self.clean {
            self.slot.give_up();
            let replaced = timeout(TIDYING_MAX, self.slot.open(config)).await;
            self.clean = matches!(replaced, Ok(Ok(_)));
            if !self.clean {
                warn!("the session of a snapshot could not be replaced; the next one does it");
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.clean {
            self.slot.give_up();
        }
        let slot = std::mem::take(&mut self.slot);
        self.pool.slots.lock().push(slot);
    }
}
