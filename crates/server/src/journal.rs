//! What is kept of the stream, so that Postgres may forget it: a log on disk, or nothing.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use tokio::sync::watch;
use walcast_change::{Change, Cursor, Epoch};
use walcast_log::{Log, LogError};
use walcast_pgoutput::Lsn;

/// The pipeline's side of the log. Without a log nothing is kept, what was published counts as
/// dealt with, and every start of the server is a new epoch.
pub(crate) struct Journal {
    log: Option<Log>,
    durable: Option<watch::Receiver<Lsn>>,
    epoch: Epoch,
    /// Appended in memory before it is handed to the disk.
    waiting_bytes_max: usize,
}

impl Journal {
    pub(crate) fn new(log: Option<Log>, waiting_bytes_max: usize) -> Journal {
        Journal {
            durable: log.as_ref().map(|log| log.history().durable()),
            epoch: log.as_ref().map_or_else(random, Log::epoch),
            log,
            waiting_bytes_max,
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The stream goes on at `start`. In a new epoch history begins there, durably: what is said to
    /// clients of the epoch from now on outlives a crash.
    pub(crate) async fn begin(&mut self, start: Lsn) -> Result<(), LogError> {
        match &mut self.log {
            Some(log) if *log.history().durable().borrow() == Lsn::ZERO => {
                log.commit(start);
                log.sync().await
            }
            _ => Ok(()),
        }
    }

    /// The last change that is kept.
    pub(crate) fn last(&self) -> Cursor {
        self.log.as_ref().map(Log::last).unwrap_or_default()
    }

    pub(crate) fn append(&mut self, change: &Change) {
        if let Some(log) = &mut self.log {
            log.append(change);
        }
    }

    /// Everything that Postgres sends before `lsn` has been appended.
    pub(crate) fn commit(&mut self, lsn: Lsn) {
        if let Some(log) = &mut self.log {
            log.commit(lsn);
        }
    }

    /// Whether so much was appended that it should be flushed.
    pub(crate) fn is_full(&self) -> bool {
        let waiting = self.log.as_ref().map_or(0, Log::waiting_bytes);
        waiting >= self.waiting_bytes_max
    }

    /// Hands what was appended to the disk; waits while it can't take more.
    pub(crate) async fn flush(&mut self) -> Result<(), LogError> {
        match &mut self.log {
            Some(log) => log.flush().await,
            None => Ok(()),
        }
    }

    /// Waits until more has become durable: everything before this LSN. Never without a log.
    pub(crate) async fn more_durable(&mut self) -> Lsn {
        if let Some(durable) = &mut self.durable
            && durable.changed().await.is_ok()
        {
            return *durable.borrow_and_update();
        }
        std::future::pending().await
    }

    /// What may be acknowledged once everything before `finished` was published.
    pub(crate) fn settled(&self, finished: Lsn) -> Lsn {
        match &self.durable {
            Some(durable) => finished.min(*durable.borrow()),
            None => finished,
        }
    }

    /// Changes were lost: what is kept does not lead up to what is to come.
    pub(crate) async fn new_epoch(&mut self, reason: &str) -> Result<(), LogError> {
        self.epoch = match &mut self.log {
            Some(log) => log.new_epoch(reason).await?,
            None => random(),
        };
        Ok(())
    }

    /// Makes everything durable, if the disk takes it in time; what then may be acknowledged.
    pub(crate) async fn close(&mut self, patience: Duration) -> Option<Lsn> {
        let log = self.log.take()?;
        let durable = log.history().durable();
        if let Err(error) = log.close(patience).await {
            tracing::warn!(%error, "the log could not be closed in order");
        }
        let durable = *durable.borrow();
        Some(durable)
    }
}

fn random() -> Epoch {
    // Keyed by the system's random numbers.
    Epoch(RandomState::new().build_hasher().finish() as u32)
}
