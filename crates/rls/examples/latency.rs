//! How long a batch takes: `cargo run --release -p walcast-rls --example latency`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio_postgres::NoTls;
use walcast_change::{Change, Decoder, Step, Types};
use walcast_harness::Postgres;
use walcast_rls::{
    Batch, CheckConfig, Connector, PostgresCheck, Question, RowCheck, Version, Viewer,
};

const SQL: &str = r#"
    CREATE ROLE authenticated; CREATE ROLE checker LOGIN NOINHERIT; GRANT authenticated TO checker;
    CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
      $$ SELECT nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid $$;
    CREATE TABLE members (team int, who uuid, PRIMARY KEY (team, who));
    INSERT INTO members SELECT n % 1000, md5(n::text)::uuid FROM generate_series(1, 10000) n; ANALYZE members;
    CREATE TABLE own (id int PRIMARY KEY, owner uuid, body text);
    CREATE TABLE team (id int PRIMARY KEY, team int, body text);
    CREATE TABLE open (id int PRIMARY KEY, owner uuid, body text);
    GRANT SELECT ON members, own, team, open TO authenticated;
    ALTER TABLE own ENABLE ROW LEVEL SECURITY; ALTER TABLE team ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON own USING (owner = auth.uid());
    CREATE POLICY p ON team USING (EXISTS (SELECT FROM members m WHERE m.team = team.team AND m.who = auth.uid()));
    CREATE PUBLICATION realtime FOR ALL TABLES;"#;

#[tokio::main]
async fn main() -> Result<()> {
    let postgres = Postgres::start().await?;
    let admin = postgres.connect("postgres", "postgres").await?;
    admin.batch_execute(SQL).await?;
    admin
        .query(
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
            &[],
        )
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
    for table in ["own", "team", "open"] {
        let values = if table == "team" {
            "n % 1000"
        } else {
            "md5(n::text)::uuid"
        };
        admin
            .batch_execute(&format!("INSERT INTO {table} SELECT n, {values}, repeat('x', 100) FROM generate_series(1, 100) n"))
            .await?;
        let changes = changes(&admin).await?;
        for connections in [1, 2] {
            let mut check = PostgresCheck::connect(CheckConfig {
                connections,
                ..CheckConfig::new(connector.clone())
            })
            .await?;
            for (images, viewers) in [(1, 1), (1, 100), (100, 1), (100, 100)] {
                let batch = batch(&changes, images, viewers);
                let times = measure(&mut check, &batch).await;
                println!(
                    "{table:5} {images:3} images x {viewers:3} viewers, {connections} connections: p50 {:?}, p99 {:?}",
                    times.0, times.1
                );
            }
        }
    }
    Ok(())
}

async fn changes(admin: &tokio_postgres::Client) -> Result<Vec<Change>> {
    let sql = "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1', 'publication_names', 'realtime')";
    let mut decoder = Decoder::new(Types::default());
    let mut changes = Vec::new();
    for row in admin.query(sql, &[]).await? {
        let data: Vec<u8> = row.get(0);
        if let Step::Change(change) = decoder.step(walcast_pgoutput::decode(Bytes::from(data))?)? {
            changes.push(change);
        }
    }
    changes.first().context("no changes")?;
    Ok(changes)
}

fn batch(changes: &[Change], images: usize, viewers: usize) -> Batch {
    let question = |change: &Change| Question {
        row: change.new().expect("an insert").clone(),
        version: Version::New,
        xid: Some(change.xid),
        viewers: (0..viewers as u32).collect(),
        among: None,
    };
    let viewer = |n: usize| Viewer {
        role: "authenticated".into(),
        claims: format!(r#"{{"sub": "00000000-0000-0000-0000-{n:012}", "role": "authenticated"}}"#)
            .into(),
    };
    Batch {
        viewers: (0..viewers).map(viewer).collect(),
        questions: changes.iter().take(images).map(question).collect(),
    }
}

async fn measure(check: &mut PostgresCheck, batch: &Batch) -> (Duration, Duration) {
    let mut times = Vec::new();
    for round in 0..220 {
        let start = Instant::now();
        check.check(batch).await;
        if round >= 20 {
            times.push(start.elapsed());
        }
    }
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}
