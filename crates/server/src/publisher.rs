//! From changes to outboxes: who subscribed, who may see, one frame for each class of them. The
//! pipeline has one for what is live, and every walk through the log one for those it catches up.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Change, Epoch, Shape};
use walcast_hub::{Audience, ConnId, Member, Movement, Outbox, Spec, SubscriptionId, Withdrawn};
use walcast_protocol::phoenix::{Style, write_error};
use walcast_protocol::{Notice, Refusal, codec_of};
use walcast_rls::{RowCheck, Viewer};

use crate::metrics::Metrics;
use crate::patience::Patience;
use crate::plan::{Plan, Verdicts};
use crate::session::text_frame;

/// Changes times groups of subscriptions in one batch.
const PAIRS_MAX: usize = 50_000;

/// How much one batch may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub(crate) changes_max: usize,
    pub(crate) bytes_max: usize,
}

impl BatchLimits {
    pub(crate) fn reached(self, plan: &Plan) -> bool {
        plan.len() >= self.changes_max
            || plan.bytes() >= self.bytes_max
            || plan.pairs() >= PAIRS_MAX
    }
}

pub(crate) struct Publisher<C> {
    pub(crate) audience: Audience,
    pub(crate) check: C,
    pub(crate) metrics: Arc<Metrics>,
    patience: Patience,
}

impl<C: RowCheck> Publisher<C> {
    pub(crate) fn new(check: C, metrics: Arc<Metrics>) -> Publisher<C> {
        Publisher {
            audience: Audience::new(),
            check,
            metrics,
            patience: Patience::new(),
        }
    }

    /// Adds a change to the batch if anybody subscribed to its table.
    pub(crate) fn add(&self, change: Change, plan: &mut Plan) {
        if self.audience.wants(&change.shape) {
            let cost = self.check.cost(&change.shape);
            plan.add(change, &self.audience, cost);
        }
    }

    /// Asks row-level security about the whole batch at once.
    pub(crate) async fn judge(&mut self, plan: &Plan) -> Verdicts {
        if plan.is_empty() {
            return Verdicts::default();
        }
        let audience = &self.audience;
        let wants = |question: usize, viewer: u32| plan.wants(question, viewer, audience);
        Verdicts {
            sightings: self.check.sweep(&plan.questions, &wants).await,
            truncations: self.judge_truncations(plan).await,
        }
    }

    /// Hands everybody what is theirs.
    pub(crate) async fn publish(&mut self, plan: &Plan, verdicts: &Verdicts, epoch: Epoch) {
        let mut crowded = Vec::new();
        for at in 0..plan.len() {
            let published = plan.publish(at, verdicts, &self.audience, epoch, &mut crowded);
            self.metrics.published(published);
            self.give_way(&mut crowded).await;
        }
    }

    /// Takes out the subscriptions of whom it is not known what they may see.
    pub(crate) fn withdraw(&mut self, unjudged: &[(u32, Arc<Shape>)]) -> Vec<Withdrawn> {
        let taken = unjudged.iter();
        let taken = taken.flat_map(|(viewer, shape)| self.audience.withdraw(*viewer, shape));
        let withdrawn = taken.collect();
        self.move_watchers();
        withdrawn
    }

    /// Waits a little for outboxes that are getting full.
    pub(crate) async fn give_way(&mut self, crowded: &mut Vec<Arc<Outbox>>) {
        if !crowded.is_empty() {
            self.patience.wait(crowded).await;
        }
    }

    async fn judge_truncations(&mut self, plan: &Plan) -> HashMap<usize, Vec<Option<bool>>> {
        let mut allowed = HashMap::new();
        for (at, change, viewers) in plan.truncations() {
            // One answer for each, in their order: none may be left out.
            let viewers = viewers.iter().map(|number| {
                let viewer = self.audience.viewer(*number);
                viewer
                    .expect("a group's viewer is among the viewers")
                    .clone()
            });
            let viewers: Vec<_> = viewers.collect();
            allowed.insert(at, self.check.table(&change.shape, &viewers).await);
        }
        allowed
    }

    /// Tells everybody that changes were lost. `anew`: what comes is counted anew.
    pub(crate) fn tell_gap(&self, reason: &str, anew: bool) {
        self.audience.gates().for_each(|gate| gate.break_off(anew));
        for (spec, outbox) in self.audience.outboxes() {
            outbox.push(gap_frame(spec, reason));
        }
    }

    /// Whether it is new: one that exists already stays as it is.
    pub(crate) fn subscribe(
        &mut self,
        id: SubscriptionId,
        connection: ConnId,
        viewer: &Viewer,
        spec: Arc<Spec>,
        member: Member,
    ) -> bool {
        let begun = self
            .audience
            .subscribe(id, connection, viewer, spec, member);
        self.move_watchers();
        begun.is_ok()
    }

    pub(crate) fn unsubscribe(&mut self, id: SubscriptionId) {
        // It may be gone already: the client's connection ended meanwhile.
        let _ = self.audience.unsubscribe(id);
        self.move_watchers();
    }

    pub(crate) fn set_viewer(&mut self, connection: ConnId, viewer: &Viewer) {
        self.audience.set_viewer(connection, viewer);
        self.move_watchers();
    }

    pub(crate) fn disconnect(&mut self, connection: ConnId) {
        self.audience.disconnect(connection);
        self.move_watchers();
    }

    /// Who subscribed is judged from now on, who unsubscribed no more.
    fn move_watchers(&mut self) {
        for movement in self.audience.take_movements() {
            match movement {
                Movement::Came { viewer, target } => {
                    if let Some(known) = self.audience.viewer(viewer) {
                        let table = target.table.as_deref();
                        self.check.watch(viewer, known, &target.schema, table);
                    }
                }
                Movement::Went { viewer, target } => {
                    let table = target.table.as_deref();
                    self.check.unwatch(viewer, &target.schema, table);
                }
            }
        }
    }
}

/// That changes were lost. Supabase's clients have no word for it: theirs join the channel again.
pub(crate) fn gap_frame(spec: &Spec, reason: &str) -> Bytes {
    text_frame(|out| match Style::of_format(spec.format) {
        Some(style) => write_error(style.version, None, &spec.channel, out),
        None => codec_of(spec.format).notice(&Notice::Gap { reason }, out),
    })
}

/// That a subscription ended, because it can't be caught up. Supabase's clients join the channel again.
pub(crate) fn ended_frame(spec: &Spec, refusal: &Refusal) -> Bytes {
    text_frame(|out| match Style::of_format(spec.format) {
        Some(style) => write_error(style.version, None, &spec.channel, out),
        None => codec_of(spec.format).refusal(refusal, out),
    })
}
