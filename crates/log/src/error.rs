//! What can go wrong, for who owns the log and for who reads it.

use std::io;
use std::path::PathBuf;

use walcast_change::{Cursor, Epoch};

/// The log can't be opened or has ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    #[error("the log in {} is in use by another process", directory.display())]
    Locked { directory: PathBuf },
    #[error("the log can't {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the log can't draw a random epoch")]
    Random,
    /// The disk took it not in time.
    #[error("the log was closed before everything in it was durable")]
    NotDurable,
    /// The writer's thread is gone; open the log again.
    #[error("the log's writer has ended")]
    Ended,
}

/// Why a reader gets nothing (more). It never got anything wrong before.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// What follows the position is not kept any more; `oldest` is the least that is taken.
    #[error("the position is too old: what followed it is no longer kept (the oldest is {oldest})")]
    TooOld { oldest: Cursor },
    /// There is a gap between the position and now.
    #[error("the position belongs to another epoch than {epoch}")]
    EpochChanged { epoch: Epoch },
    /// Bytes on the disk changed after they were written.
    #[error("the log is damaged at byte {offset} of segment {segment}")]
    Damaged { segment: u64, offset: u64 },
    #[error("the log can't be read")]
    Io(#[source] io::Error),
}

/// Bytes that were not written by this crate, or not like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("damaged")]
pub(crate) struct Damaged;
