//! Who leaves a walk before its end, and where: whom nobody can judge, who is slow to judge, who is judged
//! as somebody else now. Each leaves before the first change that it was not handed, so that the walk
//! which it goes on with hands it every change once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::warn;
use walcast_change::{Cursor, Shape};
use walcast_hub::SubscriptionId;
use walcast_rls::{RowCheck, Viewer};

use crate::lane::Lane;
use crate::order::{Attached, Order};
use crate::plan::Plan;
use crate::publisher::gap_frame;
use crate::walk::{Going, Walk};
use crate::walker::Walker;

/// Judging that takes longer for each change, when a walk of those who come back has spent so long on it,
/// sends the table's subscribers elsewhere: such a walk is to be over soon.
const SLOW_EACH: Duration = Duration::from_millis(5);
const JUDGING_MAX: Duration = Duration::from_secs(3);
/// The same, when so few changes took so long so often.
const SLOW_MAX: u32 = 2;
impl<C: RowCheck> Walk<C> {
    pub(super) fn is_too_long(&self) -> bool {
        let too_long = self.judging > JUDGING_MAX || self.pace.slow() >= SLOW_MAX;
        self.lane == Lane::Back && too_long
    }

    /// How many are judged together from now on, and who is too slow for this walk.
    pub(super) async fn pace(&mut self, plan: &Plan, took: Duration) {
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
    pub(super) async fn set_apart(
        &mut self,
        unjudged: Vec<(u32, Arc<Shape>)>,
        before: Cursor,
        last: Cursor,
    ) {
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

    pub(super) fn those(&self, are_meant: impl Fn(&Going) -> bool) -> Vec<SubscriptionId> {
        let meant = self.going.iter().filter(|(_, going)| are_meant(going));
        meant.map(|(id, _)| *id).collect()
    }

    /// Looks, if there may be any, for those who have ended, and for those who are judged as somebody else
    /// now: of what came after `before` these may have been handed a part, and judging goes on behind it.
    pub(super) async fn look(&mut self, before: Cursor) {
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
}
