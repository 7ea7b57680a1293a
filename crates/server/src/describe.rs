//! What the stream does not say of a table and the catalogue does: its primary key, the types
//! that are not built in, and which events its owner wants told.
//!
//! Asked once for every Relation message, in the order of the stream. The catalogue may be ahead
//! of the stream: then a type or key that is gone already counts as unknown, which costs comfort
//! (a type's text as a string, the whole row as key), never a change. Where it can't be read, because
//! Postgres is shutting down or has no connection to spare, what was known of the table before holds,
//! and it is asked again in front of later transactions.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_postgres::{Client, Row};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use walcast_change::{Change, Decoder, Operation, Shape, TYPES_QUERY, TypeInfo, Types};
use walcast_hub::Events;
use walcast_pgoutput::{Column, Relation, RelationId, ReplicaIdentity};
use walcast_source::{SourceError, connect_sql};

/// What the stream says of a table in a Relation message: its OID, replica identity and the
/// columns that it streams. Stored generated columns are not among them.
const TABLE: &str = "
    select c.oid, c.relreplident::text, a.attname::text, a.atttypid, a.atttypmod
    from pg_catalog.pg_class c
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    join pg_catalog.pg_attribute a on a.attrelid = c.oid
    where n.nspname = $1 and c.relname = $2 and c.relkind in ('r', 'p')
      and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
    order by a.attnum";

const PRIMARY_KEY: &str = "
    select a.attname::text
    from pg_catalog.pg_index i
    cross join lateral pg_catalog.unnest(i.indkey::int2[]) with ordinality as k(attnum, position)
    join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
    where i.indrelid = $1::pg_catalog.oid and i.indisprimary
    order by k.position";

/// Which events of which table: `enable_realtime`'s second argument.
const EVENTS: &str = "
    select relation::pg_catalog.oid, events from realtime.walcast_tables";

/// The events that the owners of tables want told; a table that is not here wants all.
/// Bounded by the number of published tables. `None` until it was read once.
pub(crate) type TableEvents = Option<Arc<HashMap<RelationId, Events>>>;

/// How long the catalogue may take to answer. All changes wait for it meanwhile, and a connection
/// that a firewall has forgotten would keep them waiting for a quarter of an hour.
const PATIENCE: Duration = Duration::from_secs(5);

/// The shortest pause before it is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// How old [`TableEvents`] may be.
const EVENTS_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Describe {
    url: String,
    client: Option<Client>,
    events: watch::Receiver<TableEvents>,
    /// The primary keys that were read last. Bounded by the number of published tables.
    keys: HashMap<RelationId, Vec<String>>,
    /// Those that the catalogue was not asked about, as the stream described them.
    owed: HashMap<RelationId, Relation>,
    /// Not before this they are asked about again.
    again_at: Instant,
}

impl Describe {
    pub(crate) fn new(url: String, events: watch::Receiver<TableEvents>) -> Describe {
        Describe {
            url,
            client: None,
            events,
            keys: HashMap::new(),
            owed: HashMap::new(),
            again_at: Instant::now(),
        }
    }

    /// Waits until it is known what the owners of tables want told, if that can be found out.
    pub(crate) async fn settled(&mut self) {
        let known = self.events.wait_for(Option::is_some);
        if !matches!(timeout(PATIENCE, known).await, Ok(Ok(_))) {
            warn!("the tables' event settings are not known yet; all events are told");
        }
    }

    /// Takes a Relation message into `decoder`, with what the catalogue adds.
    pub(crate) async fn relation(&mut self, relation: &Relation, decoder: &mut Decoder) {
        if let Err(error) = self.ask(relation, decoder).await {
            let known = self.keys.get(&relation.id);
            let known = known.filter(|key| has_all(relation, key));
            warn!(relation = relation.id.0, key_known = known.is_some(), %error, "catalogue not readable; the table's key and own types count as they did before, if they were known, and are asked for again");
            decoder.describe(relation, known.map(Vec::as_slice));
            self.owed.insert(relation.id, relation.clone());
        }
    }

    /// Asks again about the tables that could not be asked about, between two transactions.
    pub(crate) async fn again(&mut self, decoder: &mut Decoder) {
        if self.owed.is_empty() || Instant::now() < self.again_at {
            return;
        }
        let owed: Vec<Relation> = self.owed.values().cloned().collect();
        for relation in &owed {
            if self.ask(relation, decoder).await.is_err() {
                return;
            }
            info!(relation = relation.id.0, "catalogue readable again");
        }
    }

    async fn ask(
        &mut self,
        relation: &Relation,
        decoder: &mut Decoder,
    ) -> Result<(), DescribeError> {
        let begun = Instant::now();
        // A connection that broke unnoticed fails once; the second try has a new one.
        let mut tried = self.look_up_in_time(relation, decoder.types_mut()).await;
        if tried.is_err() {
            self.client = None;
            tried = self.look_up_in_time(relation, decoder.types_mut()).await;
        }
        let key = tried.inspect_err(|_| {
            // All changes waited: a small part of the time, however long it takes to fail.
            self.again_at = Instant::now() + AGAIN.max(begun.elapsed() * 10);
        })?;
        decoder.describe(relation, Some(&key));
        self.owed.remove(&relation.id);
        self.keys.insert(relation.id, key);
        Ok(())
    }

    async fn look_up_in_time(
        &mut self,
        relation: &Relation,
        types: &mut Types,
    ) -> Result<Vec<String>, DescribeError> {
        let looked_up = timeout(PATIENCE, self.look_up(relation, types));
        looked_up.await.unwrap_or(Err(DescribeError::Timeout))
    }

