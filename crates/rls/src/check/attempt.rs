//! One attempt at a batch: its rules, what Postgres has to be asked, and what came of it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::join_all;
use walcast_pgoutput::Xid;

use super::{Again, PostgresCheck, RulesByPair};
use crate::plan::{Plan, Seat, spread};
use crate::rules::Rules;
use crate::run::{Grounds, Report};
use crate::session::Share;
use crate::unit::Unit;
use crate::{Answers, Batch, Tier, Verdict};

impl PostgresCheck {
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
        let hold = |digests: &[Option<String>]| cache.confirm(&confirm, digests, started);
        let grounds = Grounds {
            rules: &confirm,
            hold: &hold,
            xids: &xids,
        };
        let work = Share {
            config: &self.config,
            breaker: &self.breaker,
            grounds: &grounds,
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
            judged.push(share?);
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

    fn enter(&self, reports: Vec<Report<'_>>, answers: &mut Answers) -> HashSet<Tier> {
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
}
