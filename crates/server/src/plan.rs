//! A batch of changes on its way to its viewers: what row-level security has to be asked, and what
//! its answers come to.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Change, ColumnSet, Epoch, Operation, Row, Shape};
use walcast_hub::{Audience, Group, Outbox, Pushed, Seen, View};
use walcast_pgoutput::Xid;
use walcast_protocol::{Delivery, codec_of};
use walcast_rls::{Question, Sighting, Verdict, Version};
use walcast_websocket::{OpCode, frame};

/// Changes that somebody subscribed to, with the questions about them. Bounded by the pipeline.
#[derive(Default)]
pub(crate) struct Plan {
    /// Whoever subscribed is asked about, so nobody is named.
    pub(crate) questions: Vec<Question>,
    changes: Vec<Planned>,
    bytes: usize,
    pairs: usize,
}

struct Planned {
    change: Change,
    /// The questions about the new and the old version, where there is one.
    new: Option<usize>,
    old: Option<usize>,
    /// Who is to hear of a truncation: groups, and their viewers.
    groups: Vec<(u32, u32)>,
}

/// What was answered about a plan.
#[derive(Default)]
pub(crate) struct Verdicts {
    /// For each question those for whom it is not "hidden".
    pub(crate) sightings: Vec<Vec<Sighting>>,
    /// For each truncation, by its place in the plan, whether each group may hear of it;
    /// `None`: nobody knows.
    pub(crate) truncations: HashMap<usize, Vec<Option<bool>>>,
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

    /// Changes times viewers that cost something: what judging and publishing will cost.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Adds a change that somebody subscribed to. `cost`: how many viewers it costs something.
    pub(crate) fn add(&mut self, change: Change, audience: &Audience, cost: usize) {
        let mut planned = Planned {
            new: None,
            old: None,
            groups: Vec::new(),
            change,
        };
        if matches!(planned.change.operation, Operation::Truncate) {
            let groups = audience.groups(&planned.change.shape);
            planned.groups = groups
                .map(|(number, group)| (number, group.viewer))
                .collect();
        } else {
            let xid = planned.change.xid;
            planned.new = self.ask(planned.change.new(), Version::New, xid, audience);
            planned.old = self.ask(planned.change.old(), Version::Old, xid, audience);
        }
        self.bytes += planned.change.size_bytes();
        self.pairs += match self.asked_of(&planned) {
            Some(candidates) => cost.min(candidates),
            None => cost.max(planned.groups.len()),
        };
        self.changes.push(planned);
    }

    /// Whoever can't have a filter that selects the row is not asked about: the row would be out of
    /// its sight, whatever the answer.
    fn ask(
        &mut self,
        row: Option<&Row>,
        version: Version,
        xid: Xid,
        audience: &Audience,
    ) -> Option<usize> {
        let row = row?;
        self.questions.push(Question {
            row: row.clone(),
            version,
            xid: Some(xid),
            viewers: Vec::new(),
            among: audience.candidates(row),
        });
        Some(self.questions.len() - 1)
    }

    /// How many viewers the questions about a change are about, if they name them.
    fn asked_of(&self, planned: &Planned) -> Option<usize> {
        let asked = [planned.new, planned.old].into_iter().flatten();
        let mut asked = asked
            .filter_map(|question| self.questions.get(question))
            .peekable();
        asked.peek()?;
        asked
            .map(|question| question.among.as_ref().map(|among| among.len()))
            .sum()
    }

    /// Whether one of the viewer's subscriptions selects the row that a question is about.
    pub(crate) fn wants(&self, question: usize, viewer: u32, audience: &Audience) -> bool {
        let Some(question) = self.questions.get(question) else {
            return false;
        };
        audience
            .groups_of(viewer, question.row.shape())
            .any(|group| selects(group, &question.row) == Some(true))
    }

    /// The tables that were truncated, each with the viewers (the audience's numbers) to ask about.
    pub(crate) fn truncations(&self) -> impl Iterator<Item = (usize, &Change, Vec<u32>)> {
        let numbered = self.changes.iter().enumerate();
        let truncated =
            numbered.filter(|(_, planned)| matches!(planned.change.operation, Operation::Truncate));
        truncated.map(|(at, planned)| {
            let viewers = planned.groups.iter().map(|(_, viewer)| *viewer).collect();
            (at, &planned.change, viewers)
        })
    }

    /// The table that all changes are of, if there is one.
    pub(crate) fn only_table(&self) -> Option<&Arc<Shape>> {
        let first = &self.changes.first()?.change.shape;
        let mut all = self.changes.iter();
        all.all(|planned| planned.change.shape.id == first.id)
            .then_some(first)
    }

    /// The viewers of whom nobody knows what they may see, each with the table.
    pub(crate) fn unjudged(&self, verdicts: &Verdicts) -> Vec<(u32, Arc<Shape>)> {
        let mut unjudged = Vec::new();
        for (question, sightings) in self.questions.iter().zip(&verdicts.sightings) {
            for sighting in sightings {
                if matches!(sighting.verdict, Verdict::Unjudged) {
                    unjudged.push((sighting.viewer, question.row.shape().clone()));
                }
            }
        }
        for (at, allowed) in &verdicts.truncations {
            let Some(planned) = self.changes.get(*at) else {
                continue;
            };
            for ((_, viewer), allowed) in planned.groups.iter().zip(allowed) {
                if allowed.is_none() {
                    unjudged.push((*viewer, planned.change.shape.clone()));
                }
            }
        }
        unjudged
    }

