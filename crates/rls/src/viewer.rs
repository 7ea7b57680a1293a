//! Who asks, what about, and the answers.

use std::fmt;
use std::sync::Arc;

use walcast_change::{ColumnSet, Row, Shape};
use walcast_pgoutput::Xid;

/// Somebody on whose behalf rows are judged. Equal viewers share every verdict.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Viewer {
    pub role: Arc<str>,
    /// A JSON object: what a policy finds in `request.jwt.claims`.
    pub claims: Arc<str>,
}

impl fmt::Debug for Viewer {
    /// Without the claims: they are personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Viewer")
            .field("role", &self.role)
            .finish_non_exhaustive()
    }
}

/// Which version of a changed row an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// In the table now, unless a later change took it away: what the image lacks may be read there.
    New,
    /// Gone: only the image can be judged.
    Old,
}

/// One version of a row, and who wants to see it.
#[derive(Clone, Debug)]
pub struct Question {
    pub row: Row,
    pub version: Version,
    /// The transaction that made the change. A policy that reads other tables is asked only once
    /// that transaction is visible to other sessions, which may be later than its arrival here.
    /// `None`: nothing to wait for.
    pub xid: Option<Xid>,
    /// Indexes into [`Batch::viewers`], of those only that want this row judged.
    pub viewers: Vec<u32>,
    /// The numbers of the watching viewers that [`RowCheck::sweep`] is to answer for, growing, each
    /// once; `None`: all.
    pub among: Option<Arc<[u32]>>,
}

impl Question {
    /// Whether a watching viewer is to have an answer.
    pub fn concerns(&self, viewer: u32) -> bool {
        let among = self.among.as_ref();
        among.is_none_or(|among| among.binary_search(&viewer).is_ok())
    }
}

/// Questions that are answered together, in one round trip where possible.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// Each once.
    pub viewers: Vec<Viewer>,
    pub questions: Vec<Question>,
}

/// What a viewer may see of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: by the policies or privileges, or because the policies fail for the row.
    Hidden,
    /// Nothing, and nobody knows whether rightly: the check itself failed (no session, a lock, a
    /// timeout, a transaction that does not become visible). What the viewer is shown has a gap.
    Unjudged,
    /// Nothing: Postgres did not send enough of the row for its policies to be judged.
    Unknown,
    /// These columns (positions in the row's shape).
    Visible(Arc<ColumnSet>),
}

/// One verdict for each viewer of each question. Whatever was not answered is hidden.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Where a question's verdicts start; the next one's start is their end.
    starts: Vec<usize>,
    verdicts: Vec<Verdict>,
}

impl Answers {
    /// Nothing is visible yet.
    pub fn hidden(batch: &Batch) -> Answers {
        Answers::all(batch, Verdict::Hidden)
    }

    pub(crate) fn all(batch: &Batch, verdict: Verdict) -> Answers {
        let mut starts = Vec::with_capacity(batch.questions.len() + 1);
        let mut total = 0;
        for question in &batch.questions {
            starts.push(total);
            total += question.viewers.len();
        }
        starts.push(total);
        Answers {
            starts,
            verdicts: vec![verdict; total],
        }
    }

    /// The columns that the `nth` of the question's viewers may see; `None`: not even the row.
    pub fn get(&self, question: usize, nth: usize) -> Option<&Arc<ColumnSet>> {
        match self.verdict(question, nth) {
            Verdict::Visible(columns) => Some(columns),
            Verdict::Hidden | Verdict::Unjudged | Verdict::Unknown => None,
        }
    }

    pub fn verdict(&self, question: usize, nth: usize) -> &Verdict {
        let place = self.place(question, nth);
        place
            .and_then(|place| self.verdicts.get(place))
            .unwrap_or(&Verdict::Hidden)
    }

    /// For implementations of [`RowCheck`].
    pub fn set(&mut self, question: usize, nth: usize, verdict: Verdict) {
        let place = self.place(question, nth);
        if let Some(found) = place.and_then(|place| self.verdicts.get_mut(place)) {
            *found = verdict;
        }
    }

    fn place(&self, question: usize, nth: usize) -> Option<usize> {
        let start = *self.starts.get(question)?;
        let end = *self.starts.get(question + 1)?;
        Some(start + nth).filter(|place| *place < end)
    }
}

/// A watching viewer and what it may see of a row; never [`Verdict::Hidden`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// The number that it watches under.
    pub viewer: u32,
    pub verdict: Verdict,
}

/// Whether the viewer with this number cares for the answer to a question (by its place).
pub type Wants<'w> = dyn Fn(usize, u32) -> bool + Sync + 'w;

/// Judges rows. The seam between the pipeline and the ways to judge: Postgres, or a table of answers.
pub trait RowCheck: Send {
    /// Never fails: what can't be judged is not visible, and counted.
    fn check(&mut self, batch: &Batch) -> impl Future<Output = Answers> + Send;

    /// From now on [`RowCheck::sweep`] judges for this viewer: changes of a table, or of all tables
    /// of a schema. A number stands for one viewer while it watches anything.
    fn watch(&mut self, number: u32, viewer: &Viewer, schema: &str, table: Option<&str>);

    /// Undoes one [`RowCheck::watch`].
    fn unwatch(&mut self, number: u32, schema: &str, table: Option<&str>);

    /// For each question those of the watching viewers who see the row, or for whom it is not
    /// known ([`Verdict::Unknown`], [`Verdict::Unjudged`]); each once. If nothing could be judged at
    /// all, [`Verdict::Unjudged`] stands at each table's first question only, for all who watch it.
    /// [`Question::viewers`] is not read. `wants` is asked where each viewer costs
    /// something; who does not want an answer may get one.
    fn sweep(
        &mut self,
        questions: &[Question],
        wants: &Wants<'_>,
    ) -> impl Future<Output = Vec<Vec<Sighting>>> + Send;

    /// Does a portion of what a viewer's first change would have to wait for (what the policies make
    /// of its claims: some 10 ms a call). To be called between two batches while it says true: there
    /// was something to do. Leaving it out changes no verdict.
    fn prepare(&mut self) -> impl Future<Output = bool> + Send {
        std::future::ready(false)
    }

    /// How many viewers one change of the table costs something, about.
    fn cost(&self, shape: &Shape) -> usize;

    /// Which of `viewers` may know that something happened to the table as a whole (TRUNCATE), in
    /// their order. `None`: that can't be found out at the moment.
    fn table(
        &mut self,
        shape: &Arc<Shape>,
        viewers: &[Viewer],
    ) -> impl Future<Output = Vec<Option<bool>>> + Send;

    /// A table's shape, policies or grants may have changed: read them again before the next verdict.
    fn invalidate(&mut self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_hidden_unless_set() {
        let mut answers = Answers {
            starts: vec![0, 2, 2, 3],
            verdicts: vec![Verdict::Hidden; 3],
        };
        let columns = Arc::new(ColumnSet::all(2));
        answers.set(0, 1, Verdict::Visible(columns.clone()));
        answers.set(0, 2, Verdict::Visible(columns.clone())); // outside: not question 2's
        answers.set(9, 0, Verdict::Visible(columns.clone()));
        let seen: Vec<_> = [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (3, 0)]
            .map(|(question, nth)| answers.get(question, nth).is_some())
            .into();
        assert_eq!(seen, [false, true, false, false, false, false]);
    }

    #[test]
    fn a_viewers_debug_text_has_no_claims() {
        let viewer = Viewer {
            role: "anon".into(),
            claims: r#"{"email":"a@b"}"#.into(),
        };
        assert!(!format!("{viewer:?}").contains("a@b"));
    }
}
