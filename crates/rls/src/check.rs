//! Postgres as the judge: a batch in, verdicts out.

mod apart;
mod attempt;
mod exchange;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tracing::warn;
use walcast_change::Shape;
use walcast_pgoutput::Xid;

use crate::breaker::Breaker;
use crate::cache::{self, Cache};
use crate::report::Reporter;
use crate::roster::Roster;
use crate::rules::Rules;
use crate::session::Slot;
use crate::snapshot::PgSnapshot;
use crate::{
    Answers, Batch, CheckConfig, ConnectError, Counters, Question, RowCheck, Sighting, Verdict,
    Viewer, Wants,
};

/// Judges rows by running the tables' policies over their images, as the viewers' roles.
pub struct PostgresCheck {
    pub(crate) config: Arc<CheckConfig>,
    slots: Vec<Slot>,
    /// For statements that judge many viewers at once. No function of a policy runs there.
    crowd: Slot,
    cache: Arc<Cache>,
    breaker: Mutex<Breaker>,
    reporter: Reporter,
    counters: Arc<Counters>,
    refresher: Option<JoinHandle<()>>,
    pub(crate) roster: Roster,
    /// Statements for many viewers that failed, by the projection's id: not tried again for a while.
    paused: HashMap<u64, Instant>,
}

/// Viewers whose claims one call of `prepare` computes.
const PREPARED_MAX: usize = 200;

/// Times that a batch is begun anew because the catalogue changes under it.
const ATTEMPTS_MAX: usize = 10;

/// Why an attempt has to be repeated.
pub(crate) enum Again {
    /// Policies, grants or tables have changed.
    Changed,
    /// A transaction of the batch is not visible yet.
    Unseen(PgSnapshot),
    /// No session.
    Disconnected,
}

/// Why nobody tries any more.
enum Given {
    /// The catalogue changes each time.
    Changing,
    Up(&'static str),
}

impl Given {
    fn kind(&self) -> &'static str {
        match self {
            Given::Changing => "changing",
            Given::Up(kind) => kind,
        }
    }
}

/// What was tried for a batch so far.
struct Tries {
    started: Instant,
    attempts: usize,
    pause: Duration,
    /// Transactions that were waited for in vain.
    unseen: HashSet<Xid>,
}

impl Default for Tries {
    fn default() -> Tries {
        Tries {
            started: Instant::now(),
            attempts: 0,
            pause: Duration::from_millis(1),
            unseen: HashSet::new(),
        }
    }
}

/// The rules of tables and roles, each with when the catalogue last said the same.
type RulesByPair = HashMap<(u32, Arc<str>), (Arc<Rules>, Instant)>;

impl PostgresCheck {
    /// Opens the first session, to see that it works; the others come when they are needed.
    pub async fn connect(config: CheckConfig) -> Result<PostgresCheck, ConnectError> {
        let config = Arc::new(config);
        let mut slots: Vec<Slot> = (0..config.connections.max(1))
            .map(|_| Slot::default())
            .collect();
        if let Some(slot) = slots.first_mut() {
            slot.open(&config).await?;
        }
        let cache = Arc::new(Cache::default());
        let counters = Arc::new(Counters::default());
        let refresher = || tokio::spawn(cache::keep_fresh(cache.clone(), config.clone()));
        Ok(PostgresCheck {
            refresher: config.asks_ahead.then(refresher),
            config,
            slots,
            crowd: Slot::default(),
            cache,
            breaker: Mutex::default(),
            reporter: Reporter::new(counters.clone()),
            counters,
            roster: Roster::default(),
            paused: HashMap::new(),
        })
    }

    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    /// `changes_max`: how often it is begun anew over a changed catalogue.
    async fn judge_together(
        &mut self,
        batch: &Batch,
        changes_max: usize,
    ) -> Result<Answers, Given> {
        let mut tries = Tries::default();
        loop {
            match self.attempt_with(batch, &tries.unseen, &[]).await {
                Ok(answers) => return Ok(answers),
                Err(again) => {
                    self.try_again(&mut tries, again, &batch.questions, changes_max)
                        .await?;
                }
            }
        }
    }