    /// Hands the groups what they may see of the `at`-th change; outboxes that are getting full are
    /// added to `crowded`.
    pub(crate) fn publish(
        &self,
        at: usize,
        verdicts: &Verdicts,
        audience: &Audience,
        epoch: Epoch,
        crowded: &mut Vec<Arc<Outbox>>,
    ) -> Published {
        let mut published = Published::default();
        let Some(planned) = self.changes.get(at) else {
            return published;
        };
        let mut frames = Frames {
            change: &planned.change,
            epoch,
            made: HashMap::new(),
        };
        let mut hand_out = |group: &Group, view: Option<View>| {
            let wanted = view.filter(|view| group.spec.events.contains(view.event()));
            let Some(view) = wanted else { return };
            let view = match &group.spec.columns {
                None => view,
                Some(asked) => view.of_columns(&asked_for(asked, &planned.change.shape)),
            };
            let frame = frames.get(group, view);
            for member in group.members() {
                match member.push(&planned.change, frame.clone()) {
                    Pushed::Queued => published.deliveries += 1,
                    Pushed::Crowded => {
                        published.deliveries += 1;
                        crowded.push(member.outbox.clone());
                    }
                    Pushed::Closed => {}
                }
            }
        };
        let allowed = verdicts.truncations.get(&at);
        for (nth, (number, _)) in planned.groups.iter().enumerate() {
            let allowed = allowed.and_then(|allowed| allowed.get(nth)) == Some(&Some(true));
            if let Some(group) = audience.group(*number) {
                hand_out(group, allowed.then_some(View::Truncate));
            }
        }
        for (viewer, sight) in planned.seeing(verdicts) {
            for group in audience.groups_of(viewer, &planned.change.shape) {
                hand_out(group, planned.view(group, &sight));
            }
        }
        published.frames += frames.made.len() as u64;
        published
    }
}

/// What row-level security lets a viewer see of a change. `None`: nothing.
#[derive(Default)]
struct Sight<'v> {
    new: Option<&'v Verdict>,
    old: Option<&'v Verdict>,
}

impl Planned {
    /// The viewers who see something of the change, or for whom that is not known.
    fn seeing<'v>(&self, verdicts: &'v Verdicts) -> HashMap<u32, Sight<'v>> {
        let mut seeing: HashMap<u32, Sight<'v>> = HashMap::new();
        let sightings = |question: Option<usize>| {
            let found = question.and_then(|question| verdicts.sightings.get(question));
            found.into_iter().flatten()
        };
        for sighting in sightings(self.new) {
            seeing.entry(sighting.viewer).or_default().new = Some(&sighting.verdict);
        }
        for sighting in sightings(self.old) {
            seeing.entry(sighting.viewer).or_default().old = Some(&sighting.verdict);
        }
        seeing
    }

    fn view(&self, group: &Group, sight: &Sight<'_>) -> Option<View> {
        let new = match self.change.new() {
            None => Seen::No,
            Some(row) => seen(group, row, sight.new),
        };
        let old = match self.change.old() {
            // Without an old image (no replica identity FULL) nobody can tell what was seen before.
            None => Seen::Unknown,
            Some(row) => seen(group, row, sight.old),
        };
        View::of(&self.change.operation, new, old)
    }
}

fn seen(group: &Group, row: &Row, verdict: Option<&Verdict>) -> Seen {
    match (selects(group, row), verdict) {
        (Some(false), _) => Seen::No,
        (None, _) => Seen::Unknown,
        (Some(true), Some(Verdict::Visible(columns))) if reads_filter(group, row, columns) => {
            Seen::Yes(columns.clone())
        }
        (Some(true), Some(Verdict::Unknown)) => Seen::Unknown,
        (Some(true), _) => Seen::No,
    }
}

/// Whether the group's filter selects the row; `None`: its column was not sent.
fn selects(group: &Group, row: &Row) -> Option<bool> {
    let filter = group.spec.filter.as_ref();
    filter.map_or(Some(true), |filter| filter.selects(row))
}

/// The columns of a select list, and the key's.
fn asked_for(asked: &[Arc<str>], shape: &Shape) -> ColumnSet {
    let named = asked.iter().filter_map(|name| shape.column(name));
    named.chain(shape.key.iter()).collect()
}

/// A filter on a column that the viewer may not read would tell its value.
fn reads_filter(group: &Group, row: &Row, columns: &ColumnSet) -> bool {
    group.spec.filter.as_ref().is_none_or(|filter| {
        let mut read = filter.columns().map(|column| row.shape().column(column));
        read.all(|index| index.is_some_and(|index| columns.contains(index)))
    })
}

/// The frames of one change: one for each class of subscriptions, shared by all of it.
struct Frames<'a> {
    change: &'a Change,
    epoch: Epoch,
    made: HashMap<(u8, u32, Arc<str>, View), Bytes>,
}

impl Frames<'_> {
    fn get(&mut self, group: &Group, view: View) -> Bytes {
        let (change, epoch) = (self.change, self.epoch);
        let spec = &group.spec;
        let key = (spec.format, spec.tag, spec.channel.clone(), view);
        let made = self
            .made
            .entry(key)
            .or_insert_with_key(|(format, tag, channel, view)| {
                let mut payload = Vec::with_capacity(256 + 2 * change.size_bytes());
                codec_of(*format).delivery(
                    &Delivery {
                        change,
                        view,
                        epoch,
                        channel,
                        tag: *tag,
                        format: *format,
                    },
                    &mut payload,
                );
                frame(OpCode::Text, &payload)
            });
        made.clone()
    }
}
