//! What others may watch: the stream's state and how far it is.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use walcast_pgoutput::{Lsn, PgTime};

use crate::{Finding, Severity};

/// Where the stream stands.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum StreamState {
    /// Trying, or waiting for the next try.
    Connecting {
        /// 0 for the first.
        attempt: u32,
        last_error: Option<String>,
    },
    /// Another process holds the slot; we stand by.
    WaitingForSlot { pid: i32, application: String },
    /// Postgres makes the slot and waits for transactions that were open before.
    CreatingSlot {
        since: Instant,
        /// The processes it waits for.
        blocked_by: Vec<i32>,
    },
    /// Nothing will change without an operator. Still tried, every ten seconds or so.
    Blocked { error: String },
    /// Changes flow. `alarm` is the worst thing seen since that may end it.
    Streaming {
        since: Instant,
        alarm: Option<Finding>,
    },
    /// The source was stopped.
    Stopped,
}

impl StreamState {
    /// Whether changes arrive: for a readiness probe.
    pub fn is_ready(&self) -> bool {
        match self {
            StreamState::Streaming { alarm, .. } => alarm
                .as_ref()
                .is_none_or(|finding| finding.severity != Severity::Error),
            _ => false,
        }
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            StreamState::Connecting { attempt: 0, .. } => "connecting".into(),
            StreamState::Connecting {
                attempt,
                last_error,
            } => {
                let error = last_error.as_deref().unwrap_or("connection lost");
                format!("connecting, try {attempt}; last error: {error}")
            }
            StreamState::WaitingForSlot { pid, application } => {
                format!("standing by: the slot is in use by process {pid} ({application})")
            }
            StreamState::CreatingSlot { blocked_by, .. } if blocked_by.is_empty() => {
                "creating the slot".into()
            }
            StreamState::CreatingSlot { blocked_by, .. } => {
                format!("creating the slot; waiting for the open transactions of {blocked_by:?}")
            }
            StreamState::Blocked { error } => format!("blocked: {error}"),
            StreamState::Streaming { alarm: None, .. } => "streaming".into(),
            StreamState::Streaming {
                alarm: Some(finding),
                ..
            } => format!("streaming; {finding}"),
            StreamState::Stopped => "stopped".into(),
        }
    }
}

/// Figures of the stream; cheap to read at any time. All start at 0.
#[derive(Debug, Default)]
pub struct Progress {
    received: AtomicU64,
    server_end: AtomicU64,
    acknowledged: AtomicU64,
    confirmed: AtomicU64,
    retained_bytes: AtomicU64,
    last_message_unix_ms: AtomicU64,
    last_commit_unix_us: AtomicI64,
    connections: AtomicU64,
    gaps: AtomicU64,
}

impl Progress {
    /// The end of the last finished transaction, or of the last keepalive outside of one.
    pub fn received(&self) -> Lsn {
        Lsn(self.received.load(Relaxed))
    }

    /// The end of the server's WAL as far as we know; refreshed at least every check interval.
    pub fn server_end(&self) -> Lsn {
        Lsn(self.server_end.load(Relaxed))
    }

    /// What was passed to [`Source::acknowledge`](crate::Source::acknowledge).
    pub fn acknowledged(&self) -> Lsn {
        Lsn(self.acknowledged.load(Relaxed))
    }

    /// What has been written to the server of it.
    pub fn confirmed(&self) -> Lsn {
        Lsn(self.confirmed.load(Relaxed))
    }

    /// Bytes of WAL between the last received and the server's end.
    pub fn lag_bytes(&self) -> u64 {
        self.server_end().0.saturating_sub(self.received().0)
    }

    /// Bytes of WAL that the slot keeps from being removed, at the last check.
    pub fn retained_bytes(&self) -> u64 {
        self.retained_bytes.load(Relaxed)
    }

    /// When the last transaction or keepalive came. None: never.
    pub fn last_message(&self) -> Option<SystemTime> {
        match self.last_message_unix_ms.load(Relaxed) {
            0 => None,
            ms => Some(SystemTime::UNIX_EPOCH + Duration::from_millis(ms)),
        }
    }

    /// When the last received transaction was committed, by the server's clock. None: none yet.
    pub fn last_commit(&self) -> Option<SystemTime> {
        let micros = u64::try_from(self.last_commit_unix_us.load(Relaxed)).ok()?;
        (micros > 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
    }

    /// Successful connections so far.
    pub fn connections(&self) -> u64 {
        self.connections.load(Relaxed)
    }

    /// [`Gap`](crate::Gap)s so far.
    pub fn gaps(&self) -> u64 {
        self.gaps.load(Relaxed)
    }

    pub(crate) fn set_received(&self, lsn: Lsn) {
        self.received.store(lsn.0, Relaxed);
        self.server_end.fetch_max(lsn.0, Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let ms = u64::try_from(now.unwrap_or_default().as_millis()).unwrap_or(u64::MAX);
        self.last_message_unix_ms.store(ms, Relaxed);
    }

    pub(crate) fn set_commit_time(&self, time: PgTime) {
        self.last_commit_unix_us.store(time.unix_micros(), Relaxed);
    }

    pub(crate) fn set_server_end(&self, lsn: Lsn) {
        self.server_end.store(lsn.0, Relaxed);
    }

    pub(crate) fn set_acknowledged(&self, lsn: Lsn) {
        self.acknowledged.store(lsn.0, Relaxed);
    }

    pub(crate) fn set_confirmed(&self, lsn: Lsn) {
        self.confirmed.store(lsn.0, Relaxed);
    }

    pub(crate) fn set_retained_bytes(&self, bytes: u64) {
        self.retained_bytes.store(bytes, Relaxed);
    }

    pub(crate) fn count_connection(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    pub(crate) fn count_gap(&self) {
        self.gaps.fetch_add(1, Relaxed);
    }
}
