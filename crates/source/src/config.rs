//! What a source is opened with.

use std::fmt;
use std::time::Duration;

use walcast_pgoutput::Lsn;

use crate::{ServerIdentity, SlotKind};

/// What a [`Source`](crate::Source) reads, and how patiently.
#[derive(Clone)]
#[non_exhaustive]
pub struct SourceConfig {
    /// `postgres://…` or `host=… user=…`; see [`Database`](crate::Database).
    pub database_url: String,
    /// The publication's name as it stands in `pg_publication`, unquoted.
    pub publication: String,
    pub slot: SlotKind,
    /// Shown in `pg_stat_activity` and `pg_stat_replication`.
    pub application_name: String,
    /// Everything before this has been dealt with in an earlier life. A slot that is already
    /// further than this means a [`Gap`](crate::Gap).
    pub resume_from: Option<Lsn>,
    /// Whose LSN [`resume_from`](Self::resume_from) is. Another server there means a gap as well.
    pub resume_server: Option<ServerIdentity>,
    pub lost_slot: LostSlot,
    /// A larger message ends the stream with an error that needs an operator. Bounds what one
    /// change may take; default 64 MiB.
    pub message_bytes_max: usize,
    /// What may be read ahead of the pipeline, in bytes of memory; default 4 MiB. A message over
    /// this is read alone. Beyond it the socket is left unread and Postgres waits. On the way from
    /// the socket another seven messages at most are held, each up to `message_bytes_max`.
    pub ahead_bytes_max: usize,
    /// For each of: TCP and TLS and login; the start of the stream.
    pub connect_timeout: Duration,
    /// A connection on which nothing came for so long is given up. Postgres is told to ask for a
    /// sign of life after half of it (`wal_sender_timeout`).
    pub silence_max: Duration,
    /// How often the publication and the slot are looked at while streaming.
    pub check_interval: Duration,
    /// How much WAL the slot may hold back before it is worth a warning at half of it. None: what
    /// `max_slot_wal_keep_size` says.
    pub wal_budget_bytes: Option<u64>,
}

/// What to do with a durable slot that Postgres has invalidated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostSlot {
    /// Drop it, create it anew and announce a [`Gap`](crate::Gap).
    #[default]
    Recreate,
    /// Wait, loudly, until an operator drops it.
    Wait,
}

impl SourceConfig {
    pub fn new(
        database_url: impl Into<String>,
        publication: impl Into<String>,
        slot: SlotKind,
    ) -> Self {
        SourceConfig {
            database_url: database_url.into(),
            publication: publication.into(),
            slot,
            application_name: "walcast".into(),
            resume_from: None,
            resume_server: None,
            lost_slot: LostSlot::default(),
            message_bytes_max: 64 * 1024 * 1024,
            ahead_bytes_max: 4 * 1024 * 1024,
            connect_timeout: Duration::from_secs(10),
            silence_max: Duration::from_secs(20),
            check_interval: Duration::from_secs(5),
            wal_budget_bytes: None,
        }
    }
}

impl fmt::Debug for SourceConfig {
    /// Without the URL: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceConfig")
            .field("publication", &self.publication)
            .field("slot", &self.slot)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}
