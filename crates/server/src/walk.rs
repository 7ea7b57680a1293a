//! One walk through the log, from the oldest place that its members want to the present. All of
//! them share every read, every verdict and every frame, so thousands that come back at once cost
//! little more than one.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};
use tracing::warn;
use walcast_change::{Cursor, Epoch, Position, Shape};
use walcast_hub::{ConnId, Gate, Member, Opened, Skip, SubscriptionId};
use walcast_log::{ReadError, Reader};
use walcast_protocol::{Code, Refusal};
use walcast_rls::{RowCheck, Viewer};

use crate::messages::is_message_table;
use crate::order::{Attached, Order, Orders, Place};
use crate::plan::Plan;
use crate::publisher::{BatchLimits, Publisher, ended_frame, gap_frame};

/// Between two questions to row-level security when it can't be asked.
const PAUSES: [Duration; 7] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(10),
];
/// Changes that are judged together at first.
const TOGETHER_MIN: usize = 4;
/// Judging that takes no longer may be of twice as many.
const QUICK: Duration = Duration::from_millis(200);
/// Who became slow to judge while it was about to become live stays so long.
const STAY: Duration = Duration::from_secs(30);
/// Members that become live in one order, which holds the pipeline up for a moment.
const ATTACHED_MAX: usize = 256;

pub(crate) struct Walk<C> {
    publisher: Publisher<C>,
    reader: Reader,
    written: watch::Receiver<Position>,
    epoch: Epoch,
    /// Everything up to here has been handed to the members.
    reached: Cursor,
    members: HashMap<SubscriptionId, Walker>,
    /// How many changes are judged together: few at first, and where that takes long.
    together: usize,
}

/// What is said of a place.
pub(crate) type Said = Box<dyn FnOnce(Position) -> Bytes + Send>;

/// Who is being caught up.
pub(crate) struct Walker {
    pub(crate) attached: Attached,
    pub(crate) since: Position,
    /// What came after `since` and it has all the same.
    pub(crate) had: Option<Skip>,
    /// Before this it does not become live.
    pub(crate) until: Instant,
    pub(crate) caught_up: Option<Said>,
}

impl Walker {
    /// What it has of what it is sent.
    fn has(&self, reached: Cursor) -> Skip {
        Skip::up_to(reached.max(self.since.cursor)).or(self.had.clone())
    }
}

impl<C: RowCheck> Walk<C> {
    /// A walk that begins where `reader` stands.
    pub(crate) fn new(
        publisher: Publisher<C>,
        reader: Reader,
        written: watch::Receiver<Position>,
    ) -> Walk<C> {
        let Position { cursor, epoch } = reader.position();
        Walk {
            publisher,
            reader,
            written,
            epoch,
            reached: cursor,
            members: HashMap::new(),
            together: TOGETHER_MIN,
        }
    }

    pub(crate) fn reached(&self) -> Cursor {
        self.reached
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Takes in somebody who wants what came after [`Walk::reached`], or later.
    pub(crate) fn enter(&mut self, walker: Walker) {
        let Attached {
            id,
            connection,
            ref spec,
            ref member,
        } = walker.attached;
        let gated = Member {
            gate: Some(Gate::open_but(walker.has(Cursor::default()))),
            ..member.clone()
        };
        let viewer = member.standing.viewer();
        self.publisher
            .subscribe(id, connection, &viewer, spec.clone(), gated);
        self.members.insert(id, walker);
    }

    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) {
        if self.members.remove(&id).is_some() {
            self.publisher.unsubscribe(id);
        }
    }

    pub(crate) fn disconnect(&mut self, connection: ConnId) {
        self.members
            .retain(|_, walker| walker.attached.connection != connection);
        self.publisher.disconnect(connection);
    }

    pub(crate) fn set_viewer(&mut self, connection: ConnId, viewer: &Viewer) {
        self.publisher.set_viewer(connection, viewer);
    }

    /// Hands out one batch; near the end of the log it lets those go live who may. An error ends it:
    /// its members are told, and have left. Whether there is more to do at once.
    pub(crate) async fn step(&mut self, limits: BatchLimits, orders: &Orders) -> bool {
        if self.is_empty() {
            return true;
        }
        let done = match self.advance(limits).await {
            Ok(true) => self.arrive(limits, orders).await.map(|()| self.is_empty()),
            Ok(false) => Ok(true),
            Err(refusal) => Err(refusal),
        };
        done.unwrap_or_else(|refusal| {
            self.dismiss(&refusal);
            true
        })
    }

    /// Whether the end of what is written has been reached.
    async fn advance(&mut self, limits: BatchLimits) -> Result<bool, Refusal> {
        let audience = &self.publisher.audience;
        // What was written a moment ago is in the system's cache; a disk may still be slow.
        let batch = tokio::task::block_in_place(|| {
            self.reader
                .next_batch(limits.bytes_max, self.together, |shape| {
                    // Kept for another purpose: no subscription gets them.
                    !is_message_table(shape) && audience.wants(shape)
                })
        });
        let batch = batch.map_err(|error| lost(&error))?;
        self.together = self.together.min(limits.changes_max);
        let mut plan = Plan::default();
        for change in batch.changes {
            self.publisher.add(change, &mut plan);
            if limits.reached(&plan) {
                self.publish(std::mem::take(&mut plan)).await;
            }
        }
        self.publish(plan).await;
        self.reached = batch.position.cursor;
        Ok(batch.at_end)
    }

