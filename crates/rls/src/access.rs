//! May this viewer subscribe to this table? Asked once, when it subscribes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use crate::catalogue::RoleFacts;
use crate::role;
use crate::session::{SILENCE, Slot};
use crate::{CheckConfig, ConnectError, Viewer};

/// Cheap to clone; the clones share one session.
#[derive(Clone)]
pub struct Access {
    config: Arc<CheckConfig>,
    publication: Arc<str>,
    slot: Arc<Mutex<Slot>>,
    granted: Arc<parking_lot::Mutex<Granted>>,
}

/// What was granted a moment ago. The answer is the same for all viewers of a role, so thousands
/// who come at once are one question; whatever they subscribe to is judged anew with every change.
/// Denials are not kept: who was granted something need not wait.
#[derive(Default)]
struct Granted {
    types: HashMap<Ask, (Instant, Vec<u32>)>,
}

/// Role, schema, table, filter columns.
type Ask = (Arc<str>, String, String, Vec<String>);

const GRANTED_FOR: Duration = Duration::from_millis(200);
const GRANTED_MAX: usize = 1000;

impl Granted {
    fn get(&self, ask: &Ask) -> Option<Vec<u32>> {
        let (at, types) = self.types.get(ask)?;
        (at.elapsed() < GRANTED_FOR).then(|| types.clone())
    }

    fn keep(&mut self, ask: Ask, asked_at: Instant, types: &[u32]) {
        if self.types.len() >= GRANTED_MAX {
            self.types.retain(|_, (at, _)| at.elapsed() < GRANTED_FOR);
        }
        if self.types.len() < GRANTED_MAX {
            self.types.insert(ask, (asked_at, types.to_vec()));
        }
    }
}

/// Why not. The text is the same for a table that does not exist, is not published, or may not be
/// read, so that nobody can find out by asking; [`AccessError::reason`] is for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    #[error("the table does not exist, is not enabled for realtime, or may not be read")]
    Denied(Denial),
    #[error("access can't be checked at the moment")]
    Unavailable(String),
}

/// The true reason of a denial.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Denial {
    #[error("no such table")]
    Missing,
    #[error("the table is not in the publication")]
    NotPublished,
    #[error("role: {0}")]
    Role(crate::Refusal),
    #[error("the role has no USAGE on the schema")]
    Schema,
    #[error("Postgres refused a privilege")]
    Privilege,
    #[error("the role has no SELECT on any column of the key")]
    Key,
    #[error("the role has no SELECT on a column of the filter, or there is no such column")]
    FilterColumn,
    #[error("nothing in the schema is published and readable")]
    NothingInSchema,
    #[error("realtime.messages carries what is sent to channels; join the channel")]
    Messages,
}

impl AccessError {
    /// For the log, never for the subscriber.
    pub fn reason(&self) -> String {
        match self {
            AccessError::Denied(denial) => denial.to_string(),
            AccessError::Unavailable(reason) => reason.clone(),
        }
    }

    /// Asking again right away is pointless.
    pub fn is_final(&self) -> bool {
        matches!(self, AccessError::Denied(_))
    }
}

/// The columns that name a row: of the primary key, else of the replica identity's index, else all.
const TABLE: &str = "
  SELECT r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolname = session_user,
         coalesce(pg_has_role(session_user, r.oid, 'MEMBER'), false),
         coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), false),
         EXISTS (SELECT FROM pg_publication_tables p
                  WHERE p.pubname = $1 AND p.schemaname = n.nspname AND p.tablename = c.relname),
         EXISTS (SELECT FROM pg_attribute a
                  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                    AND has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')
                    AND (k.numbers IS NULL OR a.attnum = ANY (k.numbers))),
         ARRAY(SELECT CASE WHEN has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT') THEN a.atttypid ELSE 0::oid END
                 FROM unnest($5::text[]) WITH ORDINALITY AS f(name, at)
                 LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = f.name AND a.attnum > 0 AND NOT a.attisdropped
                ORDER BY f.at)
    FROM pg_roles r
    CROSS JOIN pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
    LEFT JOIN LATERAL (SELECT i.indkey::int2[] AS numbers FROM pg_index i
                        WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident)
                        ORDER BY i.indisprimary DESC LIMIT 1) k ON true
   WHERE r.rolname = $2 AND n.nspname = $3 AND c.relname = $4 AND c.relkind IN ('r', 'p')";

