//! The end of a walk: its members become live at an exact place in the stream.

use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use walcast_change::{Cursor, Position};
use walcast_hub::{Gate, Opened, SubscriptionId};
use walcast_protocol::Refusal;
use walcast_rls::RowCheck;

use crate::lane::Lane;
use crate::order::{Order, Place};
use crate::walk::{Seat, Walk};
use crate::walker::{epoch_changed, release};

/// Who became slow to judge while it was about to become live stays with those who are so long.
const STAY: Duration = Duration::from_secs(30);
/// Members that become live in one order, which holds the pipeline up for a moment.
const ATTACHED_MAX: usize = 256;

impl<C: RowCheck> Walk<C> {
    /// Some at a time become live behind a closed gate, get what came meanwhile, and are done.
    pub(super) async fn arrive(&mut self, seat: &watch::Sender<Seat>) -> Result<(), Refusal> {
        let now = Instant::now();
        loop {
            let due = self.going.iter();
            let due = due.filter(|(_, going)| going.walker.until <= now);
            let arriving: Vec<SubscriptionId> = due.map(|(id, _)| *id).take(ATTACHED_MAX).collect();
            if arriving.is_empty() {
                return Ok(());
            }
            let place = self.attach(&arriving).await?;
            while self.reached < place.logged {
                self.written(place.logged).await?;
                self.advance(seat).await?;
            }
            for id in arriving {
                self.release(id, place.position).await;
            }
        }
    }

    async fn release(&mut self, id: SubscriptionId, place: Position) {
        // Who has parted meanwhile is not there any more.
        let Some(going) = self.going.get_mut(&id) else {
            return;
        };
        match release(&mut going.walker, going.turn, place, self.reached) {
            Some(Opened::GivenUp) => {
                going.walker.until = Instant::now() + STAY;
                going.walker.attached.member.gate = None;
                // The pipeline may have it still: too much waited.
                self.retract(id).await;
                if self.lane == Lane::Back
                    && let Some(mut walker) = self.part(id, self.reached).await
                {
                    walker.lane = Lane::aside(&walker.attached.spec, &walker.role());
                    self.leaving.push(walker);
                }
            }
            Some(Opened::Open | Opened::Never) => {
                self.going.remove(&id);
                self.publisher.unsubscribe(id);
            }
            None => {
                let parted = self.part(id, self.reached).await;
                let still_wanted = parted.filter(|walker| !walker.attached.has_ended());
                self.leaving.extend(still_wanted);
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

    async fn attach(&mut self, arriving: &[SubscriptionId]) -> Result<Place, Refusal> {
        let mut attached = Vec::with_capacity(arriving.len());
        for id in arriving {
            if let Some(going) = self.going.get_mut(id) {
                let has = going.walker.has(self.reached);
                let member = &mut going.walker.attached.member;
                member.gate = Some(Gate::closed(member.outbox.clone(), Some(has)));
                attached.push(going.walker.attached.clone());
            }
        }
        let (done, place) = oneshot::channel();
        let order = Order::Attach(attached, self.epoch, done);
        let place = match self.made_of.orders.send(order).await {
            Ok(()) => place.await.ok().flatten(),
            Err(_) => None,
        };
        place.ok_or_else(epoch_changed)
    }
}
