//! One replication stream from Postgres that reconnects by itself.
//!
//! Owns: the replication connection and its session settings, the slot, the checks before streaming
//! ([`examine`] tells them to an operator), reconnecting, and what is acknowledged to Postgres.
//! Refuses to know: what a change means, subscribers, policies, sockets of clients.
//!
//! Invariants:
//! - Only `stream` knows pgwire-replication; only it writes to the replication connection.
//! - Nothing is lost silently: what can't be delivered any more is announced by [`Event::Gap`].
//! - Passwords and row values are in no error, log line or `Debug` text.
//! - An error is either worth another try or needs an operator: [`SourceError::retry`]. After the
//!   first connection the source never gives up; it says loudly why it waits ([`StreamState`]).
//!
//! # Which LSN may be acknowledged
//!
//! Acknowledging `L` tells Postgres that every transaction whose commit record ends at or before `L`
//! may be forgotten. Postgres sends transactions whole, after their commit, in the order of their
//! commit records, and messages arrive here in the order they were sent. Therefore:
//!
//! 1. `Commit.end_lsn` is safe once its transaction has been dealt with: the transactions that end
//!    at or before it are this one and those sent before it.
//! 2. A keepalive's LSN is safe **outside a transaction** once all before it has been dealt with: it
//!    is the place up to which the server has decoded, each transaction that commits before it has
//!    been sent in full before the keepalive, or holds nothing that we are to see. Such keepalives
//!    come as [`Event::Idle`]; inside a transaction they are dropped, another one follows.
//!    Without them, a published table at rest would hold back the WAL of all others.
//! 3. `XLogData.wal_end` is never safe: it is the place of a single change. A transaction that
//!    changed a row earlier may commit later, and then lies beyond it only in part; and for
//!    relation messages it is 0.
//! 4. A transaction still open when `L` is acknowledged is not lost: its commit record lies beyond
//!    `L`, and Postgres keeps the WAL from its start (`restart_lsn`) without our doing.
//!
//! So the pipeline passes to [`Source::acknowledge`] nothing but the LSNs of 1 and 2, in the order in
//! which it has finished them. `acknowledge` is monotonic and capped by what has been delivered, and
//! it is the only writer of progress. After a reconnect the stream starts at the acknowledged LSN;
//! that also holds after a crash of Postgres, which may have forgotten the acknowledgement.

mod backoff;
mod config;
mod connect;
mod database;
mod error;
mod examine;
mod finding;
mod gap;
mod monitor;
mod preflight;
mod progress;
mod slot;
mod source;
mod stream;
mod tables;
mod tls;

pub use config::{LostSlot, SourceConfig};
pub use database::{Database, connect_sql};
pub use error::{Retry, SourceError};
pub use examine::examine;
pub use finding::{Finding, Severity};
pub use gap::{Gap, GapReason, ServerIdentity};
pub use preflight::OLDEST_VERSION;
pub use progress::{Progress, StreamState};
pub use slot::{SlotKind, SlotName};
pub use source::{Event, Source};
