//! A session, the statements prepared in it, and transactions in a channel's name.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join, join5};
use postgres_types::ToSql;
use tokio_postgres::{Error, Row, Statement};

use super::ask::ChannelViewer;
use super::facts::{self, Facts};
use crate::lane::{Failure, Lane, failure};
use crate::names::Names;
use crate::session::Slot;
use crate::{CheckConfig, Viewer, catalogue};

#[derive(Default)]
pub(crate) struct Seat {
    pub(crate) slot: Slot,
    kept: Kept,
}

/// What is prepared in the session with this backend.
#[derive(Default)]
struct Kept {
    pid: i32,
    facts: Option<Statement>,
    channel: Option<Statement>,
    /// By role and text.
    statements: HashMap<(Arc<str>, String), Prepared>,
}

#[derive(Clone)]
pub(crate) struct Prepared {
    pub(crate) statement: Statement,
    /// Names in it could mean something else under the application's `search_path`: it is parsed and
    /// planned with an empty one, and puts the application's into force itself.
    pub(crate) shadowed: bool,
    made: Instant,
}

/// Functions made since may hide Postgres's own, so a statement is looked at again after this.
const PREPARED_FOR: Duration = Duration::from_secs(60);
const PREPARED_MAX: usize = 200;

/// Puts a channel in force until the end of the transaction: the topic, the headers, the `search_path`.
const CHANNEL: &str =
    "SELECT set_config('realtime.topic', $1, true), set_config('realtime.channel_name', $1, true),
    set_config('request.headers', $2, true), set_config('search_path', $3, true)";

impl Seat {
    pub(crate) async fn open(&mut self, config: &CheckConfig) -> Result<Session<'_>, Failure> {
        let opened = self.slot.open(config).await;
        let lane = opened.map_err(|_| Failure::Disconnected)?;
        if self.kept.pid != lane.pid {
            self.kept = Kept {
                pid: lane.pid,
                ..Kept::default()
            };
        }
        let kept = &mut self.kept;
        Ok(Session { lane, kept })
    }
}

/// An open seat.
pub(crate) struct Session<'s> {
    lane: &'s mut Lane,
    kept: &'s mut Kept,
}

impl Session<'_> {
    /// `None`: no such role.
    pub(crate) async fn facts(&mut self, role: &str) -> Result<Option<Facts>, Failure> {
        let statement = match &self.kept.facts {
            Some(statement) => statement,
            None => {
                let prepared = self.lane.client.prepare(&facts::sql()).await;
                let statement = prepared.map_err(|error| failure(&error))?;
                self.kept.facts.insert(statement)
            }
        };
        let row = self.lane.client.query_opt(statement, &[&role]).await;
        let row = row.map_err(|error| failure(&error))?;
        let facts = row.as_ref().map(facts::facts).transpose();
        facts.map_err(|error| failure(&error))
    }

    /// Prepares `text(shadowed)`. `expression` is the application's part of it, if any.
    pub(crate) async fn prepare(
        &mut self,
        viewer: &Viewer,
        expression: Option<&str>,
        text: impl Fn(bool) -> String,
    ) -> Result<Prepared, Failure> {
        self.prepare_channel().await?;
        let key = (viewer.role.clone(), text(false));
        let kept = self.kept.statements.get(&key);
        if let Some(prepared) = kept.filter(|prepared| prepared.made.elapsed() < PREPARED_FOR) {
            return Ok(prepared.clone());
        }
        let shadowed = match expression {
            Some(expression) => self.is_shadowed(viewer, expression).await,
            None => Ok(false),
        };
        let shadowed = shadowed.map_err(|error| failure(&error))?;
        let path = self.path(shadowed).to_owned();
        let sql = text(shadowed);
        // As in `lane`: a policy was made by somebody who could see the schemas that it names.
        let statement = match self.lane.prepare_as(None, &path, &sql).await {
            Err(Failure::Sql(_)) => self.lane.prepare_as(Some(viewer), &path, &sql).await,
            other => other,
        }?;
        if self.kept.statements.len() >= PREPARED_MAX {
            self.kept.statements.clear();
        }
        let prepared = Prepared {
            statement,
            shadowed,
            made: Instant::now(),
        };
        self.kept.statements.insert(key, prepared.clone());
        Ok(prepared)
    }

    async fn prepare_channel(&mut self) -> Result<(), Failure> {
        if self.kept.channel.is_none() {
            let prepared = self.lane.client.prepare(CHANNEL).await;
            self.kept.channel = Some(prepared.map_err(|error| failure(&error))?);
        }
        Ok(())
    }

    async fn is_shadowed(&self, viewer: &Viewer, expression: &str) -> Result<bool, Error> {
        let searched = self.lane.searched(&viewer.role);
        if searched.catalog_late {
            return Ok(true);
        }
        match Names::of(expression) {
            Some(names) => {
                catalogue::is_shadowed(&self.lane.client, &names, &searched.schemas).await
            }
            None => Ok(true),
        }
    }

    /// The application's `search_path`.
    pub(crate) fn search_path(&self) -> &str {
        &self.lane.search_path
    }

    fn path(&self, shadowed: bool) -> &str {
        if shadowed { "" } else { &self.lane.search_path }
    }

    /// One transaction in the viewer's place and the channel's name, which is rolled back. Its
    /// statements are sent at the first poll, in their order.
    pub(crate) async fn transaction(
        &self,
        viewer: &ChannelViewer,
        topic: &str,
        prepared: &Prepared,
        parameters: &[&(dyn ToSql + Sync)],
        plans: &str,
    ) -> Result<Vec<Row>, Failure> {
        let Some(channel) = &self.kept.channel else {
            return Err(Failure::Disconnected);
        };
        let client = &self.lane.client;
        let (headers, path) = (viewer.headers(), self.path(prepared.shadowed));
        let in_force: [&(dyn ToSql + Sync); 3] = [&topic, &headers, &path];
        let ((begun, entered), set, found, stayed, ended) = join5(
            join(
                client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
                self.lane.enter(&viewer.viewer, plans),
            ),
            client.query_one(channel, &in_force),
            client.query(&prepared.statement, parameters),
            self.lane.stayed(&viewer.viewer),
            client.batch_execute("ROLLBACK"),
        )
        .await;
        let found = begun.and(entered).and(set).and(found);
        let found = found.and_then(|found| Ok((found, stayed?, ended?)));
        match found {
            Ok((found, true, ())) => Ok(found),
            Ok((_, false, ())) => Err(Failure::Escaped),
            Err(error) => Err(failure(&error)),
        }
    }
}