    /// Asks again for a while where nobody knows what somebody may see; in the end these are told
    /// that they have a gap.
    async fn publish(&mut self, plan: Plan) {
        let mut pauses = PAUSES.iter();
        let verdicts = loop {
            let begun = Instant::now();
            let verdicts = self.publisher.judge(&plan).await;
            self.together = match begun.elapsed() {
                took if took > QUICK => (self.together / 2).max(TOGETHER_MIN),
                _ => self.together * 2,
            };
            let unjudged = plan.unjudged(&verdicts);
            match pauses.next() {
                _ if unjudged.is_empty() => break verdicts,
                Some(pause) => sleep(*pause).await,
                None => {
                    self.tell_gap(&unjudged);
                    break verdicts;
                }
            }
        };
        self.publisher.publish(&plan, &verdicts, self.epoch).await;
    }

    /// Each time: who was told before has perhaps read its tables again before this was changed.
    fn tell_gap(&self, unjudged: &[(u32, Arc<Shape>)]) {
        let mut told = HashSet::new();
        for (viewer, shape) in unjudged {
            if !told.insert((*viewer, shape.id)) {
                continue;
            }
            for group in self.publisher.audience.groups_of(*viewer, shape) {
                let frame = gap_frame(&group.spec, "unjudged");
                for member in group.members() {
                    member.outbox.push(frame.clone());
                }
            }
        }
    }

    /// Some at a time become live behind a closed gate, get what came meanwhile, and are done.
    async fn arrive(&mut self, limits: BatchLimits, orders: &Orders) -> Result<(), Refusal> {
        let now = Instant::now();
        loop {
            let due = self
                .members
                .iter()
                .filter(|(_, walker)| walker.until <= now);
            let arriving: Vec<SubscriptionId> = due.map(|(id, _)| *id).take(ATTACHED_MAX).collect();
            if arriving.is_empty() {
                return Ok(());
            }
            let place = self.attach(&arriving, orders).await?;
            while self.reached < place.logged {
                self.written(place.logged).await?;
                self.advance(limits).await?;
            }
            for id in arriving {
                let Some(walker) = self.members.get_mut(&id) else {
                    continue;
                };
                if release(walker, place.position, self.reached) == Opened::GivenUp {
                    walker.until = Instant::now() + STAY;
                    continue;
                }
                self.members.remove(&id);
                self.publisher.unsubscribe(id);
            }
        }
    }

    /// Waits until `cursor` can be read.
    async fn written(&mut self, cursor: Cursor) -> Result<(), Refusal> {
        let epoch = self.epoch;
        let come = |written: &Position| written.cursor >= cursor || written.epoch != epoch;
        match self.written.wait_for(come).await {
            Ok(written) if written.epoch == epoch => Ok(()),
            _ => Err(epoch_changed()),
        }
    }

    async fn attach(
        &mut self,
        arriving: &[SubscriptionId],
        orders: &Orders,
    ) -> Result<Place, Refusal> {
        let mut attached = Vec::with_capacity(arriving.len());
        for id in arriving {
            if let Some(walker) = self.members.get_mut(id) {
                let has = walker.has(self.reached);
                let member = &mut walker.attached.member;
                member.gate = Some(Gate::closed(member.outbox.bytes_max(), Some(has)));
                attached.push(walker.attached.clone());
            }
        }
        let (done, place) = oneshot::channel();
        let sent = orders.send(Order::Attach(attached, self.epoch, done)).await;
        let place = match sent {
            Ok(()) => place.await.ok().flatten(),
            Err(_) => None,
        };
        place.ok_or_else(epoch_changed)
    }

    /// Nobody can be caught up here any more.
    fn dismiss(&mut self, refusal: &Refusal) {
        for (id, walker) in self.members.drain() {
            self.publisher.unsubscribe(id);
            dismiss(&walker.attached, refusal);
        }
    }

    /// Gives back what judges and publishes, for another walk.
    pub(crate) fn end(self) -> Publisher<C> {
        self.publisher
    }
}

/// What waited follows, then the word that nothing is missing; from then on it is live. The walk
/// may have come further than the place where the subscription became live: up to `reached` it has
/// everything. If the pipeline gave it up meanwhile, it goes on as before.
fn release(walker: &mut Walker, place: Position, reached: Cursor) -> Opened {
    let has = walker.has(reached);
    let Attached { member, .. } = &mut walker.attached;
    let standing = &member.standing;
    let Some(gate) = member.gate.take() else {
        return Opened::Never;
    };
    let had = reached.max(walker.since.cursor);
    let caught_up = &mut walker.caught_up;
    let mark = |last: Option<Cursor>| {
        // While nobody can set it aside again.
        standing.set_live();
        let cursor = place.cursor.max(had).max(last.unwrap_or_default());
        let caught_up = caught_up.take();
        caught_up.map(|caught_up| caught_up(Position { cursor, ..place }))
    };
    gate.open(Some(has), mark, &member.outbox)
}

/// It ends, wherever it is, and is told why.
pub(crate) fn dismiss(attached: &Attached, refusal: &Refusal) {
    let Attached { spec, member, .. } = attached;
    member.standing.end();
    // Known to the pipeline already: nothing may wait there.
    if let Some(gate) = &member.gate {
        gate.give_up();
    }
    let refusal = refusal.clone().on(&*spec.channel);
    member.outbox.push(ended_frame(spec, &refusal));
}

fn lost(error: &ReadError) -> Refusal {
    match error {
        ReadError::EpochChanged { .. } => epoch_changed(),
        error => {
            warn!(%error, "the log can't be read where clients want to go on");
            too_old()
        }
    }
}

pub(crate) fn too_old() -> Refusal {
    let text = "what came after this cursor is not kept any more; read the tables again";
    Refusal::new(Code::CursorTooOld, text)
}

pub(crate) fn epoch_changed() -> Refusal {
    let text =
        "changes were lost since, or this cursor is of another server; read the tables again";
    Refusal::new(Code::EpochChanged, text)
}
