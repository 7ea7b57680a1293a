//! What a table's policies make of the viewers' claims: computed by Postgres, once for each viewer.
//!
//! Viewers of a role for whom all slots come to the same are one group: every verdict holds for all.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Kind;

use crate::Viewer;
use crate::claims::Outline;
use crate::formula::{self, ColumnType, Formula, Value};
use crate::lane::{Failure, Lane, Started, failure};
use crate::set::{self, SetSql};

/// The slots of one (table, role), as of one digest of the catalogue.
#[derive(Debug)]
pub(crate) struct Projection {
    pub(crate) id: u64,
    pub(crate) digest: String,
    pub(crate) outline: Outline,
    schema: String,
    table: String,
    columns: Vec<ColumnType>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    prepared: Option<Result<Arc<Prepared>, &'static str>>,
    groups: HashMap<Box<[Value]>, Arc<Group>>,
    /// By claims. `None`: they can't be computed for these.
    known: HashMap<Arc<str>, Option<Arc<Group>>>,
    next: u32,
}

/// What the types of the slots tell.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) types: Vec<u32>,
    /// `Err`: why Postgres has to be asked.
    pub(crate) formula: Result<Formula, String>,
    /// The statements that judge many viewers.
    pub(crate) set: Option<SetSql>,
}

/// Viewers that are as one.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) id: u32,
    pub(crate) values: Box<[Value]>,
    /// The values can stand in a formula.
    pub(crate) fits: bool,
}

/// Viewers remembered for one table and role. More, and all are computed anew.
const KNOWN_MAX: usize = 200_000;
/// Viewers computed in one transaction.
const CHUNK: usize = 64;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Projection {
    pub(crate) fn new(
        digest: String,
        outline: Outline,
        (schema, table): (String, String),
        columns: Vec<ColumnType>,
    ) -> Projection {
        Projection {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            digest,
            outline,
            schema,
            table,
            columns,
            state: Mutex::default(),
        }
    }

    /// The viewer's group, if it is known already. `Some(None)`: it has none.
    pub(crate) fn group(&self, claims: &str) -> Option<Option<Arc<Group>>> {
        self.state.lock().known.get(self.key(claims)).cloned()
    }

    pub(crate) fn prepared(&self) -> Option<Arc<Prepared>> {
        let state = self.state.lock();
        state.prepared.as_ref()?.as_ref().ok().cloned()
    }

    /// Why it can't be used, if that has turned out.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        let state = self.state.lock();
        state.prepared.as_ref()?.as_ref().err().copied()
    }

    /// Policies without any claims have one group, but whose claims are no JSON is in none: it
    /// sees nothing, as everywhere.
    fn key<'c>(&self, claims: &'c str) -> &'c str {
        match self.varies() || !is_json(claims) {
            true => claims,
            false => "",
        }
    }

    pub(crate) fn varies(&self) -> bool {
        self.outline.slots.iter().any(|slot| slot.varies)
    }

    fn sql(&self, text: bool) -> String {
        let slots = self.outline.slots.iter().map(|slot| match text {
            true => format!("({})::pg_catalog.text", slot.sql),
            false => format!("({})", slot.sql),
        });
        format!("SELECT {}", slots.collect::<Vec<_>>().join(", "))
    }

    fn prepare(&self, types: Result<Vec<u32>, &'static str>) {
        let prepared = types.map(|types| {
            let formula = formula::compile(&self.outline, &types, &self.table, &self.columns);
            let set = set::sql(self.id, &self.outline, &types, (&self.schema, &self.table));
            Arc::new(Prepared {
                types,
                formula,
                set,
            })
        });
        self.state.lock().prepared = Some(prepared);
    }

    fn enter(&self, claims: &Arc<str>, values: Option<Box<[Value]>>, types: &[u32]) {
        let state = &mut *self.state.lock();
        if state.known.len() >= KNOWN_MAX {
            state.known.clear();
            state.groups.clear();
        }
        let group = values.map(|values| match state.groups.get(&values) {
            Some(group) => group.clone(),
            None => {
                let fits = values.iter().zip(types).all(|(value, oid)| {
                    !formula::is_list(*oid) || !matches!(value, Value::Text(_))
                });
                let group = Arc::new(Group {
                    id: state.next,
                    values: values.clone(),
                    fits,
                });
                state.next = state.next.wrapping_add(1);
                state.groups.insert(values, group.clone());
                group
            }
        });
        let own = self.varies() || !is_json(claims);
        let key = if own { claims.clone() } else { "".into() };
        if own || group.is_some() {
            state.known.insert(key, group);
        }
    }
}

