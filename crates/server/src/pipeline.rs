//! The whole path of a change, from the stream to the outboxes. Read this first.
//!
//! One task owns the stream, the decoder and the audience; nothing here is locked. It collects
//! what has arrived into a batch, asks row-level security about the whole batch at once, publishes,
//! and only then acknowledges. Between two batches it carries out the orders of the sessions.
//!
//! Order: batches are published one after the other and each in commit order, so every outbox
//! gets its changes in the order of their cursors.
//! Acknowledgement: an LSN goes back to Postgres when everything before it is in the outboxes.
//! What Postgres sends again after a broken connection is recognised by its cursor.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use walcast_change::{Change, Cursor, Decoder, Step};
use walcast_hub::{Audience, Movement, Outbox, Pushed};
use walcast_pgoutput::{Lsn, Message};
use walcast_protocol::{Codec, Notice};
use walcast_rls::RowCheck;
use walcast_source::{Event, Gap, GapReason, Source, SourceError, StreamState};
use walcast_websocket::{OpCode, frame};

use crate::describe::Describe;
use crate::metrics::Metrics;
use crate::order::{Begin, Order};
use crate::plan::{Plan, Verdicts};

/// How much one batch may hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BatchLimits {
    pub(crate) changes_max: usize,
    pub(crate) bytes_max: usize,
}

/// Changes times groups of subscriptions in one batch.
const PAIRS_MAX: usize = 50_000;
/// Messages taken in one go before the orders get their turn.
const MESSAGES_MAX: usize = 16_384;

pub(crate) struct Pipeline<C> {
    pub(crate) source: Source,
    pub(crate) decoder: Decoder,
    pub(crate) describe: Describe,
    pub(crate) check: C,
    pub(crate) audience: Audience,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) codec: &'static dyn Codec,
    pub(crate) limits: BatchLimits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) progress: Progress,
    pub(crate) patience: Patience,
    /// Subscriptions that wait for the stream to be live. Bounded by the connections: each waits
    /// for the answer before it asks for more.
    pub(crate) waiting: Vec<Begin>,
}

/// Where the stream stands.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last change that was taken from the stream.
    taken: Cursor,
    /// Everything before this is dealt with, once the batch at hand is published.
    finished: Option<Lsn>,
    /// The last [`Progress::finished`] that was acknowledged.
    acknowledged: Lsn,
}

impl Progress {
    /// A place in the order of changes that is after all that was published and before all that
    /// is to come. No change was seen for a while: then a byte before the next transaction can
    /// begin, a commit record being longer than that.
    fn cursor(&self) -> Cursor {
        let idle = Cursor {
            commit_lsn: Lsn(self.acknowledged.0.saturating_sub(1)),
            ordinal: 0,
        };
        self.taken.max(idle)
    }

    /// Where it stands after a gap. What the same slot sends again is still known; any other
    /// source may count its LSNs anew.
    fn after(&self, gap: &Gap) -> Progress {
        let same_order = matches!(
            gap.reason,
            GapReason::PublicationRecreated | GapReason::SlotAdvanced
        );
        Progress {
            taken: if same_order {
                self.taken
            } else {
                Cursor::default()
            },
            finished: None,
            acknowledged: gap.resumes_at,
        }
    }
}

