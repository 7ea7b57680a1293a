//! What the viewers find by a direct SELECT: the truth.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use anyhow::{Context, Result};
use tokio_postgres::{Client, Error, SimpleQueryMessage};
use walcast_rls::Viewer;

use crate::kind::quoted;
use crate::world::Table;

/// What a viewer finds in a table.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) selected: HashSet<i32>,
    /// What some policy lets through, taken alone and row by row, where the SELECT fails before it has
    /// looked at a row: to estimate how many there will be, Postgres computes what the policies make of the
    /// claims, also where no row would have needed it. To show nothing is right then, and so is this.
    ///
    /// And what all policies as one, in Postgres's order, let through for a row by itself, where the SELECT
    /// fails on the way: for a whole table Postgres may choose to compute a sub-select for all rows in
    /// advance (a hashed EXISTS), with parts that this row alone does not need.
    pub(crate) evaluated: HashSet<i32>,
}

/// A session of the login that checks.
pub(crate) struct Oracle {
    client: Client,
}

impl Oracle {
    pub(crate) fn new(client: Client) -> Oracle {
        Oracle { client }
    }

    /// Where the policies raise for some row, each is looked for alone, and the raising ones are not
    /// found.
    pub(crate) async fn finds(&self, viewer: &Viewer, table: &Table) -> Result<Found> {
        let name = table.qualified();
        let whole = format!("SELECT id FROM {name}");
        let mut found = Found::default();
        let raising = match self.select(viewer, &whole).await? {
            Ok(selected) => {
                found.selected = selected;
                Vec::new()
            }
            Err(_) => {
                self.one_by_one(viewer, &name, table.ids(), &mut found.selected)
                    .await?
            }
        };
        if found.selected.is_empty()
            && self
                .select(viewer, &format!("EXPLAIN {whole}"))
                .await?
                .is_err()
        {
            for expression in self.expressions(viewer, table).await? {
                self.evaluates(viewer, table, &expression, table.ids(), &mut found)
                    .await?;
            }
        } else if !raising.is_empty()
            && let Some(all) = self.expression(viewer, table).await?
        {
            self.evaluates(viewer, table, &all, raising, &mut found)
                .await?;
        }
        Ok(found)
    }

    async fn evaluates(
        &self,
        viewer: &Viewer,
        table: &Table,
        expression: &str,
        ids: impl IntoIterator<Item = usize>,
        found: &mut Found,
    ) -> Result<()> {
        for id in ids {
            let (name, peek) = (table.quoted(), table.peek());
            let row = format!("{peek} AS {name} WHERE {name}.id = {id}");
            // With LIMIT Postgres counts on one row, and prepares for no more.
            for row in [
                row.clone(),
                format!("(SELECT {name}.* FROM {row} LIMIT 1) AS {name}"),
            ] {
                let one =
                    format!("SELECT CASE WHEN {expression} THEN {name}.id END AS id FROM {row}");
                let seen = self.evaluate(viewer, &one).await?;
                found.evaluated.extend(seen.unwrap_or_default());
            }
        }
        Ok(())
    }

    pub(crate) async fn selects(
        &self,
        viewer: &Viewer,
        table: &str,
        ids: RangeInclusive<usize>,
    ) -> Result<HashSet<i32>> {
        let whole = format!("SELECT id FROM {table}");
        if let Ok(found) = self.select(viewer, &whole).await? {
            return Ok(found);
        }
        let mut found = HashSet::new();
        self.one_by_one(viewer, table, ids, &mut found).await?;
        Ok(found)
    }

    /// The rows for which the SELECT fails are returned.
    async fn one_by_one(
        &self,
        viewer: &Viewer,
        table: &str,
        ids: RangeInclusive<usize>,
        into: &mut HashSet<i32>,
    ) -> Result<Vec<usize>> {
        let mut raising = Vec::new();
        for id in ids {
            let one = format!("SELECT id FROM {table} WHERE id = {id}");
            match self.select(viewer, &one).await? {
                Ok(found) => into.extend(found),
                Err(_) => raising.push(id),
            }
        }
        Ok(raising)
    }

