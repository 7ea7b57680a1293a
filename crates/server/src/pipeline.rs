//! The whole path of a change, from the stream to the outboxes. Read this first.
//!
//! One task owns the stream, the decoder and the audience; nothing here is locked. It collects
//! what has arrived into a batch, asks row-level security about the whole batch at once, publishes,
//! and only then acknowledges. Between two batches it carries out the orders of the sessions.
//!
//! Order: batches are published one after the other and each in commit order, so every outbox
//! gets its changes in the order of their cursors.
//! Acknowledgement: an LSN goes back to Postgres when everything before it is durable in the log, or,
//! without one, in the outboxes.
//! What Postgres sends again after a broken connection is recognised by its cursor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};
use walcast_change::{Change, Decoder, Position, Shape, Step};
use walcast_hub::{Pushed, Withdrawn};
use walcast_log::LogError;
use walcast_pgoutput::{Lsn, Message};
use walcast_rls::RowCheck;
use walcast_source::{Event, Gap, GapReason, Source, SourceError, StreamState};

use crate::describe::Describe;
use crate::journal::Journal;
use crate::messages::{Delivery, is_message_table};
use crate::metrics::Metrics;
use crate::order::{Attached, Begin, Order, Place};
use crate::plan::Plan;
use crate::progress::{Progress, keeps_order};
use crate::publisher::{BatchLimits, Publisher, gap_frame};
use crate::recent::Recent;
use crate::replay::Replay;

/// Why changes can't flow any more.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Judging a batch may take so long before it is looked for who is slow. Everybody waits for it.
const SLOW: Duration = Duration::from_millis(300);
/// How long tables are judged one by one to find out.
const ONE_BY_ONE_FOR: Duration = Duration::from_secs(10);
/// How long those are served from the log of whom it is not known what they may see: as long as
/// row-level security does not ask again on behalf of a viewer whose check timed out.
const UNJUDGED_FOR: Duration = Duration::from_secs(30);
/// How long a slow table's subscribers are served from the log.
const ASIDE_FOR: Duration = Duration::from_secs(60);

/// What the log gets, when the server stops, to become durable.
const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

/// Messages taken in one go before the orders get their turn.
const MESSAGES_MAX: usize = 16_384;

pub(crate) struct Pipeline<C> {
    pub(crate) source: Source,
    pub(crate) decoder: Decoder,
    pub(crate) describe: Describe,
    pub(crate) publisher: Publisher<C>,
    pub(crate) orders: mpsc::Receiver<Order>,
    pub(crate) limits: BatchLimits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) progress: Progress,
    pub(crate) journal: Journal,
    /// What SQL sends to channels.
    pub(crate) messages: Delivery,
    /// Where those go that can't be served here for a while.
    pub(crate) replay: Replay,
    /// Row-level security has something to prepare for those who came.
    pub(crate) preparing: bool,
    /// Until then a batch has changes of one table only.
    pub(crate) one_by_one_until: Instant,
    /// Everything up to here has been published.
    pub(crate) published: watch::Sender<Position>,
    pub(crate) recent: Arc<Recent>,
    /// Subscriptions that wait for the stream to be live. Bounded by the connections: each waits
    /// for the answer before it asks for more.
    pub(crate) waiting: Vec<Begin>,
}

