//! What is asked of Postgres: the catalogue first, then the rows.

use std::fmt::Write;

use postgres_types::Type;
use tokio_postgres::{Client, Row};
use walcast_change::{ColumnSet, Shape};

use crate::catalogue::RoleFacts;
use crate::literal::{identifier, text};
use crate::reader::ReadError;
use crate::{CheckConfig, Denial, role};

/// A table and a role, as the transaction's snapshot sees them.
pub(crate) struct Table {
    schema: String,
    name: String,
    /// Policies apply, so functions of the application may run.
    pub(crate) secured: bool,
    columns: Vec<Column>,
}

struct Column {
    name: String,
    type_oid: u32,
    selectable: bool,
    /// It prints names, which `search_path` decides about.
    prints_names: bool,
}

/// `reg…` types by themselves, as elements, or in what a domain or composite type is made of.
const TABLE: &str = "
  SELECT r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolname = session_user,
         coalesce(pg_has_role(session_user, r.oid, 'MEMBER'), false),
         n.nspname::text, c.relname::text, coalesce(has_schema_privilege(r.oid, n.oid, 'USAGE'), false),
         c.relrowsecurity AND NOT r.rolbypassrls,
         a.names, a.types, a.selectable, a.prints_names
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace CROSS JOIN pg_roles r
    CROSS JOIN LATERAL (
      SELECT array_agg(a.attname::text ORDER BY a.attnum) AS names,
             array_agg(a.atttypid ORDER BY a.attnum) AS types,
             array_agg(coalesce(has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT'), false) ORDER BY a.attnum) AS selectable,
             array_agg(EXISTS (
               WITH RECURSIVE inside(oid) AS (
                 SELECT a.atttypid
                  UNION
                 SELECT x.oid FROM inside i JOIN pg_type t ON t.oid = i.oid
                  CROSS JOIN LATERAL (SELECT t.typelem UNION ALL SELECT t.typbasetype
                     UNION ALL SELECT f.atttypid FROM pg_attribute f WHERE f.attrelid = t.typrelid AND t.typrelid <> 0 AND f.attnum > 0
                     UNION ALL SELECT g.rngsubtype FROM pg_range g WHERE g.rngtypid = t.oid) x(oid)
                  WHERE x.oid <> 0 AND t.oid >= 1000)
               SELECT FROM inside JOIN pg_type t USING (oid)
                WHERE t.typnamespace = 'pg_catalog'::regnamespace AND t.typname LIKE 'reg%') ORDER BY a.attnum) AS prints_names
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) a
   WHERE c.oid = $1 AND r.rolname = $2 AND c.relkind IN ('r', 'p')";

impl Table {
    /// Reads it as the login, with an empty `search_path`. Refuses what may not be read at all.
    pub(crate) async fn find(
        client: &Client,
        relation: u32,
        role: &str,
        config: &CheckConfig,
    ) -> Result<Table, ReadError> {
        let parameters: [(&(dyn postgres_types::ToSql + Sync), Type); 2] =
            [(&relation, Type::OID), (&role, Type::TEXT)];
        let row = client.query_typed_opt(TABLE, &parameters).await?;
        let row = row.ok_or(ReadError::Denied(Denial::Missing))?;
        let facts = RoleFacts {
            superuser: row.try_get(0)?,
            bypass: row.try_get(1)?,
            replication: row.try_get(2)?,
            login_itself: row.try_get(3)?,
            member: row.try_get(4)?,
        };
        role::check(role, Some(&facts), config)
            .map_err(|refusal| ReadError::Denied(Denial::Role(refusal)))?;
        if !row.try_get::<_, bool>(7)? {
            return Err(ReadError::Denied(Denial::Schema));
        }
        Ok(Table {
            schema: row.try_get(5)?,
            name: row.try_get(6)?,
            secured: row.try_get(8)?,
            columns: columns(&row)?,
        })
    }

    /// Which of the wanted columns the role may see: some of the key, or nothing at all.
    pub(crate) fn readable(
        &self,
        shape: &Shape,
        wanted: Option<&ColumnSet>,
    ) -> Result<ColumnSet, ReadError> {
        let mut readable = ColumnSet::new();
        for (at, column) in shape.columns.iter().enumerate() {
            let found = self.column(&column.name).ok_or(ReadError::Changed)?;
            if found.type_oid != column.type_oid {
                return Err(ReadError::Changed);
            }
            let wanted = wanted.is_none_or(|wanted| wanted.contains(at)) || shape.key.contains(at);
            if wanted && found.selectable {
                readable.insert(at);
            }
        }
        let names_rows = match shape.key.is_empty() {
            true => !readable.is_empty(),
            false => !readable.intersection(&shape.key).is_empty(),
        };
        match names_rows {
            true => Ok(readable),
            false => Err(ReadError::Denied(Denial::Key)),
        }
    }

    /// The statement that gives the rows. `guard`: an expression that is 1 as long as the statement
    /// runs as the viewer. `path`: the application's `search_path`, which is in force.
    pub(crate) fn copy_sql(
        &self,
        shape: &Shape,
        columns: &ColumnSet,
        filter: Option<&str>,
        guard: Option<&str>,
        path: &str,
    ) -> String {
        let fields = columns.iter().filter_map(|at| {
            let column = self.column(&shape.columns.get(at)?.name)?;
            Some(column.field(path))
        });
        let fields: Vec<String> = guard.map(str::to_owned).into_iter().chain(fields).collect();
        let mut sql = format!(
            "COPY (SELECT {} FROM {}.{}",
            fields.join(", "),
            identifier(&self.schema),
            identifier(&self.name)
        );
        if let Some(filter) = filter {
            let _ = write!(sql, " WHERE ({filter}\n)"); // a comment at its end goes no further
        }
        sql.push_str(") TO STDOUT");
        sql
    }

    fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }
}

impl Column {
    /// Names are printed with their schema, as in the stream; functions of policies find the
    /// application's `search_path` again for the next row.
    fn field(&self, path: &str) -> String {
        let name = identifier(&self.name);
        if !self.prints_names {
            return name;
        }
        let set = "pg_catalog.set_config('search_path',";
        format!(
            "(SELECT CASE WHEN {set} {}, true) IS NOT NULL THEN walcast_text.t END FROM \
             (SELECT CASE WHEN {set} '', true) IS NOT NULL THEN {name}::pg_catalog.text END OFFSET 0) \
             AS walcast_text(t))",
            text(path)
        )
    }
}

fn columns(row: &Row) -> Result<Vec<Column>, ReadError> {
    let names: Vec<String> = row.try_get::<_, Option<_>>(9)?.unwrap_or_default();
    let types: Vec<u32> = row.try_get::<_, Option<_>>(10)?.unwrap_or_default();
    let selectable: Vec<bool> = row.try_get::<_, Option<_>>(11)?.unwrap_or_default();
    let prints_names: Vec<bool> = row.try_get::<_, Option<_>>(12)?.unwrap_or_default();
    let columns = names.into_iter().zip(types).zip(selectable);
    let columns =
        columns
            .zip(prints_names)
            .map(|(((name, type_oid), selectable), prints_names)| Column {
                name,
                type_oid,
                selectable,
                prints_names,
            });
    Ok(columns.collect())
}
