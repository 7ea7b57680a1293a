//! A batch whose tables are judged one by one, because one of them does not stand still.

use std::collections::HashMap;

use super::{ATTEMPTS_MAX, Given, PostgresCheck};
use crate::{Answers, Batch, Question, Sighting, Wants};

/// Times that tables are begun anew together, before one that is altered again and again is left to
/// itself: what it costs is not the others' to wait for, nor are their rows to go unjudged.
const TOGETHER_MAX: usize = 3;

/// The places of each table's questions, in the order of the first.
fn by_table(questions: &[Question]) -> Vec<Vec<usize>> {
    let mut tables: Vec<Vec<usize>> = Vec::new();
    let mut known: HashMap<u32, usize> = HashMap::new();
    for (at, question) in questions.iter().enumerate() {
        let table = *known
            .entry(question.row.shape().id.0)
            .or_insert(tables.len());
        match tables.get_mut(table) {
            Some(places) => places.push(at),
            None => tables.push(vec![at]),
        }
    }
    tables
}

fn pick(questions: &[Question], places: &[usize]) -> Vec<Question> {
    let picked = places.iter().filter_map(|at| questions.get(*at));
    picked.cloned().collect()
}

impl PostgresCheck {
    pub(super) async fn judge(&mut self, batch: &Batch) -> Answers {
        let tables = by_table(&batch.questions);
        if tables.len() < 2 {
            return self.judge_table(batch).await;
        }
        match self.judge_together(batch, TOGETHER_MAX).await {
            Ok(answers) => return answers,
            Err(Given::Up(kind)) => return self.unjudged(batch, kind),
            Err(Given::Changing) => {}
        }
        let mut answers = Answers::hidden(batch);
        for places in tables {
            let part = Batch {
                viewers: batch.viewers.clone(),
                questions: pick(&batch.questions, &places),
            };
            let found = self.judge_table(&part).await;
            for (nth, (at, question)) in places.iter().zip(&part.questions).enumerate() {
                for viewer in 0..question.viewers.len() {
                    answers.set(*at, viewer, found.verdict(nth, viewer).clone());
                }
            }
        }
        answers
    }

    async fn judge_table(&mut self, batch: &Batch) -> Answers {
        match self.judge_together(batch, ATTEMPTS_MAX).await {
            Ok(answers) => answers,
            Err(given) => self.unjudged(batch, given.kind()),
        }
    }

    pub(super) async fn judge_sweep(
        &mut self,
        questions: &[Question],
        wants: &Wants<'_>,
    ) -> Vec<Vec<Sighting>> {
        let tables = by_table(questions);
        if tables.len() < 2 {
            return self.sweep_table(questions, wants).await;
        }
        match self.sweep_together(questions, wants, TOGETHER_MAX).await {
            Ok(found) => return found,
            Err(Given::Up(kind)) => return self.everybody_unjudged(questions, kind),
            Err(Given::Changing) => {}
        }
        let mut sightings: Vec<Vec<Sighting>> = vec![Vec::new(); questions.len()];
        for places in tables {
            let part = pick(questions, &places);
            let wants = |nth: usize, viewer| places.get(nth).is_some_and(|at| wants(*at, viewer));
            let found = self.sweep_table(&part, &wants).await;
            for (at, found) in places.iter().zip(found) {
                if let Some(place) = sightings.get_mut(*at) {
                    *place = found;
                }
            }
        }
        sightings
    }

    async fn sweep_table(
        &mut self,
        questions: &[Question],
        wants: &Wants<'_>,
    ) -> Vec<Vec<Sighting>> {
        match self.sweep_together(questions, wants, ATTEMPTS_MAX).await {
            Ok(found) => found,
            Err(given) => self.everybody_unjudged(questions, given.kind()),
        }
    }
}
