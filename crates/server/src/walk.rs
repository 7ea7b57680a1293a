//! One walk through the log, from the oldest place that its members want to the present. All of
//! them share every read, every verdict and every frame, so thousands that come back at once cost
//! little more than one. Who would delay the others leaves it, at an exact place, and goes on in
//! another walk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use walcast_change::{Change, Cursor, Epoch, Position, Shape};
use walcast_hub::{Gate, Member, SubscriptionId};
use walcast_log::{History, Reader};
use walcast_protocol::Refusal;
use walcast_rls::{RowCheck, Viewer};

use crate::lane::Lane;
use crate::messages::is_message_table;
use crate::order::{Attached, Orders};
use crate::pace::Pace;
use crate::plan::Plan;
use crate::publisher::{BatchLimits, Publisher};
use crate::replay::{Changes, Word};
use crate::walker::{Walker, dismiss, lost, unavailable};

/// Between two looks whether somebody may go back to the pipeline.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

pub(crate) struct Walk<C> {
    pub(super) publisher: Publisher<C>,
    reader: Reader,
    pub(super) made_of: Parts,
    pub(super) written: watch::Receiver<Position>,
    pub(super) epoch: Epoch,
    pub(super) lane: Lane,
    /// Everything up to here has been handed to the members.
    pub(super) reached: Cursor,
    pub(super) going: HashMap<SubscriptionId, Going>,
    /// Who goes on elsewhere. Told between two steps.
    pub(super) leaving: Vec<Walker>,
    pub(super) pace: Pace,
    /// How long judging has taken.
    pub(super) judging: Duration,
    /// The changes of standings that have been looked at.
    pub(super) seen: u64,
}

/// What every walk needs.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) history: History,
    pub(crate) orders: Orders,
    pub(crate) limits: BatchLimits,
    pub(crate) changes: Changes,
}

/// Where a walk is, for those who look for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat {
    /// Up to here it has read.
    pub(crate) reached: Cursor,
    pub(crate) members: usize,
}

/// The ends of a walk: how it is joined, how it is left, and where it says where it is.
pub(crate) struct Doors {
    pub(crate) inbox: mpsc::Receiver<Vec<Walker>>,
    pub(crate) leave: mpsc::Sender<Word>,
    pub(crate) seat: watch::Sender<Seat>,
}

/// A member, as the publisher knows it.
pub(super) struct Going {
    pub(super) walker: Walker,
    pub(super) turn: u64,
    pub(super) viewer: Viewer,
    pub(super) gate: Arc<Gate>,
}

impl<C: RowCheck> Walk<C> {
    /// A walk that begins where `reader` stands.
    pub(crate) fn new(
        publisher: Publisher<C>,
        reader: Reader,
        made_of: Parts,
        lane: Lane,
    ) -> Walk<C> {
        let Position { cursor, epoch } = reader.position();
        Walk {
            publisher,
            reader,
            written: made_of.history.written(),
            made_of,
            epoch,
            lane,
            reached: cursor,
            going: HashMap::new(),
            leaving: Vec::new(),
            pace: Pace::default(),
            judging: Duration::ZERO,
            seen: 0,
        }
    }

    /// Goes on until nobody is left. Gives back what judges and publishes, for another walk.
    pub(crate) async fn run(mut self, doors: &mut Doors) -> Publisher<C> {
        let mut come = doors.inbox.recv().await;
        while let Some(walkers) = come.take() {
            self.take_in(walkers);
            while let Ok(walkers) = doors.inbox.try_recv() {
                self.take_in(walkers);
            }
            self.look(self.reached).await;
            let more = self.step(&doors.seat).await;
            let leaving = std::mem::take(&mut self.leaving);
            if !leaving.is_empty() && doors.leave.send(Word::Leave(leaving)).await.is_err() {
                break;
            }
            self.tell_seat(&doors.seat, self.reached);
            if self.going.is_empty() {
                break;
            }
            if more {
                tokio::task::yield_now().await;
                come = Some(Vec::new());
                continue;
            }
            come = tokio::select! {
                walkers = doors.inbox.recv() => walkers,
                _ = self.written.changed() => Some(Vec::new()),
                () = sleep(LOOK_AGAIN) => Some(Vec::new()),
            };
        }
        self.end().await
    }

    fn take_in(&mut self, walkers: Vec<Walker>) {
        for walker in walkers {
            // This has gone past meanwhile, or is of another epoch and ends.
            match walker.since.cursor < self.reached || walker.since.epoch != self.epoch {
                true => self.leaving.push(walker),
                false => self.enter(walker),
            }
        }
    }

