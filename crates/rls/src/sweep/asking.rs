//! What a sweep asks Postgres viewer by viewer, or one viewer for all that are as one with it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::roster::Roster;
use crate::rules::Rules;
use crate::{Answers, Batch, Question, Sighting, Verdict, Wants};

/// A batch, with the numbers of its viewers.
#[derive(Default)]
pub(super) struct Asking {
    pub(super) batch: Batch,
    numbers: Vec<u32>,
    places: HashMap<u32, u32>,
    asked: Vec<Asked>,
}

/// A question of the batch.
struct Asked {
    /// Its place in the sweep.
    question: usize,
    /// Each viewer answers for its group under these rules.
    leaders_of: Option<Arc<Rules>>,
}

/// Members of a group that are asked whether they want an answer, before it is fetched anyway.
const WANTS_MAX: usize = 16;

impl Asking {
    /// Each of these viewers, for itself.
    pub(super) fn each(
        &mut self,
        roster: &Roster,
        at: usize,
        question: &Question,
        viewers: impl IntoIterator<Item = u32>,
    ) {
        self.add(roster, at, question, viewers, None);
    }

    /// A role's viewers who want it: one of each group for all of it, where groups are known.
    pub(super) fn groups(
        &mut self,
        roster: &mut Roster,
        at: usize,
        question: &Question,
        rules: &Arc<Rules>,
        wants: &Wants<'_>,
    ) {
        let shape = question.row.shape();
        let Some(index) = roster.index(shape, rules) else {
            let all = roster.members(shape, &rules.role).into_iter();
            let wanting = all.filter(|viewer| wants(at, *viewer));
            return self.each(roster, at, question, wanting);
        };
        let wanting = |mut members: Box<dyn Iterator<Item = u32> + '_>| {
            let first = members.next()?;
            let wanted = wants(at, first) || {
                let mut others = members.by_ref().take(WANTS_MAX);
                others.any(|viewer| wants(at, viewer)) || members.next().is_some()
            };
            wanted.then_some(first)
        };
        let leaders: Vec<u32> = index.each_group().filter_map(wanting).collect();
        let odd: Vec<u32> = index.odd().filter(|viewer| wants(at, *viewer)).collect();
        self.add(roster, at, question, leaders, Some(rules.clone()));
        self.add(roster, at, question, odd, None);
    }

    fn add(
        &mut self,
        roster: &Roster,
        at: usize,
        question: &Question,
        viewers: impl IntoIterator<Item = u32>,
        leaders_of: Option<Arc<Rules>>,
    ) {
        let places = viewers
            .into_iter()
            .filter_map(|number| self.place(roster, number));
        let viewers: Vec<u32> = places.collect();
        if viewers.is_empty() {
            return;
        }
        self.asked.push(Asked {
            question: at,
            leaders_of,
        });
        self.batch.questions.push(Question {
            row: question.row.clone(),
            version: question.version,
            xid: question.xid,
            viewers,
            among: None,
        });
    }

    fn place(&mut self, roster: &Roster, number: u32) -> Option<u32> {
        if let Some(place) = self.places.get(&number) {
            return Some(*place);
        }
        let viewer = roster.viewer(number)?;
        let place = self.numbers.len() as u32;
        self.numbers.push(number);
        self.batch.viewers.push(viewer.clone());
        self.places.insert(number, place);
        Some(place)
    }

    /// Adds what was answered to what was found.
    pub(super) fn enter(
        &self,
        answers: &Answers,
        roster: &mut Roster,
        found: &mut [Vec<Sighting>],
    ) {
        let asked = self.asked.iter().zip(&self.batch.questions).enumerate();
        for (at, (asked, question)) in asked {
            let Some(sightings) = found.get_mut(asked.question) else {
                continue;
            };
            for (nth, place) in question.viewers.iter().enumerate() {
                let verdict = answers.verdict(at, nth);
                let Some(viewer) = self.numbers.get(*place as usize).copied() else {
                    continue;
                };
                if *verdict == Verdict::Hidden {
                    continue;
                }
                let rules = asked.leaders_of.as_ref();
                let index = rules.and_then(|rules| roster.index(question.row.shape(), rules));
                let all = index.and_then(|index| index.as_one_with(viewer));
                let sighting = |viewer| Sighting {
                    viewer,
                    verdict: verdict.clone(),
                };
                match all {
                    Some(all) => sightings.extend(all.map(sighting)),
                    None => sightings.push(sighting(viewer)),
                }
            }
        }
    }
}
