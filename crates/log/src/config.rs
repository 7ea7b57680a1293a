//! Where the log lives, how much it keeps, and whose history it is.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of one log. Nothing else may live in `directory`.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Made if it isn't there.
    pub directory: PathBuf,
    /// Whole segments go when all of them together, the one being written counted as full, are
    /// larger than this. At least two segments are kept.
    pub bytes_max: u64,
    /// Whole segments go when their youngest change is older than this. Data stays up to a quarter
    /// longer, and for as long as nothing is written after it.
    pub age_max: Duration,
    /// A segment is closed when it is this large (or a quarter of `age_max` old).
    pub segment_bytes: u64,
    /// What may wait for the disk, in memory; [`Log::flush`](crate::Log::flush) waits beyond that.
    pub queue_bytes_max: usize,
    /// Between two fdatasyncs at least this passes: what is written in between shares the next one.
    /// Acknowledgements to Postgres are later by that much; readers don't wait for it.
    pub sync_interval: Duration,
}

impl LogConfig {
    /// 10 minutes, 1 GiB, segments of 64 MiB, a queue of 16 MiB, 10 ms between syncs.
    pub fn new(directory: impl Into<PathBuf>) -> LogConfig {
        LogConfig {
            directory: directory.into(),
            bytes_max: 1 << 30,
            age_max: Duration::from_secs(600),
            segment_bytes: 64 << 20,
            queue_bytes_max: 16 << 20,
            sync_interval: Duration::from_millis(10),
        }
    }
}

/// What the history is of. A log of anything else is begun anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// `system_identifier` of IDENTIFY_SYSTEM.
    pub system: String,
    pub timeline: u32,
    pub slot: String,
    pub publication: String,
}
