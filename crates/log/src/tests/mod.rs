//! The log as a whole: what went in comes out, or nothing does.

mod damage;
mod failing;
pub(crate) mod faults;
mod processes;
mod reading;
mod retention;
mod round_trip;
mod stream;

use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::watch;
use walcast_change::{Change, Cursor, Position};
use walcast_pgoutput::Lsn;

use self::stream::{Transaction, print};
use crate::{History, Identity, Log, LogConfig, LogError, Opened};

/// In memory where there is such a place: the tests open thousands of logs.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = TempDir::with_prefix_in("walcast-log-", memory);
    let made = made.or_else(|_| TempDir::with_prefix("walcast-log-"));
    made.expect("a temporary directory")
}

fn config(directory: &Path) -> LogConfig {
    LogConfig {
        sync_interval: Duration::ZERO,
        ..LogConfig::new(directory)
    }
}

fn identity() -> Identity {
    Identity {
        system: "7391231".into(),
        timeline: 1,
        slot: "walcast".into(),
        publication: "realtime".into(),
    }
}

fn open(config: &LogConfig) -> (Log, Opened) {
    open_as(config, identity())
}

/// A process that another test starts has all files for a moment, and with them the lock of a log that
/// was closed meanwhile.
fn open_as(config: &LogConfig, identity: Identity) -> (Log, Opened) {
    let end = Instant::now() + Duration::from_secs(90);
    loop {
        match Log::open(config.clone(), identity.clone()) {
            Err(LogError::Locked { .. }) if Instant::now() < end => std::thread::yield_now(),
            opened => return opened.expect("a log"),
        }
    }
}

async fn close(log: Log) {
    let patience = Duration::from_secs(90);
    log.close(patience).await.expect("a disk that works");
}

/// Appends those changes that are not there yet, as the pipeline would.
async fn append(log: &mut Log, transactions: &[Transaction]) {
    for transaction in transactions {
        for change in &transaction.changes {
            log.append(change);
        }
        log.commit(transaction.end_lsn);
        log.flush().await.expect("a writer");
    }
}

/// All that follows `cursor`.
fn read_after(history: &History, cursor: Cursor) -> Vec<Change> {
    let epoch = history.epoch();
    let reader = history.reader_after(Position { cursor, epoch });
    let mut reader = reader.expect("the position is kept");
    let mut changes = Vec::new();
    loop {
        let batch = reader.next_batch(1 << 16, 100, |_| true).expect("whole");
        changes.extend(batch.changes);
        if batch.at_end {
            return changes;
        }
    }
}

fn read_all(history: &History) -> Vec<String> {
    let oldest = history.oldest().cursor;
    read_after(history, oldest).iter().map(print).collect()
}

fn printed(transactions: &[Transaction]) -> Vec<String> {
    let changes = transactions.iter().flat_map(|each| &each.changes);
    changes.map(print).collect()
}

async fn wait_for<T: Clone>(watch: &mut watch::Receiver<T>, reached: impl FnMut(&T) -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(90), watch.wait_for(reached)).await;
    waited.expect("in time").expect("a log");
}

async fn wait_durable(history: &History, lsn: Lsn) {
    wait_for(&mut history.durable(), |durable| *durable >= lsn).await;
}
