//! What a change costs by how many watch: `cargo run --release -p walcast-rls --example crowd`.

use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio_postgres::NoTls;
use walcast_change::{Change, Decoder, Step, Types};
use walcast_harness::Postgres;
use walcast_rls::{CheckConfig, Connector, PostgresCheck, Question, RowCheck, Version, Viewer};

const SQL: &str = r#"
    CREATE ROLE authenticated; CREATE ROLE checker LOGIN NOINHERIT; GRANT authenticated TO checker;
    CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC;
    CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
      $$ SELECT coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}')::jsonb $$;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
      $$ SELECT nullif(current_setting('request.jwt.claims', true)::jsonb ->> 'sub', '')::uuid $$;
    CREATE TABLE members (team int, who uuid, PRIMARY KEY (team, who));
    INSERT INTO members SELECT n, ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid FROM generate_series(0, 9999) n; ANALYZE members;
    CREATE TABLE own (id int PRIMARY KEY, key text, body text);
    CREATE TABLE team (id int PRIMARY KEY, key text, body text);
    CREATE TABLE tenant (id int PRIMARY KEY, key text, body text);
    CREATE TABLE odd (id int PRIMARY KEY, key text, body text);
    ALTER TABLE own ENABLE ROW LEVEL SECURITY; ALTER TABLE team ENABLE ROW LEVEL SECURITY;
    ALTER TABLE tenant ENABLE ROW LEVEL SECURITY; ALTER TABLE odd ENABLE ROW LEVEL SECURITY;
    ALTER TABLE own ALTER key TYPE uuid USING NULL; ALTER TABLE team ALTER key TYPE int USING 0;
    CREATE POLICY p ON own USING (key = auth.uid());
    CREATE POLICY p ON team USING (EXISTS (SELECT FROM members m WHERE m.team = team.key AND m.who = auth.uid()));
    CREATE POLICY p ON tenant USING (key = auth.jwt() ->> 'tenant');
    CREATE POLICY p ON odd USING (lower(key) = lower(auth.jwt() ->> 'tenant'));
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO authenticated;
    CREATE PUBLICATION realtime FOR ALL TABLES;"#;

const CHANGES: usize = 500;

#[tokio::main]
async fn main() -> Result<()> {
    let postgres = Postgres::start().await?;
    let admin = postgres.connect("postgres", "postgres").await?;
    admin.batch_execute(SQL).await?;
    let slot = "SELECT pg_create_logical_replication_slot('s', 'pgoutput')";
    admin.query(slot, &[]).await?;
    let url = postgres.url("checker", "postgres");
    let connector = Connector::new(move || {
        let url = url.clone();
        async move {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        }
    });
    for (table, values) in [
        (
            "own",
            "('00000000-0000-0000-0000-' || lpad((n % 100)::text, 12, '0'))::uuid",
        ),
        ("team", "n % 100"),
        ("tenant", "'tenant 5'"),
        ("odd", "'Tenant 5'"),
    ] {
        admin
            .batch_execute(&format!(
                "INSERT INTO {table} SELECT n, {values}, repeat('x', 100) FROM generate_series(1, {CHANGES}) n"
            ))
            .await?;
        let changes = changes(&admin).await?;
        for viewers in [1u32, 100, 1_000, 10_000] {
            let mut check = PostgresCheck::connect(CheckConfig::new(connector.clone())).await?;
            for number in 0..viewers {
                check.watch(number, &viewer(number), "public", Some(table));
            }
            let questions: Vec<Question> = changes.iter().map(question).collect();
            let first = Instant::now();
            let found = check.sweep(&questions, &|_, _| true).await;
            let first = first.elapsed();
            let sightings: usize = found.iter().map(Vec::len).sum();
            let (start, mut rounds) = (Instant::now(), 0);
            while rounds < 50 && start.elapsed().as_secs() < 3 {
                check.sweep(&questions, &|_, _| true).await;
                rounds += 1;
            }
            let each = start.elapsed() / rounds / CHANGES as u32;
            let single = Instant::now();
            for one in questions.chunks(1).take(50) {
                check.sweep(one, &|_, _| true).await;
            }
            println!(
                "{table:7} {viewers:6} viewers: first {first:9.1?}, then {each:9.1?} a change ({:.0}/s), \
                 alone {:9.1?}, {} sightings; {:?}",
                1.0 / each.as_secs_f64(),
                single.elapsed() / 50,
                sightings,
                check.counters().read().errors,
            );
        }
    }
    Ok(())
}

/// Every hundredth viewer has the tenant of the rows.
fn viewer(number: u32) -> Viewer {
    let sub = format!("00000000-0000-0000-0000-{number:012}");
    let tenant = number % 100;
    Viewer {
        role: "authenticated".into(),
        claims: format!(r#"{{"sub": "{sub}", "tenant": "tenant {tenant}"}}"#).into(),
    }
}

fn question(change: &Change) -> Question {
    Question {
        row: change.new().expect("an insert").clone(),
        version: Version::New,
        xid: Some(change.xid),
        viewers: Vec::new(),
        among: None,
    }
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
