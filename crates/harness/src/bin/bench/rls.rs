//! The checking stage alone: policies × viewers, called directly, beside the probe that asks Postgres
//! once for each subscriber and change (a PL/pgSQL loop: role and claims, then `EXISTS` by the key).
//!
//! [`ROWS`] changes are judged at once. Where all viewers would take longer than a cell may, [`SLICE`]
//! of them are measured and the others taken to cost the same each; so it always is for the probe.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio_postgres::{Client, NoTls};
use walcast_change::{Change, Decoder, Step, Types};
use walcast_rls::{
    Batch, CheckConfig, Connector, PostgresCheck, Question, RowCheck, Version, Viewer,
};

use crate::Options;
use crate::process;
use crate::report::{Goal, Report, progress};
use crate::stage::{Stage, user};

struct Policy {
    name: &'static str,
    table: &'static str,
    sql: &'static str,
    /// Of the ratio to the probe, at the most viewers.
    ratio_min: Option<f64>,
    /// Changes per second, at the most viewers.
    changes_min: Option<f64>,
    /// How much the cost of a change may grow from 100 viewers to the most.
    growth_max: Option<f64>,
}

const POLICIES: [Policy; 5] = [
    Policy {
        name: "own row",
        table: "own",
        sql: "owner = auth.uid()",
        ratio_min: Some(1000.0),
        changes_min: Some(20_000.0),
        growth_max: Some(2.0),
    },
    Policy {
        name: "team membership",
        table: "team",
        sql: "EXISTS (SELECT 1 FROM members m WHERE m.team = team.team_id AND m.who = auth.uid())",
        ratio_min: Some(200.0),
        changes_min: None,
        growth_max: Some(20.0),
    },
    Policy {
        name: "tenant claim",
        table: "tenant",
        sql: "tenant_name = (auth.jwt() ->> 'tenant')",
        ratio_min: None,
        changes_min: None,
        growth_max: None,
    },
    Policy {
        name: "public",
        table: "open",
        sql: "true",
        ratio_min: None,
        changes_min: None,
        growth_max: None,
    },
    Policy {
        name: "PL/pgSQL, volatile",
        table: "opaque",
        sql: "decides(tenant_name, auth.jwt() ->> 'tenant')",
        ratio_min: Some(4.0),
        changes_min: None,
        growth_max: None,
    },
];

/// Rows of each table: as many as are judged at once.
const ROWS: usize = 100;
const TEAMS: usize = 1000;
const TENANTS: usize = 100;
/// Viewers, where all would take too long.
const SLICE: usize = 100;
const CELL: Duration = Duration::from_secs(1);

/// Walrus, the program that answers for Supabase's subscribers, does it like this.
const PROBE: &str = "
    CREATE FUNCTION probe(target regclass, key bigint, role text, claims text[]) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE one text; found bool; count int := 0;
    BEGIN
      IF EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'probe_one') THEN DEALLOCATE probe_one; END IF;
      EXECUTE format('PREPARE probe_one AS SELECT EXISTS (SELECT 1 FROM %s WHERE id = %s)', target, key);
      FOREACH one IN ARRAY claims LOOP
        PERFORM set_config('role', role, true), set_config('request.jwt.claims', one, true);
        EXECUTE 'EXECUTE probe_one' INTO found;
        count := count + found::int;
      END LOOP;
      PERFORM set_config('role', 'none', true);
      RETURN count;
    END $$;";

