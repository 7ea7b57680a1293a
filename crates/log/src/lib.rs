//! The change log: every decoded change, on the disk, for as long as it is kept.
//!
//! Owns: the directory of the log, the epoch, which LSN is durable, and how far back a reader may go.
//! Refuses to know: sockets, SQL, subscribers, who may see what.
//!
//! ```text
//! pipeline ─append→ Log (blocks in memory) ─flush→ writer thread ─write, fdatasync→ segment files
//!                                                     └ written, durable, health        └ Reader
//! ```
//!
//! Invariants:
//! - Nothing is read that was not appended, and nothing between two changes is left out: every block
//!   carries a checksum over its bytes and its place, a segment's header names the change before it.
//! - Durable is the end of a commit such that everything up to it was synced, and stays so: what is
//!   found when the log is opened is synced before it counts.
//! - After a crash the log ends with a complete transaction.
//! - An epoch is durable before anything is appended to it, and an epoch that is found
//!   without a commit is over.
//! - Memory: the queue to the disk (a setting), one batch of the appender's, 24 bytes per 32 KiB on
//!   disk, the shapes that stand in the segments. A reader holds nothing between two calls.

mod block;
mod config;
mod error;
mod format;
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod history;
mod log;
mod reader;
mod record;
mod recovery;
mod segment;
#[cfg(test)]
mod tests;
mod writer;

pub use config::{Identity, LogConfig};
pub use error::{LogError, ReadError};
pub use history::{Health, History};
pub use log::{Log, NewEpoch, Opened};
pub use reader::{Batch, Reader};