fn is_json(claims: &str) -> bool {
    claims.is_empty() || serde_json::from_str::<serde::de::IgnoredAny>(claims).is_ok()
}

/// Computes what is not known yet of these viewers, all of the projection's role.
/// How many were computed. `Err`: the session has ended.
pub(crate) async fn complete(
    lane: &mut Lane,
    projection: &Projection,
    viewers: &[&Viewer],
) -> Result<u64, Failure> {
    let mut wanted: HashMap<&str, &Viewer> = HashMap::new();
    for viewer in viewers {
        if projection.group(&viewer.claims).is_none() {
            wanted.insert(projection.key(&viewer.claims), viewer);
        }
    }
    let wanted: Vec<&Viewer> = wanted.into_values().collect();
    let Some(first) = wanted.first() else {
        return Ok(0);
    };
    let Some(statement) = statement(lane, projection, first).await? else {
        return Ok(0);
    };
    let Some(prepared) = projection.prepared() else {
        return Ok(0);
    };
    for chunk in wanted.chunks(CHUNK) {
        let found = transaction(lane, &statement, chunk).await;
        lane.beat.touch();
        let found = match found {
            Ok(found) => found,
            Err(Failure::Disconnected) => return Err(Failure::Disconnected),
            Err(_) => {
                one_by_one(lane, projection, &statement, &prepared, chunk).await?;
                continue;
            }
        };
        for (viewer, texts) in chunk.iter().zip(found) {
            let values = values(texts, &prepared.types);
            projection.enter(&viewer.claims, Some(values), &prepared.types);
        }
    }
    Ok(wanted.len() as u64)
}

async fn one_by_one(
    lane: &Lane,
    projection: &Projection,
    statement: &Statement,
    prepared: &Prepared,
    viewers: &[&Viewer],
) -> Result<(), Failure> {
    for viewer in viewers {
        let found = transaction(lane, statement, &[*viewer]).await;
        lane.beat.touch();
        match found {
            Ok(found) => {
                for texts in found {
                    let values = values(texts, &prepared.types);
                    projection.enter(&viewer.claims, Some(values), &prepared.types);
                }
            }
            Err(Failure::Disconnected) => return Err(Failure::Disconnected),
            // Another time it may go well.
            Err(Failure::Sql(code)) if code == SqlState::QUERY_CANCELED => {}
            Err(_) => projection.enter(&viewer.claims, None, &prepared.types),
        }
    }
    Ok(())
}

/// The statement that computes the slots; `None` if there can be none.
async fn statement(
    lane: &mut Lane,
    projection: &Projection,
    viewer: &Viewer,
) -> Result<Option<Statement>, Failure> {
    if projection.refusal().is_some() {
        return Ok(None);
    }
    if let Some(statement) = lane.projections.get(&projection.id) {
        return Ok(Some(statement.clone()));
    }
    let typed = match prepare(lane, viewer, &projection.sql(false)).await? {
        Ok(statement) => statement,
        Err(refusal) => {
            projection.prepare(Err(refusal));
            return Ok(None);
        }
    };
    let types: Vec<_> = typed
        .columns()
        .iter()
        .map(|column| column.type_())
        .collect();
    if !types.iter().all(|found| is_exact(found)) {
        projection.prepare(Err("what it makes of the claims has a type of its own"));
        return Ok(None);
    }
    let types: Vec<u32> = types.into_iter().map(|found| found.oid()).collect();
    match prepare(lane, viewer, &projection.sql(true)).await? {
        Ok(statement) => {
            if projection.prepared().is_none() {
                projection.prepare(Ok(types));
            }
            lane.keep_projection(projection.id, statement.clone());
            Ok(Some(statement))
        }
        Err(refusal) => {
            projection.prepare(Err(refusal));
            Ok(None)
        }
    }
}