/// What one way to judge costs.
struct Cost {
    verdict_s: f64,
    /// Viewers that see the first row, of the first [`SLICE`].
    visible: usize,
    /// Viewers that the cost is measured with.
    judged: usize,
}

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    progress("row-level security: policies x viewers");
    let (database, sql) = stage.database().await?;
    set_up(&sql).await?;
    let sizes: &[usize] = if options.quick {
        &[1, 100, 1000]
    } else {
        &[1, 100, 1000, 10_000]
    };
    let most = sizes.last().copied().unwrap_or_default();
    for policy in &POLICIES {
        let changes = changes(&sql, policy.table).await?;
        let (mut at_100, mut resident) = (f64::NAN, None);
        for &count in sizes {
            let viewers: Vec<Viewer> = (0..count).map(viewer).collect();
            let mut check =
                PostgresCheck::connect(CheckConfig::new(connector(stage, &database))).await?;
            let before = process::resident_bytes(std::process::id())?;
            let ours = ours(&mut check, &changes, &viewers).await?;
            if count == most {
                resident =
                    Some((process::resident_bytes(std::process::id())? - before) / count as f64);
            }
            let probe = probe(&sql, policy.table, &viewers).await?;
            ensure!(
                ours.visible == probe.visible,
                "{}, {count} viewers: {} see the first row, and {} by the probe",
                policy.name,
                ours.visible,
                probe.visible,
            );
            let (case, per_change) = (
                format!("{}, {count} viewers", policy.name),
                ours.verdict_s * count as f64,
            );
            let goal = |bound: Option<f64>| bound.filter(|_| count == 10_000).map(Goal::AtLeast);
            report.add(
                "rls",
                &case,
                match ours.judged < count {
                    true => format!("verdicts/s (measured with {})", ours.judged),
                    false => "verdicts/s".to_owned(),
                },
                1.0 / ours.verdict_s,
                "1/s",
                None,
            );
            report.add(
                "rls",
                &case,
                "changes/s",
                1.0 / per_change,
                "1/s",
                goal(policy.changes_min),
            );
            report.add(
                "rls",
                &case,
                "changes/s, probe",
                1.0 / (probe.verdict_s * count as f64),
                "1/s",
                None,
            );
            report.add(
                "rls",
                &case,
                "times the probe",
                probe.verdict_s / ours.verdict_s,
                "x",
                goal(policy.ratio_min),
            );
            if count == 100 {
                at_100 = per_change;
            } else if count == 10_000 {
                let goal = policy.growth_max.map(Goal::AtMost);
                report.add(
                    "rls",
                    policy.name,
                    "cost of a change, 10,000 to 100",
                    per_change / at_100,
                    "x",
                    goal,
                );
            }
        }
        if let Some(bytes) = resident {
            report.add(
                "rls",
                policy.name,
                format!("memory, {most} viewers judged"),
                bytes / 1024.0,
                "KiB each",
                None,
            );
        }
    }
    Ok(())
}

async fn set_up(sql: &Client) -> Result<()> {
    let mut text = format!(
        "CREATE TABLE members (team int, who uuid, PRIMARY KEY (team, who)); CREATE INDEX ON members (who);
         INSERT INTO members SELECT i % {TEAMS}, ('7f3e4567-e89b-42d3-a456-' || lpad(i::text, 12, '0'))::uuid FROM generate_series(0, 9999) i;
         CREATE FUNCTION decides(a text, b text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN a = b; END $$;
         GRANT SELECT ON members TO authenticated; {PROBE}"
    );
    for Policy { table, sql, .. } in &POLICIES {
        text += &format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, owner uuid, team_id int, tenant_name text, body text);
             INSERT INTO {table} SELECT i, ('7f3e4567-e89b-42d3-a456-' || lpad(i::text, 12, '0'))::uuid, i % {TEAMS}, 'tenant ' || i % {TENANTS}, repeat('x', 100)
               FROM generate_series(0, {ROWS} - 1) i;
             GRANT SELECT ON {table} TO authenticated; ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} REPLICA IDENTITY FULL;
             CREATE POLICY see ON {table} FOR SELECT USING ({sql}); ANALYZE {table};"
        );
    }
    sql.batch_execute(&text).await?;
    sql.batch_execute("ANALYZE members; CREATE PUBLICATION rls FOR ALL TABLES")
        .await?;
    Ok(())
}

fn viewer(number: usize) -> Viewer {
    let (sub, tenant) = (user(number), number % TENANTS);
    Viewer {
        role: "authenticated".into(),
        claims: format!(r#"{{"sub": "{sub}", "role": "authenticated", "tenant": "tenant {tenant}", "iat": {number}}}"#).into(),
    }
}

fn connector(stage: &Stage, database: &str) -> Connector {
    let url = stage.postgres.url("walcast_checks", database);
    Connector::new(move || {
        let url = url.clone();
        async move {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection); // its error reaches the caller through the client
            Ok::<_, tokio_postgres::Error>(client)
        }
    })
}

