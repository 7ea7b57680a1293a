//! The rows of a table to one subscriber, beside `COPY … TO STDOUT` of the same query as the same role.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memchr::memmem;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tokio_postgres::Client as Sql;
use walcast_harness::Walcast;

use crate::Options;
use crate::client::Client;
use crate::dialect::Dialect;
use crate::process::{resident_bytes, resident_peak_bytes};
use crate::report::{Goal, Report, progress};
use crate::samples::median;
use crate::stage::{OWN_ROWS, PLAIN, Stage, Table, insert, token, user};
use crate::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(60);

/// Longer messages are rows.
const SHORT_BYTES: usize = 1024;

const SETTINGS: &[(&str, &str)] = &[
    ("snapshot_rows_max", "10000000"),
    ("snapshot_bytes_max", "8GiB"),
];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let rows = options.size(1_000_000, 50_000);
    let rounds = options.repeats.min(2);
    progress(&format!("snapshot: {rows} rows, {rounds} rounds"));
    let (database, sql) = stage.database().await?;
    fill(&sql, rows).await?;
    let walcast = stage.walcast(&database, SETTINGS).await?;
    let id = walcast.id().context("it runs")?;
    let before = resident_bytes(id)?;
    for (case, table) in [("no RLS", PLAIN), ("own rows, RLS", OWN_ROWS)] {
        let (mut ours, mut copies) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            copies.push(copy(stage, &database, table).await?);
            ours.push(
                snapshot(&walcast, table, rows)
                    .await
                    .with_context(|| walcast.log())?,
            );
        }
        let (ours, copies) = (rows as f64 / median(ours), rows as f64 / median(copies));
        let mut add = |figure: &str, value, unit, goal| {
            report.add("snapshot", case, figure, value, unit, goal);
        };
        add("snapshot", ours, "rows/s", None);
        add("COPY of the same query", copies, "rows/s", None);
        add("ratio", ours / copies, "", Some(Goal::AtLeast(0.5)));
    }
    let grown = (resident_peak_bytes(id)? - before) / 1024.0 / 1024.0;
    report.add(
        "snapshot",
        "all of them",
        "memory at most, more",
        grown,
        "MiB",
        None,
    );
    Ok(())
}

/// The same rows in both tables, all of them the user 0's.
async fn fill(sql: &Sql, rows: usize) -> Result<()> {
    let copy = format!("INSERT INTO {} SELECT * FROM {}", OWN_ROWS.name, PLAIN.name);
    for statement in [
        &*insert(PLAIN, 0, rows, 1),
        &copy,
        "VACUUM ANALYZE",
        "CHECKPOINT",
    ] {
        sql.batch_execute(statement).await?;
    }
    Ok(())
}

/// Seconds from the subscription to `snapshot_complete`.
async fn snapshot(walcast: &Walcast, table: Table, rows: usize) -> Result<f64> {
    let mut client = Client::connect(walcast.address(), Dialect::Native, &token(0)?).await?;
    let begin = Instant::now();
    let ask = format!(
        r#"{{"type":"subscribe","channel":"table:{}","snapshot":true}}"#,
        table.name
    );
    client.say(&ask).await?;
    let count = client.hear(|message| {
        let is = |kind: &str| memmem::find(message, kind.as_bytes()).is_some();
        if message.len() > SHORT_BYTES || is(r#""type":"snapshot""#) {
            return Ok(None);
        }
        if is(r#""event":"snapshot_complete""#) {
            let message: serde_json::Value = serde_json::from_slice(message)?;
            return Ok(Some(message["count"].as_u64().context("a count")?));
        }
        let text = || String::from_utf8_lossy(message);
        ensure!(is(r#""type":"ack""#), "no snapshot: {}", text());
        Ok(None)
    });
    let count = timeout(PATIENCE, count)
        .await
        .context("the rows don't end")??;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(count == rows as u64, "{count} rows of {rows}");
    Ok(seconds)
}

/// Seconds of the same query in the same place, its result only passed over.
async fn copy(stage: &Stage, database: &str, table: Table) -> Result<f64> {
    let (port, database) = (stage.postgres.port(), database.to_owned());
    let copy = spawn_blocking(move || {
        let mut sql = Wire::connect(port, &database)?;
        let claims = format!(r#"{{"sub":"{}","role":"authenticated"}}"#, user(0));
        sql.run(&format!(
            "SELECT set_config('request.jwt.claims', '{claims}', false); SET ROLE authenticated"
        ))?;
        let begin = Instant::now();
        sql.run(&format!("COPY (SELECT * FROM {}) TO STDOUT", table.name))?;
        anyhow::Ok(begin.elapsed().as_secs_f64())
    });
    copy.await?
}
