//! One session with Postgres: its settings, its prepared statements, and transactions that go out
//! together without waiting for each other's answers.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use futures_util::future::{MaybeDone, join5, maybe_done};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, Row, Statement};
use walcast_pgoutput::Xid;

use crate::beat::Beat;
use crate::catalogue;
use crate::connector::{CONNECT_TIMEOUT, ConnectError};
use crate::rules::{Rules, Standing};
use crate::run::is_of_the_moment;
use crate::search_path;
use crate::set::Held;
use crate::snapshot::PgSnapshot;
use crate::unit::{Mode, Unit};
use crate::{CheckConfig, Viewer};

pub(crate) struct Lane {
    pub(crate) client: Client,
    pub(crate) pid: i32,
    pub(crate) beat: Beat,
    /// What functions of policies are to find.
    pub(crate) search_path: String,
    settings: Statement,
    assertion: Statement,
    digest: Statement,
    checks: HashMap<(u64, Mode), Prepared>,
    /// By the projection's id.
    pub(crate) projections: HashMap<u64, Statement>,
    /// Statements that judge many viewers, by the projection's id.
    pub(crate) sets: HashMap<u64, Statement>,
    /// What these need of the viewers, where the session can keep it. `None`: it can't.
    pub(crate) held: HashMap<u64, Option<Held>>,
}

/// A statement, or the SQLSTATE that Postgres refused it with.
type Prepared = Result<Statement, SqlState>;

/// Prepared statements of one session. More, and all are prepared anew.
const CHECKS_MAX: usize = 500;

/// What a transaction came to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Which of the unit's images are visible.
    Found(Vec<bool>),
    Failed(Failure),
    /// It did not see a transaction that it has to see.
    Unseen(PgSnapshot),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Sql(SqlState),
    /// The policies changed who they run as.
    Escaped,
    Disconnected,
}

impl Failure {
    /// Whether nobody knows what the verdicts would have been, rather than that the policies fail.
    pub(crate) fn leaves_open(&self) -> bool {
        match self {
            Failure::Sql(code) => is_of_the_moment(code),
            Failure::Escaped => false,
            Failure::Disconnected => true,
        }
    }
}

/// Puts the session into the viewer's place until the end of the transaction. The claims are parsed
/// by the way: text that is no JSON fails here. Old policies read `request.jwt.claim.…`. What the
/// last column says is visible is so for all statements that follow.
const SETTINGS: &str = "SELECT set_config('role', $1, true), set_config('search_path', $2, true),
    set_config('request.jwt.claims', $3, true), set_config('plan_cache_mode', $4, true),
    set_config('request.jwt.claim.sub', coalesce(c.claims ->> 'sub', ''), true),
    set_config('request.jwt.claim.role', coalesce(c.claims ->> 'role', $1), true),
    set_config('request.jwt.claim.email', coalesce(c.claims ->> 'email', ''), true),
    pg_current_snapshot()::text
  FROM (SELECT nullif($3, '')::json AS claims) c";

/// The column of [`SETTINGS`] that has the snapshot.
const SNAPSHOT: usize = 7;

/// After the policies ran: still the same viewer? Advisory locks of the session outlive a rollback.
pub(crate) const ASSERTION: &str =
    "SELECT current_user = $1 AND pg_catalog.current_setting('request.jwt.claims', true) = $2
    AND pg_catalog.pg_advisory_unlock_all() IS NOT NULL";

impl Lane {
    /// Opens a session. `replacing` is the backend of one that is given up, perhaps still busy.
    pub(crate) async fn open(
        config: &CheckConfig,
        replacing: Option<i32>,
    ) -> Result<Lane, ConnectError> {
        let client = config.connector.connect().await?;
        let set_up = timeout(CONNECT_TIMEOUT, Lane::set_up(client, config, replacing)).await;
        set_up
            .map_err(|_| ConnectError::Timeout)?
            .map_err(not_set_up)
    }

    /// As if it was just opened.
    pub(crate) async fn renew(self, config: &CheckConfig) -> Result<Lane, ConnectError> {
        for clearing in ["ROLLBACK", "DISCARD ALL"] {
            let cleared = self.client.batch_execute(clearing).await;
            cleared.map_err(not_set_up)?;
        }
        Lane::set_up(self.client, config, None)
            .await
            .map_err(not_set_up)
    }

