//! A prepared backlog and no subscriber: how fast the stream is read, understood and acknowledged,
//! beside `pg_recvlogical`, which writes it to `/dev/null`.
//!
//! Every slot is made before the backlog, so each run drains all of it. Both sides run from the
//! start of their process until they have the backlog's end, over TCP, one after the other.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;
use walcast_harness::Walcast;

use crate::Options;
use crate::process::{cpu_seconds, resident_peak_bytes};
use crate::report::{Goal, Report, progress};
use crate::samples::median;
use crate::stage::{PLAIN, Stage, insert};

const PER_TRANSACTION: [usize; 3] = [1, 100, 10_000];

/// How often walcast is asked how far it is: a fraction of the shortest run.
const LOOK: Duration = Duration::from_millis(10);

/// One run may take so long.
const PATIENCE: Duration = Duration::from_secs(180);

#[derive(Default)]
struct Runs {
    ours: Vec<Drained>,
    theirs: Vec<f64>,
}

/// One run of walcast through a backlog.
#[derive(Clone, Copy)]
pub(crate) struct Drained {
    pub(crate) seconds: f64,
    pub(crate) cpu_s: f64,
    pub(crate) peak_bytes: f64,
}

/// The median of one figure of some runs.
pub(crate) fn middle(runs: &[Drained], figure: fn(&Drained) -> f64) -> f64 {
    median(runs.iter().map(figure).collect())
}

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let rows = options.size(1_000_000, 200_000);
    for per_transaction in PER_TRANSACTION {
        let case = format!("{per_transaction} rows/txn");
        progress(&format!("drain: {rows} rows, {case}"));
        let runs = measure(stage, rows, per_transaction, options.repeats).await?;
        let (ours, theirs) = (
            rows as f64 / middle(&runs.ours, |run| run.seconds),
            rows as f64 / median(runs.theirs),
        );
        report.add("drain", &case, "walcast", ours, "rows/s", None);
        report.add("drain", &case, "pg_recvlogical", theirs, "rows/s", None);
        report.add(
            "drain",
            &case,
            "ratio",
            ours / theirs,
            "",
            Some(Goal::AtLeast(0.9)),
        );
        let cpu = middle(&runs.ours, |run| run.cpu_s) * 1e6 / rows as f64;
        report.add(
            "drain",
            &case,
            "walcast's processor time",
            cpu,
            "us/row",
            None,
        );
        report.add(
            "drain",
            &case,
            "walcast's peak memory",
            middle(&runs.ours, |run| run.peak_bytes) / MIB,
            "MiB",
            None,
        );
    }
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

async fn measure(stage: &Stage, rows: usize, per_transaction: usize, repeats: u32) -> Result<Runs> {
    let (database, sql) = stage.database().await?;
    let slots: Vec<_> = (0..repeats)
        .map(|round| (format!("ours_{round}"), format!("theirs_{round}")))
        .collect();
    for slot in slots.iter().flat_map(|(ours, theirs)| [ours, theirs]) {
        create_slot(&sql, slot).await?;
    }
    let end = backlog(&sql, rows, per_transaction).await?;
    let mut runs = Runs::default();
    for (ours, theirs) in &slots {
        runs.theirs
            .push(pg_recvlogical(stage, &database, theirs, &end).await?);
        runs.ours
            .push(walcast(stage, &database, ours, &end, &[]).await?);
    }
    for slot in slots.iter().flat_map(|(ours, theirs)| [ours, theirs]) {
        drop_slot(&sql, slot).await?;
    }
    Ok(runs)
}

pub(crate) async fn create_slot(sql: &Client, slot: &str) -> Result<()> {
    let create = "SELECT pg_create_logical_replication_slot($1, 'pgoutput')";
    sql.execute(create, &[&slot]).await?;
    Ok(())
}

pub(crate) async fn drop_slot(sql: &Client, slot: &str) -> Result<()> {
    sql.execute("SELECT pg_drop_replication_slot($1)", &[&slot])
        .await?;
    Ok(())
}