    /// Takes in somebody who wants what comes after [`Walk::reached`], or later.
    fn enter(&mut self, walker: Walker) {
        let Attached {
            id,
            connection,
            ref spec,
            ref member,
        } = walker.attached;
        let (viewer, turn) = member.standing.judged();
        let has = walker.has(Cursor::default());
        let gate = Gate::open_but(has, member.standing.clone(), turn);
        let gated = Member {
            gate: Some(gate.clone()),
            ..member.clone()
        };
        self.publisher
            .subscribe(id, connection, &viewer, spec.clone(), gated);
        let going = Going {
            walker,
            turn,
            viewer,
            gate,
        };
        self.going.insert(id, going);
    }

    fn tell_seat(&self, seat: &watch::Sender<Seat>, reached: Cursor) {
        let members = self.going.len();
        seat.send_replace(Seat { reached, members });
    }

    /// Hands out one batch; near the end of the log it lets those go live who may. An error ends it:
    /// its members are told, and have left. Whether there is more to do at once.
    async fn step(&mut self, seat: &watch::Sender<Seat>) -> bool {
        if self.going.is_empty() {
            return true;
        }
        let done = match self.advance(seat).await {
            Ok(true) => self.arrive(seat).await.map(|()| false),
            Ok(false) => Ok(true),
            Err(refusal) => Err(refusal),
        };
        match done {
            Ok(more) => more,
            Err(refusal) => {
                self.dismiss(&refusal).await;
                true
            }
        }
    }

    /// Whether the end of what is written has been reached.
    pub(super) async fn advance(&mut self, seat: &watch::Sender<Seat>) -> Result<bool, Refusal> {
        let audience = &self.publisher.audience;
        let limits = self.made_of.limits;
        self.pace.limit(limits.changes_max);
        // What was written a moment ago is in the system's cache; a disk may still be slow.
        let batch = tokio::task::block_in_place(|| {
            self.reader
                .next_batch(limits.bytes_max, self.pace.together(), |shape| {
                    // Kept for another purpose: no subscription gets them.
                    !is_message_table(shape) && audience.wants(shape)
                })
        });
        let batch = batch.map_err(|error| lost(&error))?;
        // Before it is judged, which may take long: who wants what is read here comes too late.
        self.tell_seat(seat, batch.position.cursor);
        let mut plan = Plan::default();
        for change in batch.changes {
            if self.is_apart(&change.shape, &plan) {
                self.publish(std::mem::take(&mut plan)).await;
            }
            self.publisher.add(change, &mut plan);
            if limits.reached(&plan) {
                self.publish(std::mem::take(&mut plan)).await;
            }
        }
        self.publish(plan).await;
        self.reached = self.reached.max(batch.position.cursor);
        Ok(batch.at_end)
    }

    /// Whether a change belongs into another plan: it is to be found out which table is slow to judge.
    fn is_apart(&self, shape: &Shape, plan: &Plan) -> bool {
        let other = |last: &Change| last.shape.id != shape.id;
        self.is_too_long() && plan.last().is_some_and(other)
    }

    /// Hands out what those may see whom row-level security can judge. The others leave before it.
    async fn publish(&mut self, plan: Plan) {
        let Some(last) = plan.last().map(|last| last.cursor) else {
            return;
        };
        let before = self.reached;
        let begun = Instant::now();
        let verdicts = self.publisher.judge(&plan).await;
        let took = begun.elapsed();
        self.set_apart(plan.unjudged(&verdicts), before, last).await;
        self.publisher.publish(&plan, &verdicts, self.epoch).await;
        self.reached = last;
        // Of those judged as somebody else since, nothing has passed their gates.
        self.look(before).await;
        self.pace(&plan, took).await;
    }

    /// Nobody can be caught up here any more. When the server stops nobody is told: clients go on from
    /// where they are when it is back.
    async fn dismiss(&mut self, refusal: &Refusal) {
        let stops = self.made_of.orders.is_closed();
        for id in self.those(|_| true) {
            let Some(walker) = self.part(id, Cursor::default()).await else {
                continue;
            };
            if stops {
                continue;
            }
            match walker.since.cursor > self.reached {
                // What it wants may be there.
                true => self.leaving.push(walker),
                false => dismiss(&walker.attached, refusal),
            }
        }
    }

    async fn end(mut self) -> Publisher<C> {
        // There is no replay any more.
        self.dismiss(&unavailable()).await;
        self.publisher
    }
}

#[cfg(test)]
mod tests;
