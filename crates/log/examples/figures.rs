//! What the log costs: `cargo run --release -p walcast-log --example figures [directory]`.
//!
//! Prints one line per figure. Rows are of four columns, 200 bytes of values each; the directory
//! should be on the disk that is meant (default: `target/log-figures`).

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use walcast_change::{Change, Decoder, Position, Step, Types};
use walcast_log::{Identity, Log, LogConfig, LogError};
use walcast_pgoutput::encode::tuple;
use walcast_pgoutput::{
    Begin, Column, Commit, Insert, Lsn, Message, PgTime, Relation, RelationId, ReplicaIdentity,
    Value, Xid,
};

const BATCH: usize = 1_000;
const BATCHES: usize = 1_000;

#[tokio::main]
async fn main() -> Result<()> {
    let directory = std::env::args().nth(1).map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| "target/log-figures".into());
    let changes = changes()?;
    let bytes: usize = changes.iter().map(Change::size_bytes).sum();
    println!(
        "{} changes, {} MB of values",
        changes.len(),
        bytes / 1_000_000
    );

    append(
        "append, sync of every batch",
        &directory,
        &changes,
        Sync::Batch,
    )
    .await?;
    append(
        "append, syncs in groups (10 ms)",
        &directory,
        &changes,
        Sync::Group,
    )
    .await?;
    append(
        "append, a commit and a flush for each change",
        &directory,
        &changes[..BATCH * 100],
        Sync::Each,
    )
    .await?;
    append("append, sync at the end", &directory, &changes, Sync::End).await?;
    let log = reopen(&directory)?;
    read(&log, &changes)?;
    skip(&log, changes.len())?;
    resume(&log, &changes)?;
    log.close(Duration::from_secs(10)).await?;
    std::fs::remove_dir_all(directory)?;
    Ok(())
}

#[derive(Clone, Copy, PartialEq)]
enum Sync {
    Batch,
    Group,
    Each,
    End,
}

async fn append(what: &str, directory: &PathBuf, changes: &[Change], sync: Sync) -> Result<()> {
    let _ = std::fs::remove_dir_all(directory);
    let (mut log, _) = Log::open(config(directory, sync), identity())?;
    let begun = Instant::now();
    let mut appending = Duration::ZERO;
    for batch in changes.chunks(BATCH) {
        let started = Instant::now();
        for change in batch {
            log.append(change);
            if sync == Sync::Each {
                log.commit(Lsn(change.cursor.commit_lsn.0 + change.cursor.ordinal + 1));
                log.flush().await?;
            }
        }
        appending += started.elapsed();
        log.commit(Lsn(batch[BATCH - 1].cursor.commit_lsn.0 + BATCH as u64));
        match sync {
            Sync::Batch => log.sync().await?,
            Sync::Group | Sync::Each | Sync::End => log.flush().await?,
        }
    }
    log.sync().await?;
    let took = begun.elapsed();
    let each = appending.as_nanos() as usize / changes.len();
    report(
        what,
        changes.len(),
        changes.iter().map(Change::size_bytes).sum(),
        took,
    );
    println!("    {each} ns per change on the caller's side");
    log.close(Duration::from_secs(10)).await?;
    Ok(())
}

fn reopen(directory: &PathBuf) -> Result<Log, LogError> {
    let begun = Instant::now();
    let (log, _) = Log::open(config(directory, Sync::Group), identity())?;
    let size = log.history().size_bytes() as usize;
    report("open, every checksum compared", 1, size, begun.elapsed());
    Ok(log)
}

fn read(log: &Log, changes: &[Change]) -> Result<()> {
    let begun = Instant::now();
    let history = log.history();
    let mut reader = history.reader_after(history.oldest())?;
    let mut count = 0;
    let mut bytes = 0;
    loop {
        let batch = reader.next_batch(1 << 20, 10_000, |_| true)?;
        count += batch.changes.len();
        bytes += batch.changes.iter().map(Change::size_bytes).sum::<usize>();
        if batch.at_end {
            break;
        }
    }
    ensure!(count == changes.len());
    report("read all", count, bytes, begun.elapsed());
    Ok(())
}

