//! How fast a prepared backlog is drained, beside `pg_recvlogical`, and how long a commit takes to
//! arrive. Needs PostgreSQL's server and client programs:
//!
//!     cargo run --release -p walcast-source --example drain [rows] [ahead_bytes]

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use walcast_harness::Postgres;
use walcast_pgoutput::{Lsn, Message};
use walcast_source::{Event, SlotKind, SlotName, Source, SourceConfig};

const ROUNDS: usize = 3;

/// A task of its own: the main one runs on a thread of its own, and waking it for each message would
/// be what is measured.
#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let rows: i64 = arguments.next().map_or(Ok(200_000), |text| text.parse())?;
    let buffer: usize = arguments.next().map_or(Ok(4 << 20), |text| text.parse())?;
    tokio::spawn(measure(rows, buffer)).await?
}

async fn measure(rows: i64, buffer: usize) -> Result<()> {
    let postgres =
        Postgres::start_with(&[("max_wal_size", "4GB"), ("shared_buffers", "512MB")]).await?;
    for per_transaction in [1, 100, 10_000] {
        backlog(&postgres, rows, per_transaction, buffer).await?;
    }
    latency(&postgres).await
}

async fn prepare(postgres: &Postgres) -> Result<(String, Client)> {
    let database = postgres.create_database().await?;
    let sql = postgres.connect("postgres", &database).await?;
    sql.batch_execute(
        "CREATE TABLE event (id bigint PRIMARY KEY, user_id uuid, kind text, amount numeric, at timestamptz, body text);
         CREATE PUBLICATION realtime FOR TABLE event",
    )
    .await?;
    Ok((database, sql))
}

async fn backlog(
    postgres: &Postgres,
    rows: i64,
    per_transaction: i64,
    buffer: usize,
) -> Result<()> {
    let (database, sql) = prepare(postgres).await?;
    for slot in slots() {
        let create = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
        sql.batch_execute(&create).await?;
    }
    sql.batch_execute(&format!(
        "DO $$ BEGIN FOR n IN 0..{} LOOP
             INSERT INTO event SELECT i, '7f3e4567-e89b-12d3-a456-426614174000', 'created', i * 1.25, now(),
                                      'a body of about sixty characters, which is what rows often have'
               FROM generate_series(n * {per_transaction} + 1, (n + 1) * {per_transaction}) i;
             COMMIT; END LOOP; END $$",
        rows / per_transaction - 1
    ))
    .await?;
    let row = sql
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await?;
    let end: String = row.get(0);
    let mut ours = Vec::new();
    let mut theirs = Vec::new();
    for round in 0..ROUNDS {
        theirs.push(pg_recvlogical(
            postgres,
            &database,
            &format!("theirs_{round}"),
            &end,
        )?);
        ours.push(drain(postgres, &database, &format!("ours_{round}"), rows, buffer).await?);
    }
    for slot in slots() {
        sql.batch_execute(&format!("SELECT pg_drop_replication_slot('{slot}')"))
            .await
            .ok();
    }
    let (ours, theirs) = (rows as f64 / median(ours), rows as f64 / median(theirs));
    println!(
        "{per_transaction:>6} rows/txn: walcast-source {ours:>9.0} rows/s, pg_recvlogical {theirs:>9.0} rows/s, ratio {:.2}",
        ours / theirs
    );
    Ok(())
}

fn slots() -> impl Iterator<Item = String> {
    (0..ROUNDS).flat_map(|round| [format!("ours_{round}"), format!("theirs_{round}")])
}

fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

fn config(postgres: &Postgres, database: &str, slot: &str) -> Result<SourceConfig> {
    let url = postgres.url("postgres", database);
    Ok(SourceConfig::new(
        url,
        "realtime",
        SlotKind::Durable(SlotName::new(slot)?),
    ))
}

/// As the pipeline does it: a batch of what is there, then an acknowledgement.
async fn drain(
    postgres: &Postgres,
    database: &str,
    slot: &str,
    rows: i64,
    buffer: usize,
) -> Result<f64> {
    let mut config = config(postgres, database, slot)?;
    config.ahead_bytes_max = buffer;
    let start = Instant::now();
    let mut source = Source::open(config, CancellationToken::new()).await?;
    let (mut seen, mut done) = (0, Lsn::ZERO);
    while seen < rows {
        let mut event = Some(source.next().await?);
        for _ in 0..256 {
            match event {
                Some(Event::Message(Message::Insert(_))) => seen += 1,
                Some(Event::Message(Message::Commit(commit))) => done = commit.end_lsn,
                Some(_) => {}
                None => break,
            }
            event = source.try_next();
        }
        if let Some(Event::Message(Message::Insert(_))) = event {
            seen += 1;
        }
        source.acknowledge(done);
    }
    let seconds = start.elapsed().as_secs_f64();
    source.close().await;
    Ok(seconds)
}

fn pg_recvlogical(postgres: &Postgres, database: &str, slot: &str, end: &str) -> Result<f64> {
    let port = postgres.port().to_string();
    let start = Instant::now();
    let status = std::process::Command::new("pg_recvlogical")
        .args([
            "-h",
            "127.0.0.1",
            "-U",
            "postgres",
            "-p",
            &port,
            "-d",
            database,
        ])
        .args([
            "-S",
            slot,
            "--start",
            "-f",
            "/dev/null",
            "--endpos",
            end,
            "-F",
            "0",
        ])
        .args(["-o", "proto_version=1", "-o", "publication_names=realtime"])
        .stderr(Stdio::null())
        .status()
        .context("running pg_recvlogical")?;
    ensure!(status.success(), "pg_recvlogical: {status}");
    Ok(start.elapsed().as_secs_f64())
}

/// From the return of COMMIT to the row's event: other sessions' view of it.
async fn latency(postgres: &Postgres) -> Result<()> {
    let (database, sql) = prepare(postgres).await?;
    let mut source = Source::open(
        config(postgres, &database, "latency")?,
        CancellationToken::new(),
    )
    .await?;
    let (tell, mut arrived) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok(event) = source.next().await {
            match event {
                Event::Message(Message::Insert(_)) if tell.send(Instant::now()).is_err() => return,
                Event::Message(Message::Commit(commit)) => source.acknowledge(commit.end_lsn),
                _ => {}
            }
        }
    });
    let mut micros = Vec::new();
    for id in 0..1000_i64 {
        sql.execute("INSERT INTO event (id) VALUES ($1)", &[&id])
            .await?;
        let committed = Instant::now();
        let arrived = arrived.recv().await.context("the stream ended")?;
        micros.push(arrived.saturating_duration_since(committed).as_micros());
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
    micros.sort_unstable();
    println!(
        "commit returned -> event: p50 {} us, p99 {} us",
        micros[500], micros[990]
    );
    Ok(())
}