    async fn set_up(
        client: Client,
        config: &CheckConfig,
        replacing: Option<i32>,
    ) -> Result<Lane, Error> {
        let row = client
            .query_one(
                "SELECT pg_catalog.current_setting('search_path'), pg_catalog.pg_backend_pid()",
                &[],
            )
            .await?;
        let own_path: String = row.try_get(0)?;
        client.batch_execute(&session(config)).await?;
        // Postgres 14 and later, not on every system: ends what nobody waits for any more.
        let _ = client
            .batch_execute("SET client_connection_check_interval = '1s'")
            .await;
        if let Some(pid) = replacing {
            let _ = client
                .query("SELECT pg_terminate_backend($1)", &[&pid])
                .await;
        }
        Ok(Lane {
            pid: row.try_get(1)?,
            beat: Beat::default(),
            search_path: config.search_path.clone().unwrap_or(own_path),
            settings: client.prepare(SETTINGS).await?,
            assertion: client.prepare(ASSERTION).await?,
            digest: client.prepare(&catalogue::digest_sql()).await?,
            client,
            checks: HashMap::new(),
            projections: HashMap::new(),
            sets: HashMap::new(),
            held: HashMap::new(),
        })
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// The schemas that the application's `search_path` makes `role` search.
    pub(crate) fn searched(&self, role: &str) -> search_path::Searched {
        search_path::searched(&self.search_path, role)
    }

    /// What the catalogue's digests are now; `None` where a table or role is gone.
    pub(crate) async fn digests(&self, rules: &[Arc<Rules>]) -> Result<Vec<Option<String>>, Error> {
        let rules = rules.iter();
        let asked = rules.map(|rules| (rules.relation, &*rules.role, &*rules.functions));
        self.read_digests(asked.collect()).await
    }

    /// The digest of a table and a role by themselves: what that of their rules begins with.
    pub(crate) async fn digest(&self, relation: u32, role: &str) -> Result<Option<String>, Error> {
        let digests = self.read_digests(vec![(relation, role, "{}")]).await?;
        Ok(digests.into_iter().flatten().next())
    }

    /// Of tables and roles, each with the functions that count as well.
    async fn read_digests(
        &self,
        asked: Vec<(u32, &str, &str)>,
    ) -> Result<Vec<Option<String>>, Error> {
        let relations: Vec<u32> = asked.iter().map(|(relation, ..)| *relation).collect();
        let roles: Vec<&str> = asked.iter().map(|(_, role, _)| *role).collect();
        let functions: Vec<&str> = asked.iter().map(|(.., functions)| *functions).collect();
        let row = self
            .client
            .query_one(&self.digest, &[&relations, &roles, &functions])
            .await?;
        row.try_get(0)
    }

    /// Prepares what the unit needs, if it isn't yet. `Err`: Postgres refuses the statement.
    pub(crate) async fn prepare(&mut self, unit: &Unit<'_>) -> Result<(), Failure> {
        let key = (unit.rules.id, unit.mode.clone());
        if !self.checks.contains_key(&key) {
            let prepared = self.prepare_check(unit).await?;
            if let Err(code) = &prepared
                && is_of_the_moment(code)
            {
                return Err(Failure::Sql(code.clone()));
            }
            if self.checks.len() >= CHECKS_MAX {
                self.checks.clear();
            }
            self.checks.insert(key.clone(), prepared);
        }
        match self.checks.get(&key) {
            Some(Err(code)) => Err(Failure::Sql(code.clone())),
            _ => Ok(()),
        }
    }

    /// Names are looked up as the login where it may, else as the role: a policy was made by somebody
    /// who could see the schemas it names, the subscriber need not. One statement serves one role
    /// only, so its plan is made once.
    async fn prepare_check(&self, unit: &Unit<'_>) -> Result<Prepared, Failure> {
        let Standing::Policies(policies) = &unit.rules.standing else {
            return Ok(Err(SqlState::INTERNAL_ERROR));
        };
        let (sql, path) = match &unit.mode {
            Mode::Image if policies.shadowed => (policies.image_sql(), ""),
            Mode::Image => (policies.image_sql(), self.search_path.as_str()),
            Mode::Key(lacking) => (
                policies.key_sql(&unit.rules, lacking),
                self.search_path.as_str(),
            ),
        };
        let as_login = self.prepare_as(None, path, &sql).await;
        let prepared = match as_login {
            Err(Failure::Sql(code)) if code == SqlState::INSUFFICIENT_PRIVILEGE => {
                self.prepare_as(Some(unit.viewer), path, &sql).await
            }
            other => other,
        };
        match prepared {
            Ok(statement) => Ok(Ok(statement)),
            Err(Failure::Sql(code)) => Ok(Err(code)),
            Err(other) => Err(other),
        }
    }

    pub(crate) fn keep_projection(&mut self, id: u64, statement: Statement) {
        if self.projections.len() >= CHECKS_MAX {
            self.projections.clear();
        }
        self.projections.insert(id, statement);
    }

    pub(crate) fn keep_set(&mut self, id: u64, statement: Statement) {
        if self.sets.len() >= CHECKS_MAX {
            self.sets.clear();
        }
        self.sets.insert(id, statement);
    }

    /// Puts the session into the viewer's place until the end of the transaction. `plans`: how long
    /// plans may be kept, as `plan_cache_mode` puts it. Gives the row of [`SETTINGS`].
    pub(crate) async fn enter(&self, viewer: &Viewer, plans: &str) -> Result<Row, Error> {
        let (role, claims) = (&*viewer.role, &*viewer.claims);
        let parameters: [&(dyn postgres_types::ToSql + Sync); 4] =
            [&role, &self.search_path, &claims, &plans];
        self.client.query_one(&self.settings, &parameters).await
    }

    /// Whether it still is in the viewer's place.
    pub(crate) async fn stayed(&self, viewer: &Viewer) -> Result<bool, Error> {
        let (role, claims) = (&*viewer.role, &*viewer.claims);
        let row = self
            .client
            .query_one(&self.assertion, &[&role, &claims])
            .await?;
        Ok(row.try_get::<_, Option<bool>>(0)? == Some(true))
    }

    pub(crate) async fn prepare_as(
        &self,
        viewer: Option<&Viewer>,
        path: &str,
        sql: &str,
    ) -> Result<Statement, Failure> {
        let client = &self.client;
        client
            .batch_execute("BEGIN")
            .await
            .map_err(|error| failure(&error))?;
        let prepared = async {
            client
                .query(
                    "SELECT pg_catalog.set_config('search_path', $1, true)",
                    &[&path],
                )
                .await?;
            if let Some(viewer) = viewer {
                client
                    .query(
                        "SELECT pg_catalog.set_config('role', $1, true)",
                        &[&&*viewer.role],
                    )
                    .await?;
            }
            client.prepare(sql).await
        };
        let prepared = prepared.await.map_err(|error| failure(&error));
        client
            .batch_execute("ROLLBACK")
            .await
            .map_err(|error| failure(&error))?;
        prepared
    }

    /// One transaction. Its five statements are sent at the first poll, in their order. `xids`: what
    /// has to be visible to it.
    pub(crate) async fn transaction(&self, unit: &Unit<'_>, xids: &HashSet<Xid>) -> Outcome {
        let prepared = self.checks.get(&(unit.rules.id, unit.mode.clone()));
        let Some(Ok(check)) = prepared else {
            return Outcome::Failed(Failure::Sql(SqlState::INTERNAL_ERROR));
        };
        let (role, claims) = (&*unit.viewer.role, &*unit.viewer.claims);
        let path = if unit.plans_without_path() {
            ""
        } else {
            &self.search_path
        };
        let images: Vec<&str> = unit
            .asks
            .iter()
            .map(|ask| ask.image.text.as_str())
            .collect();
        let mut parameters: Vec<&(dyn postgres_types::ToSql + Sync)> = vec![&images];
        if check.params().len() > 1 {
            parameters.push(&self.search_path);
        }
        let (begun, set, found, kept, ended) = join5(
            self.client
                .batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"),
            self.client
                .query_one(&self.settings, &[&role, &path, &claims, &unit.plan_mode()]),
            self.client.query(check, &parameters),
            self.client.query_one(&self.assertion, &[&role, &claims]),
            self.client.batch_execute("ROLLBACK"),
        )
        .await;
        match set.as_ref().map(|row| lacks(row, xids)) {
            Ok(Ok(Some(snapshot))) => return Outcome::Unseen(snapshot),
            Ok(Err(failure)) => return Outcome::Failed(failure),
            Ok(Ok(None)) | Err(_) => {}
        }
        let verdicts = begun.and(set.map(drop)).and(found).and_then(|found| {
            let kept: Option<bool> = kept?.try_get(0)?;
            ended?;
            Ok((numbers(&found)?, kept == Some(true)))
        });
        match verdicts {
            Ok((numbers, true)) => Outcome::Found(visible(unit.asks.len(), &numbers)),
            Ok((_, false)) => Outcome::Failed(Failure::Escaped),
            Err(error) => Outcome::Failed(failure(&error)),
        }
    }
}

/// Our own statements are planned once: planned anew at each run, which Postgres would choose, the
/// digests alone take 0.7 ms. What belongs to policies is left to Postgres again, see [`SETTINGS`].
fn session(config: &CheckConfig) -> String {
    format!(
        "SET search_path = ''; SET row_security = on; SET jit = off; SET lc_monetary = 'C';
         SET plan_cache_mode = force_generic_plan;
         SET standard_conforming_strings = on; SET client_min_messages = error;
         SET statement_timeout = {}; SET lock_timeout = {}; SET idle_in_transaction_session_timeout = '60s'",
        config.statement_timeout.as_millis().max(1),
        config.lock_timeout.as_millis().max(1),
    )
}

fn not_set_up(error: Error) -> ConnectError {
    ConnectError::SetUp {
        code: error.code().map_or("connection", SqlState::code).to_owned(),
    }
}

/// The snapshot in a row of [`SETTINGS`], where it does not see all of these. Errors: a session that
/// does not say what it sees is of no use.
pub(crate) fn lacks(row: &Row, xids: &HashSet<Xid>) -> Result<Option<PgSnapshot>, Failure> {
    if xids.is_empty() {
        return Ok(None);
    }
    let text: Option<&str> = row.try_get(SNAPSHOT).ok();
    let snapshot = text
        .and_then(PgSnapshot::parse)
        .ok_or(Failure::Disconnected)?;
    Ok((!xids.iter().all(|xid| snapshot.sees(*xid))).then_some(snapshot))
}

fn numbers(rows: &[Row]) -> Result<Vec<i32>, Error> {
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Numbers count from 1.
fn visible(images: usize, numbers: &[i32]) -> Vec<bool> {
    let mut visible = vec![false; images];
    for number in numbers {
        let at = usize::try_from(*number)
            .ok()
            .and_then(|number| number.checked_sub(1));
        if let Some(found) = at.and_then(|at| visible.get_mut(at)) {
            *found = true;
        }
    }
    visible
}

pub(crate) fn failure(error: &Error) -> Failure {
    match error.code() {
        // The server ends the session: 57P0x; 08xxx; 25P03 idle in transaction.
        Some(code)
            if code.code().starts_with("57P")
                || code.code().starts_with("08")
                || code.code() == "25P03" =>
        {
            Failure::Disconnected
        }
        Some(code) => Failure::Sql(code.clone()),
        None => Failure::Disconnected,
    }
}

/// A future that has been polled once: its requests are on their way.
pub(crate) struct Started<F: Future>(Pin<Box<MaybeDone<F>>>);

impl<F: Future> Started<F> {
    pub(crate) async fn new(future: F) -> Started<F> {
        let mut future = Box::pin(maybe_done(future));
        std::future::poll_fn(|context| {
            let _ = future.as_mut().poll(context);
            Poll::Ready(())
        })
        .await;
        Started(future)
    }

    pub(crate) async fn finish(mut self) -> Option<F::Output> {
        self.0.as_mut().await;
        self.0.as_mut().take_output()
    }
}
