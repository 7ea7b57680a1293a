//! A batch of changes on its way to its viewers: what row-level security has to be asked, and what
//! its answers come to.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Change, ColumnSet, Operation, Row};
use walcast_hub::{Audience, Group, Outbox, Pushed, Seen, View};
use walcast_pgoutput::Xid;
use walcast_protocol::{Codec, Delivery};
use walcast_rls::{Answers, Batch, Question, Verdict, Version};
use walcast_websocket::{OpCode, frame};

/// Changes that somebody subscribed to, with the questions about them. Bounded by the pipeline.
#[derive(Default)]
pub(crate) struct Plan {
    pub(crate) batch: Batch,
    changes: Vec<Planned>,
    /// From the audience's number of a viewer to the batch's.
    viewers: HashMap<u32, u32>,
    bytes: usize,
    pairs: usize,
}

struct Planned {
    change: Change,
    groups: Vec<Asked>,
}

/// One group of subscriptions and what was asked for it about one change.
struct Asked {
    group: u32,
    viewer: u32,
    new: Asking,
    old: Asking,
}

/// What there is to know of one version of a row for one group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asking {
    /// There is no such version, or the filter does not select it.
    No,
    /// The filter's column was not sent.
    Unknown,
    /// The answer to this question, as the n-th of its viewers.
    Answer { question: usize, nth: usize },
}

/// What was answered about a plan.
#[derive(Default)]
pub(crate) struct Verdicts {
    pub(crate) answers: Answers,
    /// For each truncation, by its place in the plan, whether each group may hear of it.
    pub(crate) truncations: HashMap<usize, Vec<bool>>,
}

/// What was delivered, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) frames: u64,
    pub(crate) deliveries: u64,
}

impl Plan {
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn last(&self) -> Option<&Change> {
        self.changes.last().map(|planned| &planned.change)
    }

    /// The rows of the changes, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Changes times groups of subscriptions: what judging and publishing will cost.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Adds a change if somebody may want it.
    pub(crate) fn add(&mut self, change: Change, audience: &Audience) {
        let mut groups = Vec::new();
        let mut new = Image::new(&change, Version::New);
        let mut old = Image::new(&change, Version::Old);
        for (number, group) in audience.groups(&change.shape) {
            let asked = if matches!(change.operation, Operation::Truncate) {
                (Asking::No, Asking::No)
            } else {
                let viewer = self.viewer(group.viewer, audience);
                let questions = &mut self.batch.questions;
                (
                    new.ask(group, viewer, questions),
                    old.ask(group, viewer, questions),
                )
            };
            if matches!(change.operation, Operation::Truncate) || asked != (Asking::No, Asking::No)
            {
                groups.push(Asked {
                    group: number,
                    viewer: group.viewer,
                    new: asked.0,
                    old: asked.1,
                });
            }
        }
        if !groups.is_empty() {
            self.bytes += change.size_bytes();
            self.pairs += groups.len();
            self.changes.push(Planned { change, groups });
        }
    }

    fn viewer(&mut self, number: u32, audience: &Audience) -> u32 {
        let viewers = &mut self.batch.viewers;
        *self.viewers.entry(number).or_insert_with(|| {
            let viewer = audience
                .viewer(number)
                .expect("a group's viewer is among the viewers");
            viewers.push(viewer.clone());
            (viewers.len() - 1) as u32
        })
    }

    /// The tables that were truncated, each with the viewers (the audience's numbers) to ask about.
    pub(crate) fn truncations(&self) -> impl Iterator<Item = (usize, &Change, Vec<u32>)> {
        let numbered = self.changes.iter().enumerate();
        let truncated =
            numbered.filter(|(_, planned)| matches!(planned.change.operation, Operation::Truncate));
        truncated.map(|(at, planned)| {
            let viewers = planned.groups.iter().map(|asked| asked.viewer).collect();
            (at, &planned.change, viewers)
        })
    }