impl<C: RowCheck> Pipeline<C> {
    /// Runs until `stop`, or until the stream fails for good. The last acknowledgement reaches
    /// Postgres before it ends.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), SourceError> {
        let ended = self.follow(stop).await;
        self.source.close().await;
        ended
    }

    async fn follow(&mut self, stop: CancellationToken) -> Result<(), SourceError> {
        self.describe.settled().await;
        let mut state = self.source.state();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                order = self.orders.recv() => match order {
                    Some(order) => self.carry_out(order, is_live(&state)),
                    None => return Ok(()),
                },
                Ok(()) = state.changed() => {
                    if is_live(&state) {
                        for begin in std::mem::take(&mut self.waiting) {
                            self.begin(begin);
                        }
                    }
                }
                event = self.source.next() => {
                    self.batch(event?).await;
                }
            }
        }
    }

    /// Takes `first` and what has arrived behind it, judges, publishes, acknowledges.
    async fn batch(&mut self, first: Event) {
        let mut plan = Plan::default();
        let mut next = Some(first);
        for _ in 0..MESSAGES_MAX {
            let Some(event) = next.take().or_else(|| self.source.try_next()) else {
                break;
            };
            self.take(event, &mut plan).await;
            if plan.len() >= self.limits.changes_max
                || plan.bytes() >= self.limits.bytes_max
                || plan.pairs() >= PAIRS_MAX
            {
                break;
            }
        }
        if !plan.is_empty() {
            self.publish(&plan).await;
        }
        if let Some(lsn) = self.progress.finished.take() {
            self.progress.acknowledged = lsn;
            self.source.acknowledge(lsn);
        }
    }

    async fn take(&mut self, event: Event, plan: &mut Plan) {
        match event {
            Event::Message(message) => self.message(message, plan).await,
            Event::Idle(lsn) => {
                if !self.decoder.in_transaction() {
                    self.progress.finished = Some(lsn);
                }
            }
            Event::Restarted => self.decoder.restart(),
            Event::Gap(gap) => self.gap(&gap),
        }
    }

    async fn message(&mut self, message: Message, plan: &mut Plan) {
        if let Message::Relation(relation) = &message {
            self.check.invalidate();
            self.describe.relation(relation, &mut self.decoder).await;
            return;
        }
        match self.decoder.step(message) {
            Ok(Step::Nothing | Step::Logical(_)) => {}
            Ok(Step::Change(change)) => self.change(change, plan),
            Ok(Step::Truncate(changes)) => {
                for change in changes {
                    self.change(change, plan);
                }
            }
            Ok(Step::Commit(commit)) => {
                self.progress.finished = Some(commit.end_lsn);
                self.metrics.transactions.inc();
            }
            Err(error) => {
                error!(%error, "a message of the stream makes no sense; starting the stream anew");
                self.decoder.restart();
                self.source.restart(error);
            }
        }
    }

    fn change(&mut self, change: Change, plan: &mut Plan) {
        if change.cursor <= self.progress.taken {
            self.metrics.repeated.inc();
            return;
        }
        self.progress.taken = change.cursor;
        self.metrics.change(&change);
        if self.audience.wants(&change.shape) && self.describe.publishes(&change) {
            let cost = self.check.cost(&change.shape);
            plan.add(change, &self.audience, cost);
        }
    }

    async fn publish(&mut self, plan: &Plan) {
        let audience = &self.audience;
        let wants = |question: usize, viewer: u32| plan.wants(question, viewer, audience);
        let verdicts = Verdicts {
            sightings: self.check.sweep(&plan.questions, &wants).await,
            truncations: self.judge_truncations(plan).await,
        };
        let mut crowded = Vec::new();
        for at in 0..plan.len() {
            let published = plan.publish(at, &verdicts, &self.audience, self.codec, &mut crowded);
            self.metrics.published(published);
            if !crowded.is_empty() {
                self.patience.wait(&mut crowded).await;
            }
        }
        if let Some(last) = plan.last() {
            self.metrics.reached(last);
        }
    }

    async fn judge_truncations(&mut self, plan: &Plan) -> HashMap<usize, Vec<bool>> {
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

    /// Changes were lost before they came here. Nobody may be left to believe otherwise.
    fn gap(&mut self, gap: &Gap) {
        warn!(
            reason = gap.reason.name(),
            "changes were lost; telling all subscribers"
        );
        self.decoder.restart();
        self.progress = self.progress.after(gap);
        let mut payload = Vec::new();
        self.codec.notice(
            &Notice::Gap {
                reason: gap.reason.name(),
            },
            &mut payload,
        );
        let frame = frame(OpCode::Text, &payload);
        for outbox in self.audience.outboxes() {
            outbox.push(frame.clone());
        }
    }

    fn carry_out(&mut self, order: Order, live: bool) {
        match order {
            Order::Subscribe(begin) if live => self.begin(begin),
            // Subscribed means subscribed: not before changes flow.
            Order::Subscribe(begin) => {
                self.waiting.retain(|begin| !begin.done.is_closed());
                self.waiting.push(begin);
            }
            Order::Unsubscribe(id, done) => {
                // It may be gone already: the client's connection ended meanwhile.
                let _ = self.audience.unsubscribe(id);
                let _ = done.send(());
            }
            Order::SetViewer(connection, viewer, done) => {
                self.audience.set_viewer(connection, &viewer);
                let _ = done.send(());
            }
            Order::Disconnect(connection) => {
                self.waiting.retain(|begin| begin.connection != connection);
                self.audience.disconnect(connection);
            }
        }
        self.move_watchers();
        self.metrics.subscriptions.set(self.audience.len() as i64);
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

    fn begin(&mut self, begin: Begin) {
        let Begin {
            id,
            connection,
            viewer,
            spec,
            outbox,
            acknowledge,
            done,
        } = begin;
        // The acknowledgement goes first, so that no change can stand before it.
        if done.is_closed() || outbox.push(acknowledge(self.progress.cursor())) == Pushed::Closed {
            return;
        }
        let begun = self
            .audience
            .subscribe(id, connection, &viewer, spec, outbox);
        // One that exists already was asked for again: it is acknowledged again and stays.
        if done.send(()).is_err() && begun.is_ok() {
            let _ = self.audience.unsubscribe(id);
        }
        self.move_watchers();
    }
}

fn is_live(state: &watch::Receiver<StreamState>) -> bool {
    matches!(*state.borrow(), StreamState::Streaming { .. })
}

/// How long the pipeline has waited for crowded outboxes, which holds up everybody.
///
/// A transaction may be larger than any outbox, and a client that reads as fast as it can is not
/// to be cut for that. So a crowded outbox is waited for, but only one that was empty a moment ago,
/// and altogether for no more than half of the time: who reads too slowly is cut, soon. One that
/// does not read at all must not use up what those have left that do.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
    since: Instant,
}

