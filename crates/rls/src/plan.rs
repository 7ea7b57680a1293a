//! What a batch comes to: verdicts that need no statement, and units that do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use walcast_pgoutput::Xid;

use crate::rules::{Image, Rules, Standing};
use crate::unit::{Ask, Mode, Unit, Units};
use crate::{Answers, Batch, Counters, Tier, Verdict, Version};

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
    pub(crate) counts: PlanCounts,
}

/// What is counted once the plan is carried out.
#[derive(Debug, Default)]
pub(crate) struct PlanCounts {
    visible: u64,
    hidden: u64,
    unknown: u64,
    refused: u64,
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
            counts: PlanCounts::default(),
        }
    }

    /// Adds one verdict. `place`: the question, and which of its viewers. `fresh`: the rules are
    /// young enough to count without a look at the catalogue. `closed`: the viewer takes too long.
    pub(crate) fn ask(
        &mut self,
        place: (usize, usize),
        viewer: u32,
        rules: &Arc<Rules>,
        fresh: bool,
        closed: bool,
    ) {
        let Some(question) = self.batch.questions.get(place.0) else {
            return;
        };
        if !fresh || rules.is_confirmed_always() {
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
            (Standing::Policies(_), Some(_)) if closed => self.error("timeout"),
            (Standing::Policies(_), Some(columns)) => {
                let Some(image) = self.image(place.0, rules) else {
                    return self.error("encoding");
                };
                let ask = Ask {
                    question: place.0,
                    nth: place.1,
                    version: question.version,
                    image,
                    visible: columns,
                };
                self.judge(viewer, rules, ask);
            }
        }
    }

    /// With its units in order.
    pub(crate) fn finish(mut self) -> Plan<'a> {
        self.units = std::mem::take(&mut self.gathered).sorted();
        self
    }

    fn judge(&mut self, viewer: u32, rules: &Arc<Rules>, ask: Ask) {
        let Standing::Policies(policies) = &rules.standing else {
            return;
        };
        let mode = if policies.judges_without(&ask.image.lacking) {
            Mode::Image
        } else if ask.version == Version::New && policies.keys_without(&ask.image.lacking) {
            Mode::Key(ask.image.lacking.clone())
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
                return self.error("visibility");
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

    fn confirm(&mut self, rules: &Arc<Rules>) {
        if self.confirmed.insert(rules.id) {
            self.confirm.push(rules.clone());
        }
    }

    fn error(&mut self, kind: &'static str) {
        *self.counts.errors.entry(kind).or_default() += 1;
    }
}

impl PlanCounts {
    pub(crate) fn enter(&self, counters: &Counters) {
        counters.verdicts(Tier::Privileges, true, self.visible);
        counters.verdicts(Tier::Privileges, false, self.hidden);
        counters.unknown(self.unknown);
        counters.refused(self.refused);
        for (kind, verdicts) in &self.errors {
            counters.errors(kind, *verdicts);
        }
    }
}