    /// Hands the groups what they may see of the `at`-th change; outboxes that are getting full are
    /// added to `crowded`.
    pub(crate) fn publish(
        &self,
        at: usize,
        verdicts: &Verdicts,
        audience: &Audience,
        codec: &dyn Codec,
        crowded: &mut Vec<Arc<Outbox>>,
    ) -> Published {
        let mut published = Published::default();
        let Some(planned) = self.changes.get(at) else {
            return published;
        };
        let mut frames = Frames {
            change: &planned.change,
            codec,
            made: HashMap::new(),
        };
        for (nth, asked) in planned.groups.iter().enumerate() {
            let Some(group) = audience.group(asked.group) else {
                continue;
            };
            let view = match planned.change.operation {
                Operation::Truncate => {
                    let allowed = verdicts
                        .truncations
                        .get(&at)
                        .and_then(|allowed| allowed.get(nth));
                    (allowed == Some(&true)).then_some(View::Truncate)
                }
                _ => planned.view(asked, group, &verdicts.answers),
            };
            let Some(view) = view.filter(|view| group.spec.events.contains(view.event())) else {
                continue;
            };
            let frame = frames.get(group, view);
            for outbox in group.outboxes() {
                match outbox.push(frame.clone()) {
                    Pushed::Queued => published.deliveries += 1,
                    Pushed::Crowded => {
                        published.deliveries += 1;
                        crowded.push(outbox.clone());
                    }
                    Pushed::Closed => {}
                }
            }
        }
        published.frames += frames.made.len() as u64;
        published
    }
}

impl Planned {
    fn view(&self, asked: &Asked, group: &Group, answers: &Answers) -> Option<View> {
        let new = seen(asked.new, self.change.new(), group, answers);
        let old = match self.change.old() {
            // Without an old image (no replica identity FULL) nobody can tell what was seen before.
            None => Seen::Unknown,
            row => seen(asked.old, row, group, answers),
        };
        View::of(&self.change.operation, new, old)
    }
}

fn seen(asking: Asking, row: Option<&Row>, group: &Group, answers: &Answers) -> Seen {
    match asking {
        Asking::No => Seen::No,
        Asking::Unknown => Seen::Unknown,
        Asking::Answer { question, nth } => match answers.verdict(question, nth) {
            Verdict::Visible(columns) if reads_filter(group, row, columns) => {
                Seen::Yes(columns.clone())
            }
            Verdict::Visible(_) | Verdict::Hidden => Seen::No,
            Verdict::Unknown => Seen::Unknown,
        },
    }
}

/// A filter on a column that the viewer may not read would tell its value.
fn reads_filter(group: &Group, row: Option<&Row>, columns: &ColumnSet) -> bool {
    match (&group.spec.filter, row) {
        (Some(filter), Some(row)) => row
            .shape()
            .column(filter.column())
            .is_some_and(|index| columns.contains(index)),
        _ => true,
    }
}

/// One version of the changed row while its question is put together.
struct Image<'a> {
    row: Option<&'a Row>,
    version: Version,
    xid: Xid,
    question: Option<usize>,
    /// The batch's number of a viewer → its place in the question.
    asked: HashMap<u32, usize>,
}

impl<'a> Image<'a> {
    fn new(change: &'a Change, version: Version) -> Image<'a> {
        let row = match version {
            Version::New => change.new(),
            Version::Old => change.old(),
        };
        Image {
            row,
            version,
            xid: change.xid,
            question: None,
            asked: HashMap::new(),
        }
    }

    fn ask(&mut self, group: &Group, viewer: u32, questions: &mut Vec<Question>) -> Asking {
        let Some(row) = self.row else {
            return Asking::No;
        };
        match group
            .spec
            .filter
            .as_ref()
            .map_or(Some(true), |filter| filter.selects(row))
        {
            Some(false) => return Asking::No,
            None => return Asking::Unknown,
            Some(true) => {}
        }
        let question = *self.question.get_or_insert_with(|| {
            let viewers = Vec::new();
            let (version, xid) = (self.version, Some(self.xid));
            questions.push(Question {
                row: row.clone(),
                version,
                xid,
                viewers,
            });
            questions.len() - 1
        });
        let nth = *self.asked.entry(viewer).or_insert_with(|| {
            let viewers = &mut questions[question].viewers;
            viewers.push(viewer);
            viewers.len() - 1
        });
        Asking::Answer { question, nth }
    }
}

/// The frames of one change: one for each class of subscriptions, shared by all of it.
struct Frames<'a> {
    change: &'a Change,
    codec: &'a dyn Codec,
    made: HashMap<(u8, Arc<str>, View), Bytes>,
}

impl Frames<'_> {
    fn get(&mut self, group: &Group, view: View) -> Bytes {
        let (change, codec) = (self.change, self.codec);
        let key = (group.spec.format, group.spec.channel.clone(), view);
        let made = self
            .made
            .entry(key)
            .or_insert_with_key(|(format, channel, view)| {
                let mut payload = Vec::with_capacity(256 + 2 * change.size_bytes());
                codec.delivery(
                    &Delivery {
                        change,
                        view,
                        channel,
                        format: *format,
                    },
                    &mut payload,
                );
                frame(OpCode::Text, &payload)
            });
        made.clone()
    }
}