    /// The table as the stream would describe it now; `None` if that can't be found out.
    pub(crate) async fn table(&mut self, schema: &str, table: &str) -> Option<Arc<Shape>> {
        for last in [false, true] {
            let looked_up = timeout(PATIENCE, self.look_up_table(schema, table));
            match looked_up.await.unwrap_or(Err(DescribeError::Timeout)) {
                Ok(shape) => return shape,
                Err(error) if last => warn!(%error, "catalogue not readable"),
                Err(_) => self.client = None,
            }
        }
        None
    }

    async fn look_up_table(
        &mut self,
        schema: &str,
        table: &str,
    ) -> Result<Option<Arc<Shape>>, DescribeError> {
        let client = self.client().await?;
        let rows = client.query(TABLE, &[&schema, &table]).await?;
        let Some(first) = rows.first() else {
            return Ok(None);
        };
        let column = |row: &Row| -> Result<Column, DescribeError> {
            let name: String = row.try_get(2)?;
            Ok(Column {
                key: false,
                name: name.into(),
                type_oid: row.try_get(3)?,
                type_modifier: row.try_get(4)?,
            })
        };
        let relation = Relation {
            id: RelationId(first.try_get(0)?),
            schema: schema.to_owned().into(),
            name: table.to_owned().into(),
            identity: match first.try_get::<_, &str>(1)? {
                "f" => ReplicaIdentity::Full,
                _ => ReplicaIdentity::Default,
            },
            columns: rows.iter().map(column).collect::<Result<_, _>>()?,
        };
        let mut types = Types::default();
        let primary_key = self.look_up(&relation, &mut types).await?;
        let shape = Shape::new(&relation, Some(&primary_key), &types);
        Ok(Some(Arc::new(shape)))
    }

    /// Whether the owner of the table wants this kind of event told.
    pub(crate) fn publishes(&self, change: &Change) -> bool {
        let tables = self.events.borrow();
        let Some(events) = tables
            .as_ref()
            .and_then(|tables| tables.get(&change.shape.id))
        else {
            return true;
        };
        events.contains(match change.operation {
            Operation::Insert { .. } => Events::INSERT,
            Operation::Update { .. } => Events::UPDATE,
            Operation::Delete { .. } => Events::DELETE,
            Operation::Truncate => Events::TRUNCATE,
        })
    }

    async fn look_up(
        &mut self,
        relation: &Relation,
        types: &mut Types,
    ) -> Result<Vec<String>, DescribeError> {
        // A type may have been altered since it was looked up: a table is described anew rarely.
        let mut fresh = types.clone();
        fresh.forget(relation);
        let missing = fresh.missing(relation);
        let client = self.client().await?;
        let key = client.query(PRIMARY_KEY, &[&relation.id.0]).await?;
        if !missing.is_empty() {
            for row in client.query(TYPES_QUERY, &[&missing]).await? {
                fresh.insert(type_info(&row)?);
            }
            for oid in fresh.missing(relation) {
                fresh.insert(TypeInfo::unknown(oid));
            }
            *types = fresh;
        }
        key.iter().map(|row| Ok(row.try_get(0)?)).collect()
    }

    async fn client(&mut self) -> Result<&Client, DescribeError> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Some(connect_sql(&self.url, "walcast catalogue").await?);
        }
        Ok(self.client.as_ref().expect("it was connected just now"))
    }
}

fn has_all(relation: &Relation, key: &[String]) -> bool {
    let has = |name: &String| {
        relation
            .columns
            .iter()
            .any(|column| *column.name == *name.as_bytes())
    };
    key.iter().all(has)
}

/// Keeps the tables' event settings fresh until `stop`.
pub(crate) async fn watch_events(
    url: String,
    events: watch::Sender<TableEvents>,
    stop: CancellationToken,
) {
    let mut client = None;
    let mut failing = false;
    loop {
        let read = timeout(PATIENCE, read_events(&url, &mut client));
        match read.await.unwrap_or(Err(DescribeError::Timeout)) {
            Ok(tables) => {
                failing = false;
                events.send_if_modified(|known| {
                    let differs = known.as_deref() != Some(&tables);
                    *known = Some(Arc::new(tables));
                    differs
                });
            }
            Err(error) => {
                client = None;
                // Once for each time that it begins to fail.
                if !std::mem::replace(&mut failing, true) {
                    warn!(%error, "the tables' event settings are not readable; the last ones stay in force");
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVENTS_INTERVAL) => {}
        }
    }
}

async fn read_events(
    url: &str,
    client: &mut Option<Client>,
) -> Result<HashMap<RelationId, Events>, DescribeError> {
    let client = match client {
        Some(client) if !client.is_closed() => client,
        other => other.insert(connect_sql(url, "walcast catalogue").await?),
    };
    let mut tables = HashMap::new();
    for row in client.query(EVENTS, &[]).await? {
        let names: Vec<String> = row.try_get(1)?;
        let events = names.iter().filter_map(|name| Events::parse(name));
        tables.insert(
            RelationId(row.try_get(0)?),
            events.fold(Events::NONE, Events::union),
        );
    }
    Ok(tables)
}

/// A row of [`TYPES_QUERY`].
fn type_info(row: &Row) -> Result<TypeInfo, DescribeError> {
    Ok(TypeInfo::from_row(
        row.try_get(0)?,
        row.try_get(1)?,
        row.try_get(2)?,
        row.try_get(3)?,
        row.try_get(4)?,
        row.try_get(5)?,
        row.try_get(6)?,
    ))
}

#[derive(Debug, thiserror::Error)]
enum DescribeError {
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Timeout,
    #[error(transparent)]
    Connect(#[from] SourceError),
    #[error("{}", .0.code().map_or("connection lost", |code| code.code()))]
    Query(#[from] tokio_postgres::Error),
}
