//! The checking stage alone, asked the way the server asks: viewers watch, and each batch of changes
//! is swept for those who see them. Policies × viewers, beside the probe that asks Postgres once for
//! each subscriber and change, on the same Postgres and in the same run.

mod measure;
mod policies;
mod probe;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio_postgres::{Client, NoTls};
use walcast_change::{Change, Decoder, Step, Types};
use walcast_rls::{CheckConfig, Connector, PostgresCheck, Viewer, explain};

use self::measure::Cost;
use self::policies::{POLICIES, Policy, ROWS};
use crate::Options;
use crate::process;
use crate::report::{Goal, Report, progress};
use crate::stage::Stage;

const SIZES: [usize; 4] = [10_000, 1000, 100, 1];

/// Figures of one policy, by number of viewers.
type Costs = Vec<(usize, Cost, f64)>;

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    progress("row-level security: policies x viewers");
    let (database, sql) = stage.database().await?;
    policies::set_up(&sql).await?;
    probe::set_up(&sql).await?;
    let sizes = SIZES.get(usize::from(options.quick)..).unwrap_or_default();
    // Not dropped, so that the memory of the one is not taken for the next one's.
    let mut largest = Vec::new();
    for policy in &POLICIES {
        let config = || CheckConfig::new(connector(stage, &database));
        let found = explain(&config(), "public", policy.table, Some("authenticated")).await?;
        let way = found.first().context("a way to judge")?.tier;
        ensure!(way == policy.way, "{} is judged by {way}", policy.name);
        let changes = changes(&sql, policy.table).await?;
        let mut costs = Costs::new();
        // The most first: its memory is measured while little has been freed that it could reuse.
        for &count in sizes {
            let viewers: Vec<Viewer> = (0..count).map(policies::viewer).collect();
            let before = process::resident_bytes(std::process::id())?;
            let mut check = PostgresCheck::connect(config()).await?;
            measure::watch(&mut check, policy.table, &viewers, &changes).await?;
            let bytes = process::resident_bytes(std::process::id())? - before;
            let ours = measure::sweeps(&mut check, &changes, count).await?;
            let seen = probe::visible(&sql, policy.table, &viewers).await?;
            ensure!(
                ours.visible == seen,
                "{}, {count} viewers: {} see the first row, and {seen} by the probe",
                policy.name,
                ours.visible,
            );
            let probe_s = probe::verdict_seconds(&sql, policy.table, &viewers).await?;
            enter(policy, count, &ours, probe_s, report);
            if largest.len() < POLICIES.len() && costs.is_empty() {
                enter_crowd(policy, count, &ours, bytes, report);
                largest.push(check);
            }
            costs.push((count, ours, probe_s));
        }
        enter_growth(policy, &costs, report);
    }
    Ok(())
}

fn enter(policy: &Policy, count: usize, ours: &Cost, probe_s: f64, report: &mut Report) {
    let case = format!("{}, {count} viewers", policy.name);
    let goal = |bound: Option<f64>| bound.filter(|_| count == 10_000).map(Goal::AtLeast);
    let probe_change_s = probe_s * count as f64;
    let mut add = |figure: &str, value: f64, unit, goal| {
        report.add("rls", case.as_str(), figure, value, unit, goal);
    };
    let verdicts = count as f64 / ours.change_s;
    add("verdicts/s", verdicts, "1/s", None);
    let changes = 1.0 / ours.change_s;
    add("changes/s", changes, "1/s", goal(policy.changes_min));
    add("changes/s, probe", 1.0 / probe_change_s, "1/s", None);
    let ratio = probe_change_s / ours.change_s;
    add("times the probe", ratio, "x", goal(policy.ratio_min));
}

/// What only the most viewers tell.
fn enter_crowd(policy: &Policy, count: usize, ours: &Cost, bytes: f64, report: &mut Report) {
    let case = format!("{}, {count} viewers", policy.name);
    let mut add = |figure: &str, value: f64, unit| {
        report.add("rls", case.as_str(), figure, value, unit, None);
    };
    add("a change alone", ours.alone_s * 1000.0, "ms");
    add("resident memory", bytes / 1024.0 / count as f64, "KiB each");
}

fn enter_growth(policy: &Policy, costs: &Costs, report: &mut Report) {
    let at = |count: usize| costs.iter().find(|(found, ..)| *found == count);
    if let (Some((_, few, _)), Some((_, many, _))) = (at(100), at(10_000)) {
        report.add(
            "rls",
            policy.name,
            "cost of a change, 10,000 to 100",
            many.change_s / few.change_s,
            "x",
            policy.growth_max.map(Goal::AtMost),
        );
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