const TABLES: &str = "
  SELECT p.tablename::text FROM pg_publication_tables p
   WHERE p.pubname = $1 AND p.schemaname = $2 ORDER BY 1 LIMIT 10000";

const SCHEMAS: &str = "
  SELECT DISTINCT p.schemaname::text FROM pg_publication_tables p
   WHERE p.pubname = $1 ORDER BY 1 LIMIT 1000";

impl Access {
    /// `publication`: where a table has to be to be enabled.
    pub async fn connect(config: CheckConfig, publication: &str) -> Result<Access, ConnectError> {
        let mut slot = Slot::default();
        slot.open(&config).await?;
        Ok(Access {
            config: Arc::new(config),
            publication: publication.into(),
            slot: Arc::new(Mutex::new(slot)),
            granted: Arc::default(),
        })
    }

    /// Whether `viewer` may subscribe to a table, with a filter on these columns. Gives their types
    /// (OIDs), in their order.
    pub async fn table(
        &self,
        viewer: &Viewer,
        schema: &str,
        table: &str,
        filter_columns: &[&str],
    ) -> Result<Vec<u32>, AccessError> {
        let role = &*viewer.role;
        role::check_name(role, &self.config).map_err(refused)?;
        let publication = &*self.publication;
        let names = [schema, table];
        if names
            .iter()
            .chain(filter_columns)
            .any(|name| name.contains('\0'))
        {
            return Err(AccessError::Denied(Denial::Missing));
        }
        // Private channels' messages are for their members, judged with the topic in force.
        if names == ["realtime", "messages"] {
            return Err(AccessError::Denied(Denial::Messages));
        }
        let ask = (
            viewer.role.clone(),
            schema.to_owned(),
            table.to_owned(),
            filter_columns
                .iter()
                .map(|name| (*name).to_owned())
                .collect(),
        );
        let mut slot = self.slot.lock().await;
        // Whoever waited for the session finds what was answered meanwhile.
        if let Some(types) = self.granted.lock().get(&ask) {
            return Ok(types);
        }
        let asked_at = Instant::now();
        let parameters: [&(dyn postgres_types::ToSql + Sync); 5] =
            [&publication, &role, &schema, &table, &filter_columns];
        let rows = self.query_in(&mut slot, TABLE, &parameters).await?;
        let row = rows.first().ok_or(AccessError::Denied(Denial::Missing))?;
        let types = self.judge(role, row)?;
        self.granted.lock().keep(ask, asked_at, &types);
        Ok(types)
    }

    fn judge(&self, role: &str, row: &Row) -> Result<Vec<u32>, AccessError> {
        let flag = |index: usize| row.try_get::<_, bool>(index).unwrap_or(false);
        let facts = RoleFacts {
            superuser: flag(0),
            bypass: flag(1),
            replication: flag(2),
            login_itself: flag(3),
            member: flag(4),
        };
        role::check(role, Some(&facts), &self.config).map_err(refused)?;
        let tests = [
            (flag(6), Denial::NotPublished),
            (flag(5), Denial::Schema),
            (flag(7), Denial::Key),
        ];
        if let Some((_, denial)) = tests.into_iter().find(|(passed, _)| !passed) {
            return Err(AccessError::Denied(denial));
        }
        let types: Vec<Option<u32>> = row.try_get(8).map_err(unavailable)?;
        let types: Option<Vec<u32>> = types
            .into_iter()
            .map(|oid| oid.filter(|oid| *oid != 0))
            .collect();
        types.ok_or(AccessError::Denied(Denial::FilterColumn))
    }

