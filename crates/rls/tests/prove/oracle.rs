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
        let mut found = Found {
            selected: self.selects(viewer, &name, table.ids()).await?,
            ..Found::default()
        };
        if found.selected.is_empty()
            && self
                .select(viewer, &format!("EXPLAIN {whole}"))
                .await?
                .is_err()
        {
            for expression in self.expressions(viewer, table).await? {
                for id in table.ids() {
                    let one = format!(
                        "SELECT CASE WHEN {expression} THEN {0}.id END AS id FROM {1} AS {0} WHERE {0}.id = {id}",
                        table.quoted(),
                        table.peek(),
                    );
                    let seen = self.evaluate(viewer, &one).await?;
                    found.evaluated.extend(seen.unwrap_or_default());
                }
            }
        }
        Ok(found)
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
        for id in ids {
            let one = format!("{whole} WHERE id = {id}");
            found.extend(self.select(viewer, &one).await?.unwrap_or_default());
        }
        Ok(found)
    }

    /// Each permissive policy that holds for the viewer, with all restrictive ones.
    async fn expressions(&self, viewer: &Viewer, table: &Table) -> Result<Vec<String>> {
        let sql = "WITH held AS (
              SELECT polpermissive AS permissive, '(' || pg_get_expr(polqual, polrelid) || ')' AS qual FROM pg_policy
               WHERE polrelid = $1::text::regclass AND polcmd IN ('r', '*')
                 AND (SELECT bool_or(m = 0 OR pg_has_role($2, m, 'USAGE')) FROM unnest(polroles) m))
            SELECT concat_ws(' AND ', (SELECT string_agg(r.qual, ' AND ') FROM held r WHERE NOT r.permissive), p.qual)
              FROM held p WHERE p.permissive";
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