/// Names are looked up as the login where it may, else as the role.
async fn prepare(
    lane: &Lane,
    viewer: &Viewer,
    sql: &str,
) -> Result<Result<Statement, &'static str>, Failure> {
    let path = lane.search_path.as_str();
    let mut prepared = lane.prepare_as(None, path, sql).await;
    if matches!(&prepared, Err(Failure::Sql(code)) if *code == SqlState::INSUFFICIENT_PRIVILEGE) {
        prepared = lane.prepare_as(Some(viewer), path, sql).await;
    }
    match prepared {
        Ok(statement) => Ok(Ok(statement)),
        Err(Failure::Disconnected) => Err(Failure::Disconnected),
        Err(_) => Ok(Err(
            "what it makes of the claims can't be computed by itself",
        )),
    }
}

/// Types whose values are the same exactly if their texts are, or tell more apart than they need.
fn is_exact(found: &tokio_postgres::types::Type) -> bool {
    let exact = |oid: u32| {
        matches!(
            oid,
            16 | 19 | 20 | 21 | 23 | 25 | 114 | 1043 | 1700 | 2950 | 3802
        )
    };
    match found.kind() {
        Kind::Simple => exact(found.oid()),
        Kind::Array(element) => *element.kind() == Kind::Simple && exact(element.oid()),
        _ => false,
    }
}

fn values(texts: Vec<Option<String>>, types: &[u32]) -> Box<[Value]> {
    let value = |(text, oid): (Option<String>, &u32)| match (text, *oid) {
        (None, _) => Value::Null,
        (Some(text), 16) => Value::Text(if text == "true" { "t" } else { "f" }.into()),
        (Some(text), oid) if formula::is_list(oid) => match formula::elements(&text) {
            Some(list) => Value::Array(list),
            None => Value::Text(text.into()),
        },
        (Some(text), _) => Value::Text(text.into()),
    };
    texts.into_iter().zip(types).map(value).collect()
}

/// One transaction, rolled back: each viewer's settings, and what the slots come to then.
async fn transaction(
    lane: &Lane,
    statement: &Statement,
    viewers: &[&Viewer],
) -> Result<Vec<Vec<Option<String>>>, Failure> {
    let client = &lane.client;
    let failed = |error: tokio_postgres::Error| failure(&error);
    let begun =
        Started::new(client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")).await;
    let mut started = Vec::with_capacity(viewers.len());
    for viewer in viewers {
        let set = Started::new(lane.enter(viewer, "auto")).await;
        let found = Started::new(client.query_one(statement, &[])).await;
        let kept = Started::new(lane.stayed(viewer)).await;
        started.push((set, found, kept));
    }
    let ended = Started::new(client.batch_execute("ROLLBACK")).await;
    let mut outcome = begun
        .finish()
        .await
        .ok_or(Failure::Disconnected)?
        .map_err(failed);
    let mut all = Vec::with_capacity(viewers.len());
    for (set, found, kept) in started {
        let set = set.finish().await.ok_or(Failure::Disconnected)?;
        let found = found.finish().await.ok_or(Failure::Disconnected)?;
        let kept = kept.finish().await.ok_or(Failure::Disconnected)?;
        if outcome.is_err() {
            continue;
        }
        outcome = match set.and(found).and_then(|row| Ok((row, kept?))) {
            Ok((row, true)) => {
                let texts: Result<Vec<Option<String>>, _> =
                    (0..row.len()).map(|at| row.try_get(at)).collect();
                texts.map(|texts| all.push(texts)).map_err(failed)
            }
            Ok((_, false)) => Err(Failure::Escaped),
            Err(error) => Err(failure(&error)),
        };
    }
    ended
        .finish()
        .await
        .ok_or(Failure::Disconnected)?
        .map_err(failed)?;
    outcome.map(|()| all)
}