    /// All policies that hold for the viewer, as Postgres puts them together.
    async fn expression(&self, viewer: &Viewer, table: &Table) -> Result<Option<String>> {
        let sql = "WITH held AS (
              SELECT polname, polpermissive AS permissive, '(' || pg_get_expr(polqual, polrelid) || ')' AS qual FROM pg_policy
               WHERE polrelid = $1::text::regclass AND polcmd IN ('r', '*')
                 AND (SELECT bool_or(m = 0 OR pg_has_role($2, m, 'USAGE')) FROM unnest(polroles) m))
            SELECT concat_ws(' AND ', (SELECT string_agg(qual, ' AND ' ORDER BY polname) FROM held WHERE NOT permissive),
                             '(' || (SELECT string_agg(qual, ' OR ' ORDER BY polname DESC) FROM held WHERE permissive) || ')')
             WHERE EXISTS (SELECT FROM held WHERE permissive AND qual IS NOT NULL)";
        let rows = self.catalogue(sql, viewer, table).await?;
        Ok(rows.into_iter().next())
    }

    /// Each permissive policy that holds for the viewer, with all restrictive ones.
    async fn expressions(&self, viewer: &Viewer, table: &Table) -> Result<Vec<String>> {
        let sql = "WITH held AS (
              SELECT polpermissive AS permissive, '(' || pg_get_expr(polqual, polrelid) || ')' AS qual FROM pg_policy
               WHERE polrelid = $1::text::regclass AND polcmd IN ('r', '*')
                 AND (SELECT bool_or(m = 0 OR pg_has_role($2, m, 'USAGE')) FROM unnest(polroles) m))
            SELECT concat_ws(' AND ', (SELECT string_agg(r.qual, ' AND ') FROM held r WHERE NOT r.permissive), p.qual)
              FROM held p WHERE p.permissive";
        self.catalogue(sql, viewer, table).await
    }

    async fn catalogue(&self, sql: &str, viewer: &Viewer, table: &Table) -> Result<Vec<String>> {
        self.client.batch_execute("SET search_path = ''").await?;
        let rows = self
            .client
            .query(sql, &[&table.qualified(), &&*viewer.role])
            .await;
        self.client.batch_execute("RESET search_path").await?;
        Ok(rows?.iter().map(|row| row.get(0)).collect())
    }

    /// Planned without claims, and so without an error that only the estimates come upon.
    async fn evaluate(&self, viewer: &Viewer, select: &str) -> Result<Result<HashSet<i32>, Error>> {
        let sql = format!(
            "BEGIN; SELECT set_config('role', {}, true), set_config('request.jwt.claims', '', true);
             PREPARE evaluation AS {select}; EXPLAIN EXECUTE evaluation;
             SELECT set_config('request.jwt.claims', {}, true); EXECUTE evaluation; ROLLBACK",
            quoted(&viewer.role),
            quoted(&viewer.claims),
        );
        let found = self.run(&sql).await;
        self.client.batch_execute("DEALLOCATE ALL").await?;
        found
    }

    async fn select(&self, viewer: &Viewer, select: &str) -> Result<Result<HashSet<i32>, Error>> {
        let sql = format!(
            "BEGIN; SELECT set_config('role', {}, true), set_config('request.jwt.claims', {}, true); {select}; ROLLBACK",
            quoted(&viewer.role),
            quoted(&viewer.claims),
        );
        self.run(&sql).await
    }

    /// The column `id` of all results.
    async fn run(&self, sql: &str) -> Result<Result<HashSet<i32>, Error>> {
        let messages = match self.client.simple_query(sql).await {
            Ok(messages) => messages,
            Err(error) => {
                error
                    .as_db_error()
                    .with_context(|| format!("the SELECT: {error}"))?;
                self.client.batch_execute("ROLLBACK").await?;
                return Ok(Err(error));
            }
        };
        let mut found = HashSet::new();
        for message in messages {
            let SimpleQueryMessage::Row(row) = message else {
                continue;
            };
            let column = row.columns().first().map(|column| column.name());
            if column == Some("id")
                && let Some(id) = row.get(0)
            {
                found.insert(id.parse()?);
            }
        }
        Ok(Ok(found))
    }
}