fn skip(log: &Log, count: usize) -> Result<()> {
    let begun = Instant::now();
    let history = log.history();
    let mut reader = history.reader_after(history.oldest())?;
    while !reader.next_batch(1 << 20, 10_000, |_| false)?.at_end {}
    report(
        "read all, nothing wanted",
        count,
        history.size_bytes() as usize,
        begun.elapsed(),
    );
    Ok(())
}

/// 10,000 clients, each of which missed another 100 changes.
fn resume(log: &Log, changes: &[Change]) -> Result<()> {
    let begun = Instant::now();
    let history = log.history();
    let epoch = history.epoch();
    let mut bytes = 0;
    for nth in 0..10_000 {
        let cursor = changes[nth * 7_919 % (changes.len() - 101)].cursor;
        let mut reader = history.reader_after(Position { cursor, epoch })?;
        let batch = reader.next_batch(1 << 16, 100, |_| true)?;
        ensure!(batch.changes.len() == 100);
        bytes += batch.changes.iter().map(Change::size_bytes).sum::<usize>();
    }
    report(
        "10,000 readers of 100 changes each",
        1_000_000,
        bytes,
        begun.elapsed(),
    );
    Ok(())
}

fn report(what: &str, changes: usize, bytes: usize, took: Duration) {
    let seconds = took.as_secs_f64();
    println!(
        "{what}: {seconds:.2} s, {:.0} changes/s, {:.0} MB/s",
        changes as f64 / seconds,
        bytes as f64 / 1e6 / seconds
    );
}

fn config(directory: &PathBuf, sync: Sync) -> LogConfig {
    LogConfig {
        sync_interval: match sync {
            Sync::Batch => Duration::ZERO,
            Sync::Group | Sync::Each => Duration::from_millis(10),
            Sync::End => Duration::from_secs(3600),
        },
        ..LogConfig::new(directory)
    }
}

fn identity() -> Identity {
    Identity {
        system: "figures".into(),
        timeline: 1,
        slot: "figures".into(),
        publication: "figures".into(),
    }
}

/// [`BATCHES`] transactions of [`BATCH`] inserts.
fn changes() -> Result<Vec<Change>> {
    let mut decoder = Decoder::new(Types::default());
    decoder.step(relation())?;
    let mut changes = Vec::new();
    for transaction in 0..BATCHES as u64 {
        let lsn = Lsn((transaction + 1) * 1_000_000);
        decoder.step(Message::Begin(Begin {
            final_lsn: lsn,
            commit_time: PgTime(lsn.0 as i64),
            xid: Xid(transaction as u32),
        }))?;
        for nth in 0..BATCH {
            let id = format!("{:08}", changes.len());
            let text = "x".repeat(140 + nth % 40);
            let new = tuple([
                Value::Text(id.as_bytes()),
                Value::Text(text.as_bytes()),
                Value::Text(b"2026-01-01 00:00:00+00"),
                Value::Null,
            ]);
            let relation = RelationId(1);
            if let Step::Change(change) = decoder.step(Message::Insert(Insert { relation, new }))? {
                changes.push(change);
            }
        }
        decoder.step(Message::Commit(Commit {
            flags: 0,
            commit_lsn: lsn,
            end_lsn: Lsn(lsn.0 + 1),
            commit_time: PgTime(0),
        }))?;
    }
    Ok(changes)
}

fn relation() -> Message {
    let column = |name, type_oid| Column {
        key: false,
        name: Bytes::from_static(name),
        type_oid,
        type_modifier: -1,
    };
    Message::Relation(Relation {
        id: RelationId(1),
        schema: Bytes::from_static(b"public"),
        name: Bytes::from_static(b"figures"),
        identity: ReplicaIdentity::Full,
        columns: vec![
            column(b"id", 23),
            column(b"text", 25),
            column(b"at", 1184),
            column(b"none", 25),
        ],
    })
}
