//! How fast a table is read, beside a plain COPY of the same query by the same client:
//! `cargo run --release -p walcast-rls --example snapshot`.
//!
//! On two busy cores, with Postgres on the same machine, a snapshot gave this much of COPY's rows/s:
//! narrow 77 % (3.8 million/s), usual 93 %, secured 75 %, escaped 60 % (each value has 40 escapes).

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio_postgres::{Client, NoTls};
use walcast_change::{Decoder, Shape, Step, Types};
use walcast_harness::Postgres;
use walcast_pgoutput::Message;
use walcast_rls::{CheckConfig, Connector, ReadLimits, ReaderBounds, TableReader, Viewer};

const ROWS: u64 = 1_000_000;
const ROUNDS: usize = 5;

const SQL: &str = "
    CREATE ROLE authenticated; CREATE ROLE checker LOGIN NOINHERIT; GRANT authenticated TO checker;
    CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
      $$ SELECT nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid $$;
    CREATE PUBLICATION realtime FOR ALL TABLES;";

/// Name, columns, values for `n`, and what is said of its policy.
const TABLES: [(&str, &str, &str, &str); 4] = [
    ("narrow", "id int8 PRIMARY KEY, n int", "n, n % 1000", ""),
    (
        "usual",
        "id int8 PRIMARY KEY, owner uuid, name text, price numeric(10, 2), made timestamptz, done bool, body text",
        "n, '00000000-0000-0000-0000-00000000000a', 'name ' || n, n / 100.0, now(), n % 2 = 0, repeat('x', 100)",
        "",
    ),
    (
        "escaped",
        "id int8 PRIMARY KEY, body text",
        r"n, repeat(E'line\n\t', 20)",
        "",
    ),
    (
        "secured",
        "id int8 PRIMARY KEY, owner uuid, body text",
        "n, '00000000-0000-0000-0000-00000000000a', repeat('x', 100)",
        "ALTER TABLE secured ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON secured USING (owner = (SELECT auth.uid()));",
    ),
];

#[tokio::main]
async fn main() -> Result<()> {
    let postgres = Postgres::start().await?;
    let admin = postgres.connect("postgres", "postgres").await?;
    admin.batch_execute(SQL).await?;
    admin
        .batch_execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
        .await?;
    let url = postgres.url("checker", "postgres");
    let connector = Connector::new(move || {
        let url = url.clone();
        async move {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        }
    });
    let reader = TableReader::new(CheckConfig::new(connector), ReaderBounds::default());
    let viewer = Viewer {
        role: "authenticated".into(),
        claims: r#"{"sub": "00000000-0000-0000-0000-00000000000a"}"#.into(),
    };
    let plain = postgres.connect("checker", "postgres").await?;
    plain
        .batch_execute(&format!(
            "SET jit = off; SET role = 'authenticated'; SET request.jwt.claims = '{}'",
            viewer.claims
        ))
        .await?;
    for (table, columns, values, policy) in TABLES {
        let shape = fill(&admin, table, columns, values, policy).await?;
        let (mut copied, mut read) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            copied.push(copy(&plain, table).await?);
            read.push(snapshot(&reader, &viewer, &shape).await?);
        }
        let (copied, read) = (median(copied), median(read));
        let rate = |time: Duration| ROWS as f64 / time.as_secs_f64() / 1e6;
        println!(
            "{table:8} COPY {:.2}, snapshot {:.2} million rows/s: {:.0} %",
            rate(copied),
            rate(read),
            100.0 * copied.as_secs_f64() / read.as_secs_f64()
        );
    }
    Ok(())
}

/// Makes the table; its shape comes from the stream.
async fn fill(
    admin: &Client,
    table: &str,
    columns: &str,
    values: &str,
    policy: &str,
) -> Result<Arc<Shape>> {
    let one = |n: u64, rows| {
        format!("INSERT INTO {table} SELECT {values} FROM generate_series({n}, {n} + {rows} - 1) n")
    };
    let make = format!(
        "CREATE TABLE {table} ({columns}); GRANT SELECT ON {table} TO authenticated; {policy} {}",
        one(1, 1)
    );
    admin.batch_execute(&make).await?;
    let sql = "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1', 'publication_names', 'realtime')";
    let mut decoder = Decoder::new(Types::default());
    let mut shape = None;
    for row in admin.query(sql, &[]).await? {
        let message = walcast_pgoutput::decode(Bytes::from(row.get::<_, Vec<u8>>(0)))?;
        if let Message::Relation(relation) = &message {
            decoder.describe(relation, Some(&["id".to_owned()]));
        } else if let Step::Change(change) = decoder.step(message)? {
            shape = Some(change.shape.clone());
        }
    }
    admin.batch_execute(&one(2, ROWS - 1)).await?;
    admin
        .batch_execute(&format!("VACUUM ANALYZE {table}"))
        .await?;
    shape.context("a row of the table in the stream")
}

async fn copy(client: &Client, table: &str) -> Result<Duration> {
    let started = Instant::now();
    let sql = format!("COPY (SELECT * FROM {table}) TO STDOUT");
    let mut lines = std::pin::pin!(client.copy_out(&sql).await?);
    let mut rows = 0;
    while let Some(line) = lines.next().await {
        rows += u64::from(!line?.is_empty());
    }
    ensure!(rows == ROWS, "{rows} rows");
    Ok(started.elapsed())
}

async fn snapshot(reader: &TableReader, viewer: &Viewer, shape: &Arc<Shape>) -> Result<Duration> {
    let started = Instant::now();
    let limits = ReadLimits {
        rows_max: u64::MAX,
        bytes_max: u64::MAX,
        time_max: Duration::from_secs(600),
    };
    let mut reading = reader.read(viewer, shape, None, None, limits).await?;
    let mut rows = 0;
    while let Some(chunk) = reading.next_chunk().await? {
        rows += chunk.len() as u64;
    }
    ensure!(rows == ROWS, "{rows} rows");
    Ok(started.elapsed())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
