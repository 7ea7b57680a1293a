//! What the claims of a role's viewers come to, kept in a temporary relation of the session, so that
//! a statement need not bring it along.
//!
//! A row is never changed: a group's number stands for its values for ever. So a row that is there
//! too long finds nobody, and only what is missing has to be added. Policies' own functions never
//! run in the session that has the relation, see [`crate::set`].

use std::collections::HashSet;
use std::fmt::Write;

use tokio_postgres::Statement;
use tokio_postgres::types::ToSql;

use super::{SetJob, text};
use crate::lane::{Failure, Lane, failure};
use crate::literal::identifier;

/// The relation of one projection.
#[derive(Debug)]
pub(crate) struct Held {
    statement: Statement,
    /// What it was filled from, see [`crate::index::Index::version`].
    version: u64,
    groups: HashSet<u32>,
    /// Groups that it had when Postgres counted them.
    analyzed: usize,
}

/// Relations of one session. More, and all are made anew.
const HELD_MAX: usize = 64;
/// Groups that are added in one statement.
const CHUNK: usize = 5000;

/// The statement over the relation, which has what it needs. `None`: there can be no relation (no
/// TEMP privilege on the database, a standby): the statement with parameters is to be taken.
pub(super) async fn statement(
    lane: &mut Lane,
    job: &SetJob<'_>,
) -> Result<Option<Statement>, Failure> {
    let held = match lane.held.remove(&job.id) {
        Some(None) => {
            lane.held.insert(job.id, None);
            return Ok(None);
        }
        Some(Some(held)) if held.version == job.version => Ok(held),
        Some(Some(held)) => fill(lane, job, held).await,
        None => match make(lane, job).await {
            Ok(held) => fill(lane, job, held).await,
            Err(failure) => Err(failure),
        },
    };
    match held {
        Ok(held) => {
            let statement = held.statement.clone();
            lane.held.insert(job.id, Some(held));
            Ok(Some(statement))
        }
        Err(Failure::Disconnected) => Err(Failure::Disconnected),
        Err(_) => {
            let _ = lane.client.batch_execute("ROLLBACK").await;
            lane.held.insert(job.id, None);
            Ok(None)
        }
    }
}

pub(super) fn name(id: u64) -> String {
    format!("pg_temp.walcast_viewers_{id}")
}

async fn make(lane: &mut Lane, job: &SetJob<'_>) -> Result<Held, Failure> {
    if lane.held.len() >= HELD_MAX {
        let names = lane.held.iter().filter(|(_, held)| held.is_some());
        let names: Vec<String> = names.map(|(id, _)| name(*id)).collect();
        lane.held.clear();
        if !names.is_empty() {
            run(lane, &format!("DROP TABLE {}", names.join(", "))).await?;
        }
    }
    let table = name(job.id);
    let mut sql = format!("BEGIN; DROP TABLE IF EXISTS {table}; ");
    let _ = write!(
        sql,
        "CREATE TEMPORARY TABLE {table} (walcast_m pg_catalog.int8"
    );
    for (slot, kind) in &job.set.columns {
        let _ = write!(sql, ", walcast_c{slot} {kind}");
    }
    sql += "); ";
    for (slot, kind) in &job.set.columns {
        if !kind.ends_with(']') {
            // Of any length, unlike those of a tree.
            let _ = write!(
                sql,
                "CREATE INDEX ON {table} USING hash (walcast_c{slot}); "
            );
        }
    }
    let role = identifier(&job.viewer.role);
    let _ = write!(sql, "GRANT SELECT ON {table} TO {role}; COMMIT");
    run(lane, &sql).await?;
    let path = lane.search_path.clone();
    Ok(Held {
        statement: lane.prepare_as(None, &path, &job.set.over_relation).await?,
        version: 0,
        groups: HashSet::new(),
        analyzed: 0,
    })
}

/// Adds the groups that are missing; begins anew where most of what is there is needed no more.
async fn fill(lane: &Lane, job: &SetJob<'_>, mut held: Held) -> Result<Held, Failure> {
    let table = name(job.id);
    if held.groups.len() > 2 * job.groups.len() + CHUNK {
        run(lane, &format!("TRUNCATE {table}")).await?;
        held.groups.clear();
    }
    let new = job
        .groups
        .iter()
        .filter(|group| !held.groups.contains(&group.id));
    let new: Vec<_> = new.collect();
    let (mut names, mut values) = (String::from("walcast_m"), String::from("walcast_m"));
    let mut arrays = String::from("pg_catalog.unnest($1::pg_catalog.int8[])");
    for (nth, (slot, kind)) in job.set.columns.iter().enumerate() {
        let _ = write!(names, ", walcast_t{slot}");
        let _ = write!(values, ", walcast_t{slot}::{kind}");
        let _ = write!(
            arrays,
            ", pg_catalog.unnest(${}::pg_catalog.text[])",
            nth + 2
        );
    }
    let sql = format!(
        "INSERT INTO {table} SELECT {values} FROM ROWS FROM ({arrays}) AS walcast_new({names})"
    );
    for chunk in new.chunks(CHUNK) {
        let numbers: Vec<i64> = chunk.iter().map(|group| i64::from(group.id)).collect();
        let slots = job.set.columns.iter();
        let columns: Vec<Vec<Option<String>>> = slots
            .map(|(slot, _)| {
                chunk
                    .iter()
                    .map(|group| text(group.values.get(*slot)))
                    .collect()
            })
            .collect();
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&numbers];
        parameters.extend(columns.iter().map(|column| column as &(dyn ToSql + Sync)));
        let added = lane.client.execute(&sql, &parameters).await;
        added.map_err(|error| failure(&error))?;
        held.groups.extend(chunk.iter().map(|group| group.id));
    }
    if held.analyzed == 0 || held.groups.len().abs_diff(held.analyzed) > held.analyzed / 5 {
        run(lane, &format!("ANALYZE {table}")).await?;
        held.analyzed = held.groups.len();
    }
    held.version = job.version;
    Ok(held)
}

async fn run(lane: &Lane, sql: &str) -> Result<(), Failure> {
    let done = lane.client.batch_execute(sql).await;
    done.map_err(|error| failure(&error))
}
