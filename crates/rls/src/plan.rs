//! What a batch comes to: verdicts that need no statement, and units that do.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use walcast_change::{Cell, ColumnSet};
use walcast_pgoutput::Xid;

use crate::projection::{Group, Prepared};
use crate::rules::{Image, Rules, Standing};
use crate::unit::{Ask, Mode, Unit, Units};
use crate::{Answers, Batch, Counters, Tier, Verdict};

pub(crate) struct Plan<'a> {
    batch: &'a Batch,
    unseen: &'a HashSet<Xid>,
    pub(crate) answers: Answers,
    gathered: Units<'a>,
    pub(crate) units: Vec<Unit<'a>>,
    /// Rules that are compared with the catalogue before anything counts.
    pub(crate) confirm: Vec<Arc<Rules>>,
    confirmed: HashSet<u64>,
    /// Transactions that must be visible to other sessions first.
    pub(crate) xids: HashSet<Xid>,
    images: HashMap<(usize, u64), Option<Arc<Image>>>,
    /// By question and rules; `None`: the row can't be judged by a formula.
    rows: HashMap<(usize, u64), Option<Vec<Cell<'a>>>>,
    /// By question, rules and group of viewers: the place whose verdict holds for all.
    leaders: HashMap<(usize, u64, u32), (usize, usize)>,
    pub(crate) followers: Vec<Following>,
    pub(crate) counts: PlanCounts,
}

/// A place that gets the verdict of another.
#[derive(Debug)]
pub(crate) struct Following {
    leader: (usize, usize),
    place: (usize, usize),
}

/// A viewer before a table.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) rules: Arc<Rules>,
    /// The rules are young enough to count without a look at the catalogue.
    pub(crate) fresh: bool,
    /// The viewers that it is as one with, and what is known of the policies.
    pub(crate) group: Option<(Arc<Group>, Arc<Prepared>)>,
}

/// What is counted once the plan is carried out.
#[derive(Debug, Default)]
pub(crate) struct PlanCounts {
    visible: u64,
    hidden: u64,
    unknown: u64,
    unjudged: u64,
    refused: u64,
    index_visible: u64,
    index_hidden: u64,
    errors: HashMap<&'static str, usize>,
}

