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
//!
//! # Why plain files
//!
//! Measured beside three engines: batches of 1,000 changes of 205 to 215 bytes, one run each, two
//! busy cores, about 3 ms for an fdatasync. Thousands of changes per second; the engines were given
//! bytes, this crate decoded changes (`examples/figures.rs` prints its line).
//!
//! | | sync of each batch | not waited for | read in order |
//! |---|---|---|---|
//! | this crate | 190 | 1,470 (a sync each 10 ms) | 1,180; passed over 10,700 |
//! | bare file | 270 to 360 | 3,300 (a sync at the end) | |
//! | commitlog 0.2 | 310 | 1,300 (a sync at the end) | 6,000 to 14,500 |
//! | redb 4.5 | 190 to 220 | 380 (a sync at the end) | 2,900 to 9,100 |
//! | fjall 3.1 | 210 to 230 | 330 to 420 (a sync at the end) | 840 to 2,730 |
//!
//! Whoever waits for the disk gets the disk's speed from all of them. The pipeline doesn't wait: what
//! counts is its own time, 60 to 180 ns per change here, over 2,000 ns in the two key-value engines,
//! which sort and index what is only ever appended and read in order. commitlog is a log and comes
//! near (770 ns), but opens a torn file without looking, drops nothing by age or size, and has one
//! owner for writing and reading. What is most of this crate would stand on top of any of them:
//! shapes, epochs, commits and the half transactions after them, retention, readers beside a writer
//! that waits for a full disk.

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