impl Patience {
    const MAX: Duration = Duration::from_secs(1);
    /// For one outbox, from when it was last empty.
    const EACH: Duration = Duration::from_millis(200);

    pub(crate) fn new() -> Patience {
        Patience {
            left: Self::MAX,
            since: Instant::now(),
        }
    }

    async fn wait(&mut self, crowded: &mut Vec<Arc<Outbox>>) {
        let begin = Instant::now();
        self.left = (self.left + begin.duration_since(self.since) / 2).min(Self::MAX);
        let relieved = async {
            for outbox in crowded.drain(..) {
                outbox.relieved(Self::EACH).await;
            }
        };
        let _ = timeout(self.left, relieved).await;
        self.since = Instant::now();
        self.left = self.left.saturating_sub(self.since.duration_since(begin));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_does_not_read_uses_up_a_part_only() {
        let outbox = Arc::new(Outbox::new(10));
        assert_eq!(outbox.push(vec![0; 8].into()), Pushed::Crowded);
        let mut patience = Patience::new();
        for _ in 0..10 {
            patience.wait(&mut vec![outbox.clone()]).await;
        }
        assert!(patience.left > Patience::MAX / 2, "{patience:?}");
    }

    #[test]
    fn only_another_source_counts_anew() {
        let taken = Cursor {
            commit_lsn: Lsn(100),
            ordinal: 3,
        };
        for (reason, resumes_at, expected) in [
            (GapReason::PublicationRecreated, 90, taken),
            (GapReason::SlotAdvanced, 120, taken),
            (GapReason::SlotMissing, 20, Cursor::default()),
            (GapReason::OtherServer, 20, Cursor::default()),
        ] {
            let progress = Progress {
                taken,
                finished: Some(Lsn(95)),
                acknowledged: Lsn(80),
            };
            let gap = Gap {
                reason,
                after: Lsn(80),
                resumes_at: Lsn(resumes_at),
            };
            let after = progress.after(&gap);
            assert_eq!(after.taken, expected, "{reason:?}");
            assert_eq!(after.finished, None, "nothing of before is acknowledged");
            assert!(after.cursor().commit_lsn < Lsn(resumes_at) || after.cursor() == taken);
        }
    }
}