impl<'a> Plan<'a> {
    /// `unseen`: transactions that were waited for in vain.
    pub(crate) fn new(batch: &'a Batch, unseen: &'a HashSet<Xid>) -> Plan<'a> {
        Plan {
            batch,
            unseen,
            answers: Answers::hidden(batch),
            gathered: Units::default(),
            units: Vec::new(),
            confirm: Vec::new(),
            confirmed: HashSet::new(),
            xids: HashSet::new(),
            images: HashMap::new(),
            rows: HashMap::new(),
            leaders: HashMap::new(),
            followers: Vec::new(),
            counts: PlanCounts::default(),
        }
    }

    /// Adds one verdict. `place`: the question, and which of its viewers. `closed`: whether the
    /// viewer takes too long.
    pub(crate) fn ask(
        &mut self,
        place: (usize, usize),
        viewer: u32,
        seat: &Seat,
        closed: impl FnOnce() -> bool,
    ) {
        let Some(question) = self.batch.questions.get(place.0) else {
            return;
        };
        let rules = &seat.rules;
        if !seat.fresh || rules.is_confirmed_always() {
            self.confirm(rules);
        }
        let columns = rules.fit(question.row.shape()).visible.clone();
        match (&rules.standing, columns) {
            (Standing::Refused(_), _) => self.counts.refused += 1,
            (Standing::Nothing { .. } | Standing::NoPolicy, _) | (_, None) => {
                self.counts.hidden += 1
            }
            (Standing::Privileges, Some(columns)) => {
                self.counts.visible += 1;
                self.answers
                    .set(place.0, place.1, Verdict::Visible(columns));
            }
            (Standing::Policies(_), Some(columns)) => {
                if !self.decide(place, seat, &columns) && !self.follow(place, seat) {
                    self.send(place, viewer, rules, columns, closed());
                }
            }
        }
    }

    /// By a formula, if there is one for the viewer and the row.
    fn decide(&mut self, place: (usize, usize), seat: &Seat, columns: &Arc<ColumnSet>) -> bool {
        let Some((group, prepared)) = seat.group.as_ref().filter(|(group, _)| group.fits) else {
            return false;
        };
        let Ok(formula) = &prepared.formula else {
            return false;
        };
        let batch = self.batch;
        let row = self
            .rows
            .entry((place.0, seat.rules.id))
            .or_insert_with(|| {
                let question = batch.questions.get(place.0)?;
                seat.rules.cells_for(formula, &question.row)
            });
        let Some(cells) = row else { return false };
        match formula.holds(cells, &group.values) {
            Some(true) => {
                self.counts.index_visible += 1;
                self.answers
                    .set(place.0, place.1, Verdict::Visible(columns.clone()));
            }
            _ => self.counts.index_hidden += 1,
        }
        true
    }

    /// Whether another viewer of its group is asked already.
    fn follow(&mut self, place: (usize, usize), seat: &Seat) -> bool {
        let Some((group, _)) = &seat.group else {
            return false;
        };
        let key = (place.0, seat.rules.id, group.id);
        match self.leaders.entry(key) {
            Entry::Occupied(leader) => {
                let leader = *leader.get();
                self.followers.push(Following { leader, place });
                true
            }
            Entry::Vacant(free) => {
                free.insert(place);
                false
            }
        }
    }

    fn send(
        &mut self,
        place: (usize, usize),
        viewer: u32,
        rules: &Arc<Rules>,
        visible: Arc<ColumnSet>,
        closed: bool,
    ) {
        if closed {
            return self.open(place, "timeout");
        }
        let Some(question) = self.batch.questions.get(place.0) else {
            return;
        };
        let Some(image) = self.image(place.0, rules) else {
            *self.counts.errors.entry("encoding").or_default() += 1;
            return;
        };
        let ask = Ask {
            question: place.0,
            nth: place.1,
            version: question.version,
            image,
            visible,
        };
        self.judge(viewer, rules, ask);
    }

    /// With its units in order.
    pub(crate) fn finish(mut self) -> Plan<'a> {
        self.units = std::mem::take(&mut self.gathered).sorted();
        self
    }

    fn judge(&mut self, viewer: u32, rules: &Arc<Rules>, mut ask: Ask) {
        let Standing::Policies(policies) = &rules.standing else {
            return;
        };
        let mode = if policies.judges_without(&ask.image.lacking) {
            Mode::Image
        } else if let Some(mode) = ask.by_key(policies) {
            mode
        } else {
            self.counts.unknown += 1;
            self.answers.set(ask.question, ask.nth, Verdict::Unknown);
            return;
        };
        let xid = self
            .batch
            .questions
            .get(ask.question)
            .and_then(|question| question.xid);
        if let Some(xid) = xid.filter(|_| policies.reaches_out || mode != Mode::Image) {
            if self.unseen.contains(&xid) {
                return self.open((ask.question, ask.nth), "visibility");
            }
            self.xids.insert(xid);
        }
        if let Some(asking) = self.batch.viewers.get(viewer as usize) {
            self.gathered.add(viewer, asking, rules, mode, ask);
        }
    }

    fn image(&mut self, at: usize, rules: &Arc<Rules>) -> Option<Arc<Image>> {
        let row = &self.batch.questions.get(at)?.row;
        let make = || rules.fit(row.shape()).image(row).map(Arc::new);
        self.images
            .entry((at, rules.id))
            .or_insert_with(make)
            .clone()
    }

    pub(crate) fn confirm(&mut self, rules: &Arc<Rules>) {
        if self.confirmed.insert(rules.id) {
            self.confirm.push(rules.clone());
        }
    }

    /// Nobody knows.
    fn open(&mut self, place: (usize, usize), kind: &'static str) {
        self.answers.set(place.0, place.1, Verdict::Unjudged);
        self.counts.unjudged += 1;
        *self.counts.errors.entry(kind).or_default() += 1;
    }
}

/// Hands the leaders' verdicts to those who follow. How many of them are visible, and not.
pub(crate) fn spread(followers: &[Following], answers: &mut Answers) -> (u64, u64) {
    let (mut visible, mut hidden) = (0, 0);
    for Following { leader, place } in followers {
        let verdict = answers.verdict(leader.0, leader.1).clone();
        match verdict {
            Verdict::Visible(_) => visible += 1,
            _ => hidden += 1,
        }
        answers.set(place.0, place.1, verdict);
    }
    (visible, hidden)
}

impl PlanCounts {
    pub(crate) fn enter(&self, counters: &Counters) {
        counters.verdicts(Tier::Privileges, true, self.visible);
        counters.verdicts(Tier::Privileges, false, self.hidden);
        counters.verdicts(Tier::Index, true, self.index_visible);
        counters.verdicts(Tier::Index, false, self.index_hidden);
        counters.unknown(self.unknown);
        counters.unjudged(self.unjudged);
        counters.refused(self.refused);
        for (kind, verdicts) in &self.errors {
            counters.errors(kind, *verdicts);
        }
    }
}