    async fn sweep_together(
        &mut self,
        questions: &[Question],
        wants: &Wants<'_>,
        changes_max: usize,
    ) -> Result<Vec<Vec<Sighting>>, Given> {
        let mut tries = Tries::default();
        loop {
            match self.attempt_sweep(questions, wants, &tries.unseen).await {
                Ok(found) => return Ok(found),
                Err(again) => {
                    self.try_again(&mut tries, again, questions, changes_max)
                        .await?;
                }
            }
        }
    }

    /// Waits for what is to be waited for.
    async fn try_again(
        &mut self,
        tries: &mut Tries,
        again: Again,
        questions: &[Question],
        changes_max: usize,
    ) -> Result<(), Given> {
        match again {
            Again::Changed => {
                self.counters.reload();
                self.breaker.lock().reset();
                tries.attempts += 1;
                if tries.attempts >= changes_max {
                    return Err(Given::Changing);
                }
            }
            Again::Unseen(snapshot) if tries.started.elapsed() >= self.config.visibility_wait => {
                let xids = questions.iter().filter_map(|question| question.xid);
                tries.unseen.extend(xids.filter(|xid| !snapshot.sees(*xid)));
            }
            Again::Unseen(_) => {
                self.counters.wait();
                tokio::time::sleep(tries.pause).await;
                tries.pause = (tries.pause * 2).min(Duration::from_millis(50));
            }
            Again::Disconnected if tries.started.elapsed() >= self.config.reconnect_for => {
                return Err(Given::Up("connection"));
            }
            Again::Disconnected => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        Ok(())
    }

    fn unjudged(&self, batch: &Batch, kind: &'static str) -> Answers {
        let questions = batch.questions.iter();
        let verdicts = questions.map(|question| question.viewers.len());
        self.deny(verdicts.sum(), kind);
        Answers::all(batch, Verdict::Unjudged)
    }

    fn everybody_unjudged(&self, questions: &[Question], kind: &'static str) -> Vec<Vec<Sighting>> {
        self.deny(questions.len(), kind);
        self.roster.everybody(questions)
    }

    fn deny(&self, verdicts: usize, kind: &str) {
        self.counters.unjudged(verdicts as u64);
        self.counters.errors(kind, verdicts);
        warn!(
            kind,
            verdicts, "rows are not visible because they could not be judged"
        );
    }
}

impl RowCheck for PostgresCheck {
    async fn check(&mut self, batch: &Batch) -> Answers {
        if batch.questions.is_empty() {
            return Answers::hidden(batch);
        }
        self.counters.batch();
        self.judge(batch).await
    }

    fn watch(&mut self, number: u32, viewer: &Viewer, schema: &str, table: Option<&str>) {
        self.roster.watch(number, viewer, schema, table);
    }

    fn unwatch(&mut self, number: u32, schema: &str, table: Option<&str>) {
        self.roster.unwatch(number, schema, table);
    }

    async fn sweep(&mut self, questions: &[Question], wants: &Wants<'_>) -> Vec<Vec<Sighting>> {
        if questions.is_empty() {
            return Vec::new();
        }
        self.counters.batch();
        self.judge_sweep(questions, wants).await
    }

    async fn prepare(&mut self) -> bool {
        let Some(portion) = self.roster.unprepared(PREPARED_MAX) else {
            return false;
        };
        let Some(relation) = self.relation(&portion.schema, &portion.table).await else {
            return true; // what fails is done when it is needed
        };
        for (role, viewers) in portion.viewers {
            if let Ok((rules, _)) = self.rules_of(relation, &role).await {
                let _ = self.project(&rules, viewers.iter()).await;
            }
        }
        true
    }

    fn cost(&self, shape: &Shape) -> usize {
        self.roster.cost(shape)
    }

    async fn table(&mut self, shape: &Arc<Shape>, viewers: &[Viewer]) -> Vec<Option<bool>> {
        let started = Instant::now();
        let mut heard = Vec::with_capacity(viewers.len());
        self.cache.clear(); // rare, and so never stale
        for viewer in viewers {
            let rules = loop {
                match self.rules_of(shape.id.0, &viewer.role).await {
                    Ok((rules, _)) => break Some(rules),
                    Err(_) if started.elapsed() >= self.config.reconnect_for => break None,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            };
            heard.push(rules.map(|rules| rules.may_hear(shape)));
        }
        heard
    }

    fn invalidate(&mut self) {
        self.cache.clear();
    }
}

impl Drop for PostgresCheck {
    fn drop(&mut self) {
        if let Some(refresher) = &self.refresher {
            refresher.abort();
        }
    }
}
