//! The change log: how much it takes in by itself, and what it costs on the way from Postgres.

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use walcast_change::{Change, Decoder, Step, Types};
use walcast_log::{Identity, Log, LogConfig};
use walcast_pgoutput::Lsn;

use crate::Options;
use crate::drain::{Drained, backlog, create_slot, drop_slot, middle, walcast};
use crate::report::{Goal, Report, progress};
use crate::samples::median;
use crate::stage::{PLAIN, Stage, insert};

/// Changes that the server hands over at once, at most (`batch_changes_max`).
const BATCH: usize = 1_000;

/// Rows per transaction; rows in full and for a quick look.
const DRAINS: [(usize, usize, usize); 2] = [(1, 120_000, 10_000), (100, 400_000, 40_000)];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    progress("log: append");
    let changes = changes(stage).await?;
    let batches = options.size(1_000, 100);
    let mut rates = Vec::new();
    for _ in 0..options.repeats {
        rates.push(append(&changes, batches).await?);
    }
    let middle_of = |figure: fn(&Appended) -> f64| median(rates.iter().map(figure).collect());
    let case = "by itself, a sync each 10 ms";
    let mut add = |figure: &str, value, unit| report.add("log", case, figure, value, unit, None);
    add("changes", middle_of(|rate| rate.changes_s), "/s");
    add("values", middle_of(|rate| rate.bytes_s) / 1e6, "MB/s");
    add("caller's time", middle_of(|rate| rate.caller_ns), "ns each");
    add(
        "a bare file of as many bytes",
        bare_file(&changes, batches)? / 1e6,
        "MB/s",
    );
    for (per_transaction, full, quick) in DRAINS {
        let rows = options.size(full, quick);
        drains(stage, rows, per_transaction, options.repeats, report).await?;
    }
    Ok(())
}

/// With the log and without it, in turn, each run with a slot made before the backlog.
async fn drains(
    stage: &Stage,
    rows: usize,
    per_transaction: usize,
    repeats: u32,
    report: &mut Report,
) -> Result<()> {
    let case = format!("drain, {per_transaction} rows/txn");
    progress(&format!("log: {rows} rows, {case}"));
    let (database, sql) = stage.database().await?;
    let slots: Vec<_> = (0..2 * repeats)
        .map(|round| format!("log_{round}"))
        .collect();
    for slot in &slots {
        create_slot(&sql, slot).await?;
    }
    let end = backlog(&sql, rows, per_transaction).await?;
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for (round, slot) in slots.iter().enumerate() {
        // on, off; off, on: neither is always the first
        let (runs, extra): (&mut Vec<Drained>, &[_]) = match round % 4 {
            0 | 3 => (&mut with, &[]),
            _ => (&mut without, &[("log_dir", "off")]),
        };
        runs.push(walcast(stage, &database, slot, &end, extra).await?);
    }
    for slot in &slots {
        drop_slot(&sql, slot).await?;
    }
    let rate = |runs: &[Drained]| rows as f64 / middle(runs, |run| run.seconds);
    let cpu = |runs: &[Drained]| middle(runs, |run| run.cpu_s) * 1e6 / rows as f64;
    let ratio = rate(&with) / rate(&without);
    let mut add = |figure: &str, value, unit, goal| {
        report.add("log", case.as_str(), figure, value, unit, goal);
    };
    add("with the log", rate(&with), "rows/s", None);
    add("log_dir=off", rate(&without), "rows/s", None);
    add("ratio", ratio, "", Some(Goal::AtLeast(0.9)));
    add("processor time with the log", cpu(&with), "us/row", None);
    add("processor time without", cpu(&without), "us/row", None);
    Ok(())
}

struct Appended {
    changes_s: f64,
    bytes_s: f64,
    /// What appending takes of the pipeline's own time, per change.
    caller_ns: f64,
}

/// The same batch again and again, each time as another transaction, until all of it is durable.
async fn append(changes: &[Change], batches: usize) -> Result<Appended> {
    let folder = Folder::new()?;
    let config = LogConfig {
        bytes_max: 4 << 30, // nothing is dropped meanwhile
        ..LogConfig::new(&folder.path)
    };
    let identity = Identity {
        system: "bench".into(),
        timeline: 1,
        slot: "bench".into(),
        publication: "bench".into(),
    };
    let (mut log, _) = Log::open(config, identity)?;
    let (begin, mut caller) = (Instant::now(), Duration::ZERO);
    for nth in 1..=batches {
        let lsn = Lsn(nth as u64 * 1_000_000);
        let batch: Vec<Change> = changes
            .iter()
            .map(|change| {
                let mut change = change.clone();
                change.cursor.commit_lsn = lsn;
                change
            })
            .collect();
        let appending = Instant::now();
        for change in &batch {
            log.append(change);
        }
        log.commit(Lsn(lsn.0 + BATCH as u64));
        caller += appending.elapsed();
        log.flush().await?;
    }
    log.sync().await?;
    let seconds = begin.elapsed().as_secs_f64();
    log.close(Duration::from_secs(10)).await?;
    let count = (changes.len() * batches) as f64;
    let bytes: usize = changes.iter().map(Change::size_bytes).sum();
    Ok(Appended {
        changes_s: count / seconds,
        bytes_s: (bytes * batches) as f64 / seconds,
        caller_ns: caller.as_nanos() as f64 / count,
    })
}

/// What the disk takes of the same batches, a sync each 10 ms: bytes per second.
fn bare_file(changes: &[Change], batches: usize) -> Result<f64> {
    let folder = Folder::new()?;
    let mut file = std::fs::File::create(folder.path.join("bare"))?;
    let bytes: usize = changes.iter().map(Change::size_bytes).sum();
    let block = vec![b'x'; bytes];
    let (begin, mut synced) = (Instant::now(), Instant::now());
    for _ in 0..batches {
        file.write_all(&block)?;
        if synced.elapsed() >= Duration::from_millis(10) {
            file.sync_data()?;
            synced = Instant::now();
        }
    }
    file.sync_data()?;
    Ok((bytes * batches) as f64 / begin.elapsed().as_secs_f64())
}

/// Inserts into the stage's table, as the stream has them: one transaction of [`BATCH`].
pub(crate) async fn changes(stage: &Stage) -> Result<Vec<Change>> {
    let (_, sql) = stage.database().await?;
    create_slot(&sql, "log_changes").await?;
    sql.batch_execute(&insert(PLAIN, 0, BATCH, 1000)).await?;
    let query = "SELECT data FROM pg_logical_slot_get_binary_changes('log_changes', NULL, NULL,
                 'proto_version', '1', 'publication_names', 'realtime')";
    let (mut decoder, mut changes) = (Decoder::new(Types::default()), Vec::new());
    for row in sql.query(query, &[]).await? {
        let data: Vec<u8> = row.get(0);
        if let Step::Change(change) = decoder.step(walcast_pgoutput::decode(Bytes::from(data))?)? {
            changes.push(change);
        }
    }
    drop_slot(&sql, "log_changes").await?;
    anyhow::ensure!(changes.len() == BATCH, "{} changes", changes.len());
    Ok(changes)
}

/// Beside the folders that the servers of the benches keep their logs in. Removed on drop.
pub(crate) struct Folder {
    pub(crate) path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Result<Folder> {
        let path = std::env::temp_dir().join(format!("walcast-bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path); // of a process that had our id before
        std::fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Folder { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