/// Returns the LSN of its end. One transaction follows, so that both sides are told of something
/// beyond the end, and neither waits for a keepalive.
pub(crate) async fn backlog(sql: &Client, rows: usize, per_transaction: usize) -> Result<String> {
    let transactions = rows / per_transaction;
    let statement = insert(PLAIN, 0, per_transaction, 1000).replace(
        &format!("generate_series(0, {})", per_transaction - 1),
        &format!("generate_series(n * {per_transaction}, (n + 1) * {per_transaction} - 1)"),
    );
    // One call each: several statements in one would be one transaction, which can't COMMIT inside.
    let fill = format!(
        "DO $$ BEGIN FOR n IN 0..{} LOOP {statement}; COMMIT; END LOOP; END $$",
        transactions - 1
    );
    for statement in [
        "SET synchronous_commit = off",
        &fill,
        "SET synchronous_commit = on",
        "CHECKPOINT",
    ] {
        sql.batch_execute(statement).await?;
    }
    let row = sql
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await?;
    sql.batch_execute(&insert(PLAIN, rows, 1, 1)).await?;
    Ok(row.get(0))
}

/// From the start of the process to the moment when it has acknowledged `end`.
pub(crate) async fn walcast(
    stage: &Stage,
    database: &str,
    slot: &str,
    end: &str,
    extra: &[(&str, &str)],
) -> Result<Drained> {
    let begin = Instant::now();
    let settings = [&[("slot_name", slot), ("slot_mode", "durable")], extra].concat();
    let mut walcast = stage.start(database, &settings).await?;
    acknowledged(&walcast, end).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let id = walcast.id().context("it runs")?;
    let (cpu_s, peak_bytes) = (cpu_seconds(id)?, resident_peak_bytes(id)?);
    walcast.terminate().await?;
    Ok(Drained {
        seconds,
        cpu_s,
        peak_bytes,
    })
}

/// Waits until everything up to an LSN is acknowledged.
pub(crate) async fn acknowledged(walcast: &Walcast, end: &str) -> Result<()> {
    let end = lsn(end)?;
    let there = async {
        loop {
            let (_, body) = walcast.get("/ready").await?;
            let ready: Value = serde_json::from_str(&body)?;
            let text = ready["acknowledged_lsn"]
                .as_str()
                .context("acknowledged_lsn")?;
            if lsn(text)? >= end {
                return anyhow::Ok(());
            }
            sleep(LOOK).await;
        }
    };
    let there = timeout(PATIENCE, there).await;
    there.with_context(|| format!("walcast doesn't get there:\n{}", walcast.log()))?
}

async fn pg_recvlogical(stage: &Stage, database: &str, slot: &str, end: &str) -> Result<f64> {
    let port = stage.postgres.port().to_string();
    let begin = Instant::now();
    let mut command = tokio::process::Command::new(stage.postgres.program("pg_recvlogical"));
    command
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "postgres",
            "-d",
            database,
            "-S",
            slot,
        ])
        .args(["--start", "-f", "/dev/null", "-F", "0", "--endpos", end])
        .args(["-o", "proto_version=1", "-o", "publication_names=realtime"])
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let status = timeout(PATIENCE, command.status())
        .await
        .context("pg_recvlogical goes on")??;
    ensure!(status.success(), "pg_recvlogical: {status}");
    Ok(begin.elapsed().as_secs_f64())
}

fn lsn(text: &str) -> Result<u64> {
    let (high, low) = text.split_once('/').context("an LSN has a slash")?;
    Ok(u64::from_str_radix(high, 16)? << 32 | u64::from_str_radix(low, 16)?)
}

#[cfg(test)]
mod tests {
    use super::lsn;

    #[test]
    fn lsns_compare_as_numbers() -> anyhow::Result<()> {
        assert_eq!(lsn("0/10")?, 16);
        assert!(lsn("1/0")? > lsn("0/FFFFFFFF")?);
        assert!(lsn("nonsense").is_err());
        Ok(())
    }
}
