//! Postgres as the judge: a batch in, verdicts out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tracing::warn;
use walcast_change::Shape;
use walcast_pgoutput::Xid;

use crate::breaker::{self, Breaker};
use crate::cache::{self, Cache};
use crate::lane::{Current, Failure};
use crate::plan::{Plan, Seat, spread};
use crate::projection;
use crate::report::Reporter;
use crate::roster::Roster;
use crate::rules::Rules;
use crate::run::Front;
use crate::session::{SILENCE, Share, Slot};
use crate::set::{self, SetJob};
use crate::snapshot::PgSnapshot;
use crate::unit::Unit;
use crate::{
    Answers, Batch, CheckConfig, ConnectError, Counters, Question, RowCheck, Sighting, Tier,
    Verdict, Viewer, Wants,
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

    async fn judge(&mut self, batch: &Batch) -> Answers {
        let mut tries = Tries::default();
        loop {
            match self.attempt_with(batch, &tries.unseen, &[]).await {
                Ok(answers) => return answers,
                Err(again) => {
                    if let Some(kind) = self.try_again(&mut tries, again, &batch.questions).await {
                        let verdicts = batch
                            .questions
                            .iter()
                            .map(|question| question.viewers.len());
                        self.deny(verdicts.sum(), kind);
                        return Answers::all(batch, Verdict::Unjudged);
                    }
                }
            }
        }
    }

    async fn judge_sweep(
        &mut self,
        questions: &[Question],
        wants: &Wants<'_>,
    ) -> Vec<Vec<Sighting>> {
        let mut tries = Tries::default();
        loop {
            match self.attempt_sweep(questions, wants, &tries.unseen).await {
                Ok(found) => return found,
                Err(again) => {
                    if let Some(kind) = self.try_again(&mut tries, again, questions).await {
                        self.deny(questions.len(), kind);
                        return self.roster.everybody(questions);
                    }
                }
            }
        }
    }

    /// Waits for what is to be waited for. `Some`: why it is of no use.
    async fn try_again(
        &mut self,
        tries: &mut Tries,
        again: Again,
        questions: &[Question],
    ) -> Option<&'static str> {
        match again {
            Again::Changed => {
                self.counters.reload();
                self.breaker.lock().reset();
                tries.attempts += 1;
                if tries.attempts >= ATTEMPTS_MAX {
                    return Some("changing");
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
                return Some("connection");
            }
            Again::Disconnected => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        None
    }

    fn deny(&self, verdicts: usize, kind: &str) {
        self.counters.unjudged(verdicts as u64);
        self.counters.errors(kind, verdicts);
        warn!(
            kind,
            verdicts, "rows are not visible because they could not be judged"
        );
    }

    /// `confirm`: rules that have to hold as well.
    pub(crate) async fn attempt_with(
        &mut self,
        batch: &Batch,
        unseen: &HashSet<Xid>,
        confirm: &[Arc<Rules>],
    ) -> Result<Answers, Again> {
        let now = Instant::now();
        let rules = self.rules(batch).await?;
        self.complete(batch, &rules).await?;
        let mut plan = Plan::new(batch, unseen);
        confirm.iter().for_each(|rules| plan.confirm(rules));
        let mut tables: HashMap<u32, Vec<Option<Seat>>> = HashMap::new();
        for (at, question) in batch.questions.iter().enumerate() {
            let relation = question.row.shape().id.0;
            let seats = tables
                .entry(relation)
                .or_insert_with(|| vec![None; batch.viewers.len()]);
            for (nth, viewer) in question.viewers.iter().enumerate() {
                let (Some(asking), Some(seat)) = (
                    batch.viewers.get(*viewer as usize),
                    seats.get_mut(*viewer as usize),
                ) else {
                    continue;
                };
                if seat.is_none() {
                    let found = rules.get(&(relation, asking.role.clone()));
                    *seat = found.map(|(rules, confirmed)| Seat {
                        rules: rules.clone(),
                        fresh: now.duration_since(*confirmed) < self.config.staleness_max,
                        group: rules.group(&asking.claims),
                    });
                }
                if let Some(seat) = seat {
                    let closed = || self.breaker.lock().denies(relation, asking, now);
                    plan.ask((at, nth), *viewer, seat, closed);
                }
            }
        }
        self.carry_out(plan.finish()).await
    }

    /// The rules of all tables and roles of the batch.
    async fn rules(&mut self, batch: &Batch) -> Result<RulesByPair, Again> {
        let mut found = HashMap::new();
        for question in &batch.questions {
            let relation = question.row.shape().id.0;
            let mut last: Option<&Arc<str>> = None;
            for viewer in &question.viewers {
                let Some(viewer) = batch.viewers.get(*viewer as usize) else {
                    continue;
                };
                if last == Some(&viewer.role)
                    || found.contains_key(&(relation, viewer.role.clone()))
                {
                    last = Some(&viewer.role);
                    continue;
                }
                let rules = self.rules_of(relation, &viewer.role).await?;
                found.insert((relation, viewer.role.clone()), rules);
                last = Some(&viewer.role);
            }
        }
        Ok(found)
    }

    /// Computes what the policies make of the claims of viewers not seen before.
    async fn complete(&mut self, batch: &Batch, rules: &RulesByPair) -> Result<(), Again> {
        let mut tables: HashMap<u32, HashSet<u32>> = HashMap::new();
        for question in &batch.questions {
            let asking = tables.entry(question.row.shape().id.0).or_default();
            asking.extend(&question.viewers);
        }
        for ((relation, role), (rules, _)) in rules {
            let asking = tables.get(relation).into_iter().flatten();
            let viewers = asking.filter_map(|viewer| batch.viewers.get(*viewer as usize));
            self.project(rules, viewers.filter(|viewer| viewer.role == *role))
                .await?;
        }
        Ok(())
    }

    /// Whether the rules hold, and the transactions are visible, right now.
    pub(crate) async fn confirm_now(
        &mut self,
        rules: &[Arc<Rules>],
        xids: &HashSet<Xid>,
    ) -> Result<(), Again> {
        let started = Instant::now();
        let slot = self.slots.first_mut().ok_or(Again::Disconnected)?;
        let lane = slot
            .open(&self.config)
            .await
            .map_err(|_| Again::Disconnected)?;
        let patience = self.config.statement_timeout + SILENCE;
        let Ok(Ok(current)) = timeout(patience, lane.current(rules)).await else {
            slot.give_up();
            return Err(Again::Disconnected);
        };
        if !self.cache.confirm(rules, &current.digests, started) {
            return Err(Again::Changed);
        }
        match current.snapshot {
            Some(snapshot) if !xids.iter().all(|xid| snapshot.sees(*xid)) => {
                Err(Again::Unseen(snapshot))
            }
            _ => Ok(()),
        }
    }

    /// Whether a statement for many viewers has failed a moment ago.
    pub(crate) fn is_paused(&self, projection: u64) -> bool {
        let since = self.paused.get(&projection);
        since.is_some_and(|since| since.elapsed() < breaker::OPEN_FOR)
    }

    /// The pairs that a statement for many viewers finds; `None`: it failed.
    pub(crate) async fn run_set(
        &mut self,
        job: &SetJob<'_>,
    ) -> Result<Option<Vec<(usize, u32)>>, Again> {
        let slot = &mut self.crowd;
        let lane = slot
            .open(&self.config)
            .await
            .map_err(|_| Again::Disconnected)?;
        let patience = self.config.statement_timeout * 4 + SILENCE;
        match timeout(patience, set::judge(lane, job)).await {
            Ok(Ok(pairs)) => Ok(Some(pairs)),
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
            Ok(Ok(rules)) => Ok((rules, read_at)),
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

    async fn carry_out(&mut self, plan: Plan<'_>) -> Result<Answers, Again> {
        let Plan {
            mut answers,
            units,
            confirm,
            xids,
            counts,
            followers,
            ..
        } = plan;
        if confirm.is_empty() {
            counts.enter(&self.counters);
            return Ok(answers);
        }
        let started = Instant::now();
        let cache = &self.cache;
        let refused: Mutex<Option<Again>> = Mutex::default();
        let holds = |current: &Current| {
            let again = if !cache.confirm(&confirm, &current.digests, started) {
                Again::Changed
            } else if let Some(snapshot) = current
                .snapshot
                .as_ref()
                .filter(|snapshot| !xids.iter().all(|xid| snapshot.sees(*xid)))
            {
                Again::Unseen(snapshot.clone())
            } else {
                return true;
            };
            *refused.lock() = Some(again);
            false
        };
        let front = Front {
            rules: &confirm,
            holds: &holds,
        };
        let work = Share {
            config: &self.config,
            breaker: &self.breaker,
            front: &front,
        };
        let count = units.len();
        let lanes = self.slots.len().min(count).max(1);
        let mut units = units.into_iter();
        let work = &work;
        let shares = self
            .slots
            .iter_mut()
            .take(lanes)
            .enumerate()
            .map(|(at, slot)| {
                let share = count * (at + 1) / lanes - count * at / lanes;
                let share: Vec<_> = units.by_ref().take(share).collect();
                work.run(slot, share)
            });
        let shares: Vec<_> = shares.collect();
        let mut judged = Vec::new();
        for share in join_all(shares).await {
            judged.push(share.ok_or_else(|| refused.lock().take().unwrap_or(Again::Disconnected))?);
        }
        // What raised may have met a table that was altered after its rules were confirmed.
        let raised =
            |failure: &Failure| matches!(failure, Failure::Sql(_)) && !failure.leaves_open();
        let mut failed = judged.iter().flat_map(|report| &report.failed);
        if failed.any(|(_, failure)| raised(failure)) {
            self.confirm_now(&confirm, &HashSet::new()).await?;
        }
        counts.enter(&self.counters);
        let tiers = self.enter(judged, &mut answers);
        let (visible, hidden) = spread(&followers, &mut answers);
        self.counters.verdicts(Tier::Image, true, visible);
        self.counters.verdicts(Tier::Image, false, hidden);
        for tier in tiers {
            self.counters.time(tier, started.elapsed());
        }
        Ok(answers)
    }

    fn enter(&self, reports: Vec<crate::run::Report<'_>>, answers: &mut Answers) -> HashSet<Tier> {
        let mut tiers = HashSet::new();
        for report in reports {
            for (unit, visible) in report.judged {
                let tier = unit.tier();
                tiers.insert(tier);
                for (ask, visible) in unit.asks.iter().zip(visible) {
                    self.counters.verdicts(tier, visible, 1);
                    if visible {
                        answers.set(ask.question, ask.nth, Verdict::Visible(ask.visible.clone()));
                    }
                }
            }
            for ask in report.unknown {
                self.counters.unknown(1);
                answers.set(ask.question, ask.nth, Verdict::Unknown);
            }
            for (unit, failure) in &report.failed {
                self.reporter.failed(unit, failure);
                if failure.leaves_open() || !unit.rules.settled {
                    self.leave_open(unit, answers);
                }
            }
            for (unit, failure) in &report.abandoned {
                self.reporter.failed(unit, failure);
                self.leave_open(unit, answers);
            }
        }
        tiers
    }

    fn leave_open(&self, unit: &Unit<'_>, answers: &mut Answers) {
        self.counters.unjudged(unit.asks.len() as u64);
        for ask in &unit.asks {
            answers.set(ask.question, ask.nth, Verdict::Unjudged);
        }
    }

    /// The table of this name, if it is there.
    async fn relation(&mut self, schema: &str, table: &str) -> Option<u32> {
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