/// An UPDATE of each of the table's rows, as the stream has it.
async fn changes(sql: &Client, table: &str) -> Result<Vec<Change>> {
    let slot = format!("rls_{table}");
    sql.query(
        "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)",
        &[&slot],
    )
    .await?;
    sql.batch_execute(&format!("UPDATE {table} SET body = body"))
        .await?;
    let rows = sql
        .query(
            "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'rls')",
            &[&slot],
        )
        .await?;
    sql.query("SELECT pg_drop_replication_slot($1)", &[&slot])
        .await?;
    let (mut decoder, mut changes) = (Decoder::new(Types::default()), Vec::new());
    for row in rows {
        let data: Vec<u8> = row.get(0);
        if let Step::Change(change) = decoder.step(walcast_pgoutput::decode(Bytes::from(data))?)? {
            changes.push(change);
        }
    }
    ensure!(
        changes.len() == ROWS,
        "{} changes of {table}",
        changes.len()
    );
    Ok(changes)
}

/// All viewers at once where that takes no longer than a cell may; else a slice of them.
async fn ours(check: &mut PostgresCheck, changes: &[Change], viewers: &[Viewer]) -> Result<Cost> {
    let slice = viewers.get(..SLICE.min(viewers.len())).unwrap_or_default();
    let mut judged = batch(changes, slice)?;
    let visible = visible(check, &judged, 0).await; // sessions, plans
    let started = Instant::now();
    check.check(&judged).await;
    let verdict_s = started.elapsed().as_secs_f64() / (changes.len() * slice.len()) as f64;
    let whole = verdict_s * (changes.len() * viewers.len()) as f64 <= 2.0 * CELL.as_secs_f64();
    if whole && viewers.len() > slice.len() {
        judged = batch(changes, viewers)?;
        check.check(&judged).await; // these viewers' first time
    }
    let (started, mut verdicts) = (Instant::now(), 0);
    while verdicts == 0 || started.elapsed() < CELL {
        check.check(&judged).await;
        verdicts += changes.len() * judged.viewers.len();
    }
    Ok(Cost {
        verdict_s: started.elapsed().as_secs_f64() / verdicts as f64,
        visible,
        judged: judged.viewers.len(),
    })
}

async fn visible(check: &mut PostgresCheck, batch: &Batch, question: usize) -> usize {
    let answers = check.check(batch).await;
    (0..batch.viewers.len())
        .filter(|nth| answers.get(question, *nth).is_some())
        .count()
}

fn batch(changes: &[Change], viewers: &[Viewer]) -> Result<Batch> {
    let questions = changes.iter().map(|change| {
        Ok(Question {
            row: change.new().context("an update")?.clone(),
            version: Version::New,
            xid: None,
            viewers: (0..viewers.len() as u32).collect(),
        })
    });
    Ok(Batch {
        viewers: viewers.to_vec(),
        questions: questions.collect::<Result<_>>()?,
    })
}

async fn probe(sql: &Client, table: &str, viewers: &[Viewer]) -> Result<Cost> {
    let call = sql
        .prepare("SELECT probe($1::text::regclass, $2, 'authenticated', $3)")
        .await?;
    let claims: Vec<&str> = viewers
        .iter()
        .take(SLICE)
        .map(|viewer| &*viewer.claims)
        .collect();
    let visible: i32 = sql
        .query_one(&call, &[&table, &0i64, &claims])
        .await?
        .get(0);
    let (started, mut verdicts, mut key) = (Instant::now(), 0, 0i64);
    while started.elapsed() < CELL {
        sql.query_one(&call, &[&table, &key, &claims]).await?;
        verdicts += claims.len();
        key = (key + 1) % ROWS as i64;
    }
    Ok(Cost {
        verdict_s: started.elapsed().as_secs_f64() / verdicts as f64,
        visible: usize::try_from(visible)?,
        judged: claims.len(),
    })
}