    /// Whether `viewer` may subscribe to all of a schema: at least one published table of it is
    /// readable. The types are none.
    pub async fn schema(&self, viewer: &Viewer, schema: &str) -> Result<Vec<u32>, AccessError> {
        match self.readable(viewer, schema, 1).await {
            Ok(tables) if tables.is_empty() => Err(AccessError::Denied(Denial::NothingInSchema)),
            Ok(_) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The published tables of a schema that `viewer` may subscribe to.
    pub async fn tables(&self, viewer: &Viewer, schema: &str) -> Result<Vec<String>, AccessError> {
        self.readable(viewer, schema, usize::MAX).await
    }

    /// The schemas with published tables that `viewer` may subscribe to; none is a denial.
    pub async fn schemas(&self, viewer: &Viewer) -> Result<Vec<String>, AccessError> {
        role::check_name(&viewer.role, &self.config).map_err(refused)?;
        let publication = &*self.publication;
        let mut readable = Vec::new();
        for row in self.query(SCHEMAS, &[&publication]).await? {
            let schema: String = row.try_get(0).map_err(unavailable)?;
            match self.schema(viewer, &schema).await {
                Ok(_) => readable.push(schema),
                Err(error @ AccessError::Unavailable(_)) => return Err(error),
                Err(AccessError::Denied(_)) => {}
            }
        }
        match readable.is_empty() {
            true => Err(AccessError::Denied(Denial::NothingInSchema)),
            false => Ok(readable),
        }
    }

    /// The first so many of them: each costs a query.
    async fn readable(
        &self,
        viewer: &Viewer,
        schema: &str,
        most: usize,
    ) -> Result<Vec<String>, AccessError> {
        role::check_name(&viewer.role, &self.config).map_err(refused)?;
        if schema.contains('\0') {
            return Err(AccessError::Denied(Denial::Missing));
        }
        let publication = &*self.publication;
        let mut readable = Vec::new();
        for row in self.query(TABLES, &[&publication, &schema]).await? {
            if readable.len() >= most {
                break;
            }
            let table: String = row.try_get(0).map_err(unavailable)?;
            match self.table(viewer, schema, &table, &[]).await {
                Ok(_) => readable.push(table),
                Err(
                    error @ (AccessError::Unavailable(_) | AccessError::Denied(Denial::Role(_))),
                ) => return Err(error),
                Err(AccessError::Denied(_)) => {}
            }
        }
        Ok(readable)
    }

    async fn query(
        &self,
        sql: &str,
        parameters: &[&(dyn postgres_types::ToSql + Sync)],
    ) -> Result<Vec<Row>, AccessError> {
        let mut slot = self.slot.lock().await;
        self.query_in(&mut slot, sql, parameters).await
    }

    /// A session that was lost is opened anew, once.
    async fn query_in(
        &self,
        slot: &mut Slot,
        sql: &str,
        parameters: &[&(dyn postgres_types::ToSql + Sync)],
    ) -> Result<Vec<Row>, AccessError> {
        for last in [false, true] {
            let lane = slot.open(&self.config).await;
            let lane = lane.map_err(|error| AccessError::Unavailable(error.to_string()))?;
            // Beyond the server's own timeout the network is gone; everybody's questions wait here.
            let limit = self.config.statement_timeout + SILENCE;
            match timeout(limit, lane.client.query(sql, parameters)).await {
                Ok(Ok(rows)) => return Ok(rows),
                Ok(Err(error))
                    if last
                        || error
                            .code()
                            .is_some_and(|code| !code.code().starts_with("57P")) =>
                {
                    return Err(unavailable(error));
                }
                Ok(Err(_)) | Err(_) => slot.give_up(),
            }
        }
        Err(AccessError::Unavailable("connection".into()))
    }
}

fn refused(refusal: crate::Refusal) -> AccessError {
    AccessError::Denied(Denial::Role(refusal))
}

fn unavailable(error: tokio_postgres::Error) -> AccessError {
    AccessError::Unavailable(format!(
        "SQLSTATE {}",
        error.code().map_or("connection", SqlState::code)
    ))
}