impl<C: RowCheck> Pipeline<C> {
    /// Runs until `stop`, or until the stream or the log fails for good. What is durable is
    /// acknowledged before it ends.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), PipelineError> {
        let ended = self.follow(stop).await;
        if let Some(durable) = self.journal.close(CLOSE_PATIENCE).await {
            self.source.acknowledge(durable);
        }
        self.source.close().await;
        ended
    }

    async fn follow(&mut self, stop: CancellationToken) -> Result<(), PipelineError> {
        self.describe.settled().await;
        let mut state = self.source.state();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                order = self.orders.recv() => match order {
                    Some(order) => {
                        self.carry_out(order, is_live(&state));
                        self.preparing = true;
                    }
                    None => return Ok(()),
                },
                Ok(()) = state.changed() => {
                    if is_live(&state) {
                        let start = self.source.started_at();
                        self.journal.begin(start).await?;
                        self.progress.begin(start);
                        for begin in std::mem::take(&mut self.waiting) {
                            self.begin(begin);
                        }
                    }
                }
                durable = self.journal.more_durable() => self.source.acknowledge(durable),
                event = self.source.next() => {
                    // Cancelled while the disk takes nothing, for then it would wait for ever.
                    tokio::select! {
                        biased;
                        done = self.batch(event?) => done?,
                        () = stop.cancelled() => return Ok(()),
                    }
                }
                () = std::future::ready(()), if self.preparing => {
                    self.preparing = self.publisher.check.prepare().await;
                }
            }
        }
    }

    /// Takes `first` and what has arrived behind it, keeps it, judges, publishes, acknowledges.
    async fn batch(&mut self, first: Event) -> Result<(), PipelineError> {
        let mut plan = Plan::default();
        let mut next = Some(first);
        for _ in 0..MESSAGES_MAX {
            let Some(event) = next.take().or_else(|| self.source.try_next()) else {
                break;
            };
            self.take(event, &mut plan).await?;
            let messages_full = self.messages.bytes() >= self.limits.bytes_max;
            if self.limits.reached(&plan) || self.journal.is_full() || messages_full {
                break;
            }
        }
        self.publish(plan).await?;
        if let Some(lsn) = self.progress.finished.take() {
            self.progress.acknowledged = lsn;
            self.source.acknowledge(self.journal.settled(lsn));
        }
        Ok(())
    }

    /// What nobody can be shown again was never shown: first the log, then the subscribers.
    async fn publish(&mut self, plan: Plan) -> Result<(), PipelineError> {
        self.journal.flush().await?;
        let epoch = self.journal.epoch();
        let begun = Instant::now();
        let verdicts = self.publisher.judge(&plan).await;
        let slow = begun.elapsed() > SLOW;
        let since = *self.published.borrow();
        self.set_aside(&plan.unjudged(&verdicts), since, UNJUDGED_FOR);
        self.publisher.publish(&plan, &verdicts, epoch).await;
        if slow {
            self.find_the_slow(&plan);
        }
        let mut crowded = self.messages.deliver();
        self.publisher.give_way(&mut crowded).await;
        if let Some(last) = plan.last() {
            self.metrics.reached(last);
        }
        let position = self.position();
        self.published.send_replace(position);
        Ok(())
    }

    /// Judging a batch took long, and everybody waited. From now on tables are judged one by one, and
    /// if it happens again, those who subscribed to that table are served from the log for a while.
    fn find_the_slow(&mut self, plan: &Plan) {
        let now = Instant::now();
        let again = self.one_by_one_until > now;
        self.one_by_one_until = now + ONE_BY_ONE_FOR;
        let Some(shape) = plan.only_table().filter(|_| again) else {
            return;
        };
        let groups = self.publisher.audience.groups(shape);
        let all: Vec<_> = groups
            .map(|(_, group)| (group.viewer, shape.clone()))
            .collect();
        warn!(schema = %shape.schema, table = %shape.table, "judging changes of this table takes long (walcast explain-rls says why); its subscribers are served behind the others for a while");
        let here = self.position();
        self.set_aside(&all, here, ASIDE_FOR);
    }

    /// Whether a change belongs into another batch than `plan`.
    fn apart(&self, change: &Change, plan: &Plan) -> bool {
        let other = || {
            plan.last()
                .is_some_and(|last| last.shape.id != change.shape.id)
        };
        self.one_by_one_until > Instant::now() && other()
    }

    /// For some the check itself failed, or takes too long. Nobody waits for them: they go on from
    /// the log, behind `since`; or are told that they have a gap if there is no log.
    fn set_aside(&mut self, unjudged: &[(u32, Arc<Shape>)], since: Position, stay: Duration) {
        if unjudged.is_empty() {
            return;
        }
        let mut withdrawn = self.publisher.withdraw(unjudged);
        // Who is just being caught up goes on being so.
        withdrawn.retain(|one| !one.member.gate.as_ref().is_some_and(|gate| gate.give_up()));
        if withdrawn.is_empty() {
            return;
        }
        warn!(
            subscriptions = withdrawn.len(),
            "subscriptions are set aside and served from the log"
        );
        self.metrics.set_aside.inc_by(withdrawn.len() as u64);
        let until = tokio::time::Instant::now() + stay;
        if let Err(withdrawn) = self.replay.rejoin(withdrawn, since, until) {
            for Withdrawn {
                id,
                connection,
                spec,
                member,
            } in withdrawn
            {
                // Without a log who is slow goes on here, and misses nothing.
                if stay == UNJUDGED_FOR {
                    member.outbox.push(gap_frame(&spec, "unjudged"));
                }
                let viewer = member.standing.viewer();
                member.standing.set_live();
                self.publisher
                    .subscribe(id, connection, &viewer, spec, member);
            }
        }
    }

    async fn take(&mut self, event: Event, plan: &mut Plan) -> Result<(), PipelineError> {
        match event {
            Event::Message(message) => self.message(message, plan).await?,
            Event::Idle(lsn) => {
                if !self.decoder.in_transaction() {
                    self.finish(lsn);
                }
            }
            Event::Restarted => self.decoder.restart(),
            Event::Gap(gap) => {
                self.publish(std::mem::take(plan)).await?;
                self.gap(&gap).await?;
            }
        }
        Ok(())
    }

    /// Everything before `lsn` was taken.
    fn finish(&mut self, lsn: Lsn) {
        self.journal.commit(lsn);
        self.progress.finished = Some(lsn);
    }

    async fn message(&mut self, message: Message, plan: &mut Plan) -> Result<(), PipelineError> {
        if let Message::Relation(relation) = &message {
            self.publisher.check.invalidate();
            self.describe.relation(relation, &mut self.decoder).await;
            return Ok(());
        }
        if let Message::Begin(_) = &message {
            self.describe.again(&mut self.decoder).await;
        }
        match self.decoder.step(message) {
            Ok(Step::Nothing | Step::Logical(_)) => {}
            Ok(Step::Change(change)) => {
                if self.apart(&change, plan) {
                    self.publish(std::mem::take(plan)).await?;
                }
                self.change(change, plan);
            }
            Ok(Step::Truncate(changes)) => {
                for change in changes {
                    self.change(change, plan);
                }
            }
            Ok(Step::Commit(commit)) => {
                self.finish(commit.end_lsn);
                self.metrics.transactions.inc();
            }
            Err(error) => {
                error!(%error, "a message of the stream makes no sense; starting the stream anew");
                self.decoder.restart();
                self.source.restart(error);
            }
        }
        Ok(())
    }

    fn change(&mut self, change: Change, plan: &mut Plan) {
        if change.cursor <= self.progress.taken {
            self.metrics.repeated.inc();
            return;
        }
        self.progress.taken = change.cursor;
        if self.progress.xid.replace(change.xid) != Some(change.xid) {
            self.recent.add(change.xid);
        }
        self.metrics.change(&change);
        if is_message_table(&change.shape) {
            // Kept only to be known when Postgres sends it again.
            self.journal.append(&change);
            self.messages.add(&change);
        } else if self.describe.publishes(&change) {
            self.journal.append(&change);
            self.publisher.add(change, plan);
        }
    }

    /// Changes were lost before they came here. Nobody may be left to believe otherwise.
    async fn gap(&mut self, gap: &Gap) -> Result<(), PipelineError> {
        let reason = gap.reason.name();
        warn!(reason, "changes were lost; telling all subscribers");
        self.decoder.restart();
        self.journal.new_epoch(reason).await?;
        self.journal.begin(gap.resumes_at).await?;
        self.progress = self.progress.after(gap);
        if matches!(gap.reason, GapReason::OtherServer | GapReason::Promoted) {
            self.recent.clear();
        }
        self.published.send_replace(self.position());
        self.publisher.tell_gap(reason, !keeps_order(gap.reason));
        Ok(())
    }

    fn carry_out(&mut self, order: Order, live: bool) {
        match order {
            Order::Subscribe(begin) if live => self.begin(begin),
            // Subscribed means subscribed: not before changes flow.
            Order::Subscribe(begin) => {
                self.waiting.retain(|begin| !begin.done.is_closed());
                self.waiting.push(begin);
            }
            Order::Attach(attached, epoch, done) => {
                let here = (epoch == self.journal.epoch()).then(|| Place {
                    position: self.position(),
                    logged: self.journal.last(),
                });
                if done.send(here).is_ok() && here.is_some() {
                    attached.into_iter().for_each(|one| {
                        self.attach(one);
                    });
                }
            }
            Order::Unsubscribe(id, done) => {
                self.publisher.unsubscribe(id);
                let _ = done.send(());
            }
            Order::SetViewer(connection, viewer, done) => {
                self.publisher.set_viewer(connection, &viewer);
                let _ = done.send(());
            }
            Order::Disconnect(connection) => {
                self.waiting
                    .retain(|begin| begin.attached.connection != connection);
                self.publisher.disconnect(connection);
            }
        }
        let subscriptions = self.publisher.audience.len();
        self.metrics.subscriptions.set(subscriptions as i64);
    }

    fn begin(&mut self, begin: Begin) {
        let Begin {
            attached,
            more,
            acknowledge,
            done,
        } = begin;
        if done.is_closed() || attached.has_ended() {
            return;
        }
        // One that is asked for again while it is being caught up goes on being so.
        let behind = attached.member.standing.behind();
        // The acknowledgement goes first, so that no change can stand before it.
        if let Some(frame) = acknowledge(behind.unwrap_or(self.position()))
            && attached.member.outbox.push(frame) == Pushed::Closed
        {
            return;
        }
        let mut new = Vec::with_capacity(1 + more.len());
        for attached in std::iter::once(attached).chain(more) {
            let id = attached.id;
            // One that exists already was asked for again: it is acknowledged again and stays.
            if attached.member.standing.behind().is_none() && self.attach(attached) {
                new.push(id);
            }
        }
        if done.send(()).is_err() {
            for id in new {
                self.publisher.unsubscribe(id);
            }
        }
    }

    /// Whether it is new.
    fn attach(&mut self, attached: Attached) -> bool {
        if attached.has_ended() {
            return false;
        }
        let Attached {
            id,
            connection,
            spec,
            member,
        } = attached;
        let viewer = member.standing.viewer();
        self.publisher
            .subscribe(id, connection, &viewer, spec, member)
    }

    fn position(&self) -> Position {
        Position {
            cursor: self.progress.cursor(),
            epoch: self.journal.epoch(),
        }
    }
}

fn is_live(state: &watch::Receiver<StreamState>) -> bool {
    matches!(*state.borrow(), StreamState::Streaming { .. })
}
