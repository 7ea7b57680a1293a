//! One walk through the log, from the oldest place that its members want to the present. All of
//! them share every read, every verdict and every frame, so thousands that come back at once cost
//! little more than one. Who would delay the others leaves it, at an exact place, and goes on in
//! another walk.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep};
use tracing::warn;
use walcast_change::{Change, Cursor, Epoch, Position, Shape};
use walcast_hub::{Gate, Member, SubscriptionId};
use walcast_log::{History, Reader};
use walcast_protocol::Refusal;
use walcast_rls::{RowCheck, Viewer};

use crate::lane::Lane;
use crate::messages::is_message_table;
use crate::order::{Attached, Order, Orders};
use crate::pace::Pace;
use crate::plan::Plan;
use crate::publisher::{BatchLimits, Publisher, gap_frame};
use crate::replay::{Changes, Word};
use crate::walker::{Walker, dismiss, lost};

/// Judging that takes longer for each change, when a walk of those who come back has spent so long on it,
/// sends the table's subscribers elsewhere: such a walk is to be over soon.
const SLOW_EACH: Duration = Duration::from_millis(5);
const JUDGING_MAX: Duration = Duration::from_secs(3);
/// The same, when so few changes took so long so often.
const SLOW_MAX: u32 = 2;
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
    pace: Pace,
    /// How long judging has taken.
    judging: Duration,
    /// The changes of standings that have been looked at.
    seen: u64,
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
    viewer: Viewer,
    gate: Arc<Gate>,
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
        done.unwrap_or_else(|refusal| {
            self.dismiss(&refusal);
            true
        })
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

    fn is_too_long(&self) -> bool {
        let too_long = self.judging > JUDGING_MAX || self.pace.slow() >= SLOW_MAX;
        self.lane == Lane::Back && too_long
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

    /// How many are judged together from now on, and who is too slow for this walk.
    async fn pace(&mut self, plan: &Plan, took: Duration) {
        let was_long = self.is_too_long();
        self.pace.judged(plan.len(), took);
        self.judging += took;
        let is_slow = took > SLOW_EACH * plan.len() as u32;
        // Of this table alone if it was known before that it may have to leave.
        let Some(shape) = plan.only_table().filter(|_| was_long && is_slow) else {
            return;
        };
        let of_table = |going: &Going| going.walker.attached.spec.target.includes(shape);
        for id in self.those(of_table) {
            if let Some(mut walker) = self.part(id, self.reached).await {
                walker.lane = Lane::aside(&walker.attached.spec, &walker.role());
                self.leaving.push(walker);
            }
        }
    }

    /// Whom nobody can judge leaves, to be tried again elsewhere; who was tried often enough is told
    /// that it has a gap.
    async fn set_apart(&mut self, unjudged: Vec<(u32, Arc<Shape>)>, before: Cursor, last: Cursor) {
        if unjudged.is_empty() {
            return;
        }
        let mut tables: HashMap<&Viewer, HashMap<u32, &Shape>> = HashMap::new();
        for (viewer, shape) in &unjudged {
            if let Some(viewer) = self.publisher.audience.viewer(*viewer) {
                tables.entry(viewer).or_default().insert(shape.id.0, shape);
            }
        }
        let concerned = |going: &Going| {
            let target = &going.walker.attached.spec.target;
            let mut shapes = tables.get(&going.viewer).into_iter().flatten();
            // Who has all of this already does not mind.
            going.walker.since.cursor < last && shapes.any(|(_, shape)| target.includes(shape))
        };
        let mut told = 0;
        for id in self.those(concerned) {
            told += usize::from(!self.set_one_apart(id, before, last).await);
        }
        if told > 0 {
            warn!(
                subscriptions = told,
                "changes could not be judged for too long; told a gap"
            );
        }
    }

    /// `false`: it stays, and is told.
    async fn set_one_apart(&mut self, id: SubscriptionId, before: Cursor, last: Cursor) -> bool {
        let Some(going) = self.going.get_mut(&id) else {
            return true;
        };
        let Some(pause) = going.walker.trials.again(before, last) else {
            // Each time: who was told before has perhaps read its tables again before this was changed.
            let Attached { spec, member, .. } = &going.walker.attached;
            let frame = gap_frame(spec, "unjudged");
            let outbox = &member.outbox;
            member.standing.in_turn(going.turn, || outbox.push(frame));
            return false;
        };
        if let Some(mut walker) = self.part(id, before).await {
            walker.lane = Lane::tried(&walker.attached.spec, &walker.role());
            walker.not_before = Instant::now() + pause;
            self.leaving.push(walker);
        }
        true
    }

    fn those(&self, are_meant: impl Fn(&Going) -> bool) -> Vec<SubscriptionId> {
        let meant = self.going.iter().filter(|(_, going)| are_meant(going));
        meant.map(|(id, _)| *id).collect()
    }

    /// Looks, if there may be any, for those who have ended, and for those who are judged as somebody else
    /// now: of what came after `before` these may have been handed a part, and judging goes on behind it.
    async fn look(&mut self, before: Cursor) {
        if !self.made_of.changes.since(&mut self.seen) {
            return;
        }
        let is_in_turn = |going: &Going| {
            let standing = &going.walker.attached.member.standing;
            standing.is_in_turn(going.turn) && !going.walker.attached.has_ended()
        };
        for id in self.those(|going| !is_in_turn(going)) {
            let parted = self.part(id, before).await;
            let still_wanted = parted.filter(|walker| !walker.attached.has_ended());
            self.leaving.extend(still_wanted);
        }
    }

    /// Takes it out, before the first change that it was not handed of those after `before`.
    pub(super) async fn part(&mut self, id: SubscriptionId, before: Cursor) -> Option<Walker> {
        let Going {
            mut walker, gate, ..
        } = self.going.remove(&id)?;
        self.publisher.unsubscribe(id);
        walker.reach(before);
        walker.reach(gate.last().unwrap_or_default());
        // It was about to become live. What waits, another walk will find in the log.
        if let Some(gate) = walker.attached.member.gate.take()
            && gate.give_up()
        {
            self.retract(id).await;
        }
        Some(walker)
    }

    /// The pipeline is not to have it any more. Before it can be asked to take it in again.
    pub(super) async fn retract(&mut self, id: SubscriptionId) {
        let (done, _) = oneshot::channel();
        let order = Order::Unsubscribe(id, done);
        let _ = self.made_of.orders.send(order).await;
    }

    /// Nobody can be caught up here any more.
    fn dismiss(&mut self, refusal: &Refusal) {
        for (id, going) in self.going.drain() {
            self.publisher.unsubscribe(id);
            dismiss(&going.walker.attached, refusal);
        }
    }

    async fn end(mut self) -> Publisher<C> {
        let left: Vec<_> = self.going.keys().copied().collect();
        for id in left {
            self.publisher.unsubscribe(id);
        }
        self.publisher
    }
}
