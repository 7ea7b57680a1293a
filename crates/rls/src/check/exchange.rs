//! What is asked by statements of its own: what the rules are, what claims come to, and the verdicts
//! for many viewers at once. Each with a limit to how long a session may be silent.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout;
use tokio_postgres::types::ToSql;

use super::{Again, PostgresCheck};
use crate::Viewer;
use crate::breaker;
use crate::lane::Failure;
use crate::projection;
use crate::rules::Rules;
use crate::session::SILENCE;
use crate::set::{self, Found, SetJob};

impl PostgresCheck {
    /// Whether a statement for many viewers has failed a moment ago.
    pub(crate) fn is_paused(&self, projection: u64) -> bool {
        let since = self.paused.get(&projection);
        since.is_some_and(|since| since.elapsed() < breaker::OPEN_FOR)
    }

    /// The pairs that a statement for many viewers finds; `None`: it failed. The rules to be
    /// confirmed are, if it didn't.
    pub(crate) async fn run_set(
        &mut self,
        job: &SetJob<'_>,
    ) -> Result<Option<Vec<(usize, u32)>>, Again> {
        let started = Instant::now();
        let slot = &mut self.crowd;
        let lane = slot
            .open(&self.config)
            .await
            .map_err(|_| Again::Disconnected)?;
        let patience = self.config.statement_timeout * 4 + SILENCE;
        match timeout(patience, set::judge(lane, job)).await {
            Ok(Ok(Found::Unseen(snapshot))) => Err(Again::Unseen(snapshot)),
            Ok(Ok(Found::Pairs(_, digests)))
                if !self.cache.confirm(job.confirm, &digests, started) =>
            {
                Err(Again::Changed)
            }
            Ok(Ok(Found::Pairs(pairs, _))) => Ok(Some(pairs)),
            Ok(Err(Failure::Sql(code))) => {
                self.reporter.set_failed(&code);
                lane.sets.remove(&job.id);
                lane.held.remove(&job.id);
                self.paused
                    .retain(|_, since| since.elapsed() < breaker::OPEN_FOR);
                self.paused.insert(job.id, Instant::now());
                Ok(None)
            }
            _ => {
                slot.give_up();
                Err(Again::Disconnected)
            }
        }
    }

    pub(crate) async fn project(
        &mut self,
        rules: &Rules,
        viewers: impl Iterator<Item = &Viewer>,
    ) -> Result<(), Again> {
        let Ok(projection) = &rules.projection else {
            return Ok(());
        };
        let unknown: Vec<&Viewer> = viewers
            .filter(|viewer| projection.group(&viewer.claims).is_none())
            .collect();
        if unknown.is_empty() || projection.refusal().is_some() {
            return Ok(());
        }
        let slot = self.slots.first_mut().ok_or(Again::Disconnected)?;
        let lane = slot
            .open(&self.config)
            .await
            .map_err(|_| Again::Disconnected)?;
        let beat = lane.beat.clone();
        // One transaction is of many viewers.
        let limit = self.config.statement_timeout * 4 + SILENCE;
        let computed = projection::complete(lane, projection, &unknown);
        match beat.watch(limit, computed).await {
            Some(Ok(computed)) => {
                self.counters.projected(computed);
                Ok(())
            }
            _ => {
                slot.give_up();
                Err(Again::Disconnected)
            }
        }
    }

    pub(crate) async fn rules_of(
        &mut self,
        relation: u32,
        role: &Arc<str>,
    ) -> Result<(Arc<Rules>, Instant), Again> {
        if let Some(found) = self.cache.get(relation, role) {
            return Ok(found);
        }
        let read_at = Instant::now();
        let slot = self.slots.first_mut().ok_or(Again::Disconnected)?;
        let lane = slot
            .open(&self.config)
            .await
            .map_err(|_| Again::Disconnected)?;
        let patience = self.config.statement_timeout * 2 + SILENCE;
        let loaded = self.cache.load(lane, &self.config, relation, role);
        match timeout(patience, loaded).await {
            Ok(Ok(Some(rules))) => Ok((rules, read_at)),
            Ok(Ok(None)) => Err(Again::Changed),
            Ok(Err(error)) => {
                self.reporter.catalogue(&error);
                Err(Again::Disconnected)
            }
            Err(_) => {
                slot.give_up();
                Err(Again::Disconnected)
            }
        }
    }

    /// The table of this name, if it is there.
    pub(super) async fn relation(&mut self, schema: &str, table: &str) -> Option<u32> {
        let slot = self.slots.first_mut()?;
        let lane = slot.open(&self.config).await.ok()?;
        let sql = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                    WHERE n.nspname = $1 AND c.relname = $2";
        let parameters: [&(dyn ToSql + Sync); 2] = [&schema, &table];
        let patience = self.config.statement_timeout + SILENCE;
        let Ok(row) = timeout(patience, lane.client.query_opt(sql, &parameters)).await else {
            slot.give_up();
            return None;
        };
        row.ok()??.try_get(0).ok()
    }
}
