//! Catches subscriptions up from the log, beside the live stream and without delaying it. A task
//! makes all its walks in turn; sessions and the pipeline only hear of its results.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tracing::warn;
use walcast_change::{Cursor, Position};
use walcast_hub::{ConnId, Pushed, Skip, SubscriptionId, Withdrawn};
use walcast_log::{History, ReadError};
use walcast_protocol::{Code, Refusal, codec_of};
use walcast_rls::{CheckConfig, PostgresCheck, Viewer};

use crate::metrics::Metrics;
use crate::order::{Attached, Orders};
use crate::publisher::{BatchLimits, Publisher, gap_frame};
use crate::session::text_frame;
use crate::walk::{Said, Walk, Walker, epoch_changed, too_old};

/// A subscription that is to go on from where it was.
pub(crate) struct Resume {
    pub(crate) attached: Attached,
    pub(crate) since: Position,
    /// What came after `since` and it has all the same.
    pub(crate) had: Option<Skip>,
    /// `None`: said already.
    pub(crate) acknowledge: Option<Said>,
    /// `None`: nobody has to hear of it.
    pub(crate) caught_up: Option<Said>,
}

/// Walks at the same time. More places to begin at wait, or join a walk that begins before them.
const WALKS_MAX: usize = 4;
/// A walk so many bytes of WAL before a place is joined; one farther away would take long.
const NEAR_BYTES: u64 = 16 << 20;
/// Questions of sessions that may wait; sessions wait beyond that.
const ASKS_MAX: usize = 1024;
/// Between two looks whether somebody may go back to the pipeline.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Taken in before the walks go on.
const ASKS_AT_ONCE: usize = 16_384;

enum Ask {
    Resume(Resume, oneshot::Sender<Result<(), Refusal>>),
    /// From the pipeline, which waits for nobody. They don't go back to it before the time.
    Rejoin(Vec<Withdrawn>, Position, Instant),
    Unsubscribe(SubscriptionId, oneshot::Sender<()>),
    SetViewer(ConnId, Viewer, oneshot::Sender<()>),
    Disconnect(ConnId, oneshot::Sender<()>),
}

/// The way to the replay: several tasks, so that clients who come back need not wait for those whom
/// the pipeline has set aside because they are slow to judge, and these rarely for each other.
/// Without a log there is none.
#[derive(Clone)]
pub(crate) struct Replay {
    lanes: Option<Lanes>,
}

#[derive(Clone)]
struct Lanes {
    back: mpsc::Sender<Ask>,
    /// One table's subscriptions go to one of them.
    aside: Arc<[mpsc::Sender<Ask>]>,
}

/// Lanes for tables that are slow to judge.
const ASIDE_LANES: usize = 8;

impl Replay {
    /// Nothing is kept.
    pub(crate) fn none() -> Replay {
        Replay { lanes: None }
    }

    /// Whether there is a log.
    pub(crate) fn is_kept(&self) -> bool {
        self.lanes.is_some()
    }

    /// Returns when the subscription was acknowledged.
    pub(crate) async fn resume(&self, resume: Resume) -> Result<(), Refusal> {
        let channel = resume.attached.spec.channel.clone();
        let Some(Lanes { back, .. }) = &self.lanes else {
            let text =
                "this server keeps no log of changes (setting log_dir); read the table again";
            return Err(Refusal::new(Code::CursorTooOld, text).on(&*channel));
        };
        let (done, resumed) = oneshot::channel();
        let sent = back.send(Ask::Resume(resume, done)).await.is_ok();
        let answer = match sent {
            true => resumed.await.ok(),
            false => None,
        };
        answer
            .unwrap_or_else(|| Err(unavailable()))
            .map_err(|refusal| refusal.on(&*channel))
    }

    /// Takes over subscriptions that the pipeline can't serve well, until a time at least; gives them
    /// back if there is no log, or no room.
    pub(crate) fn rejoin(
        &self,
        withdrawn: Vec<Withdrawn>,
        since: Position,
        until: Instant,
    ) -> Result<(), Vec<Withdrawn>> {
        let Some(Lanes { aside, .. }) = &self.lanes else {
            return Err(withdrawn);
        };
        let mut by_lane: HashMap<usize, Vec<Withdrawn>> = HashMap::new();
        for one in withdrawn {
            one.member.standing.set_aside();
            let mut hasher = DefaultHasher::new();
            one.spec.target.hash(&mut hasher);
            let lane = hasher.finish() as usize % aside.len();
            by_lane.entry(lane).or_default().push(one);
        }
        let mut back = Vec::new();
        for (lane, withdrawn) in by_lane {
            match aside[lane].try_send(Ask::Rejoin(withdrawn, since, until)) {
                Ok(()) => {}
                Err(error) => match error.into_inner() {
                    Ask::Rejoin(withdrawn, ..) => back.extend(withdrawn),
                    _ => unreachable!("what was sent comes back"),
                },
            }
        }
        match back.is_empty() {
            true => Ok(()),
            false => Err(back),
        }
    }

    pub(crate) async fn unsubscribe(&self, id: SubscriptionId) {
        self.ask(|done| Ask::Unsubscribe(id, done)).await;
    }

    pub(crate) async fn set_viewer(&self, connection: ConnId, viewer: Viewer) {
        self.ask(|done| Ask::SetViewer(connection, viewer.clone(), done))
            .await;
    }

    pub(crate) async fn disconnect(&self, connection: ConnId) {
        self.ask(|done| Ask::Disconnect(connection, done)).await;
    }

    /// Each of them may have it.
    async fn ask(&self, ask: impl Fn(oneshot::Sender<()>) -> Ask) {
        let Some(Lanes { back, aside }) = &self.lanes else {
            return;
        };
        for lane in std::iter::once(back).chain(aside.iter()) {
            let (done, answered) = oneshot::channel();
            if lane.send(ask(done)).await.is_ok() {
                let _ = answered.await;
            }
        }
    }
}

/// What the replay is made of.
#[derive(Clone)]
pub(crate) struct Replayer {
    pub(crate) history: History,
    pub(crate) check: CheckConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) orders: Orders,
    pub(crate) limits: BatchLimits,
}

struct State {
    made_of: Replayer,
    walks: Vec<Walk<PostgresCheck>>,
    /// Those that found no place yet.
    waiting: Vec<Walker>,
    /// Left by walks that ended.
    idle: Vec<Publisher<PostgresCheck>>,
}

impl Replayer {
    /// Begins its tasks, which end with the last [`Replay`].
    pub(crate) fn begin(self) -> Replay {
        let lanes = Lanes {
            back: self.clone().lane(),
            aside: (0..ASIDE_LANES).map(|_| self.clone().lane()).collect(),
        };
        Replay { lanes: Some(lanes) }
    }

    fn lane(self) -> mpsc::Sender<Ask> {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let state = State {
            made_of: self,
            walks: Vec::new(),
            waiting: Vec::new(),
            idle: Vec::new(),
        };
        tokio::spawn(state.run(asked));
        asks
    }
}

impl State {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        let mut written = self.made_of.history.written();
        loop {
            let nobody = self.walks.is_empty() && self.waiting.is_empty();
            if nobody {
                match asked.recv().await {
                    Some(ask) => self.carry_out(ask),
                    None => return,
                }
            }
            for _ in 0..ASKS_AT_ONCE {
                match asked.try_recv() {
                    Ok(ask) => self.carry_out(ask),
                    Err(_) => break,
                }
            }
            written.borrow_and_update();
            self.place_waiting().await;
            if self.round().await {
                continue;
            }
            // All are at the end of the log, and stay away from the pipeline for a while.
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.carry_out(ask),
                    None => return,
                },
                _ = written.changed() => {}
                () = sleep(LOOK_AGAIN), if !self.walks.is_empty() => {}
            }
        }
    }

    /// One step of every walk; whether one of them has more to do.
    async fn round(&mut self) -> bool {
        let mut busy = false;
        for walk in &mut self.walks {
            busy |= walk.step(self.made_of.limits, &self.made_of.orders).await;
        }
        let (ended, walks) = std::mem::take(&mut self.walks)
            .into_iter()
            .partition(|walk: &Walk<_>| walk.is_empty());
        self.walks = walks;
        let ended: Vec<_> = ended;
        self.idle.extend(ended.into_iter().map(Walk::end));
        let walking: usize = self.walks.iter().map(Walk::len).sum();
        self.made_of.metrics.replaying.set(walking as i64);
        busy || self.walks.is_empty()
    }

    fn carry_out(&mut self, ask: Ask) {
        match ask {
            Ask::Resume(resume, done) => {
                let now = Instant::now();
                let _ = done.send(self.take_in(resume, now));
            }
            Ask::Rejoin(withdrawn, since, until) => {
                for one in withdrawn {
                    self.take_back(one, since, until);
                }
            }
            Ask::Unsubscribe(id, done) => {
                self.waiting.retain(|walker| walker.attached.id != id);
                self.walks.iter_mut().for_each(|walk| walk.unsubscribe(id));
                let _ = done.send(());
            }
            Ask::SetViewer(connection, viewer, done) => {
                for walk in &mut self.walks {
                    walk.set_viewer(connection, &viewer);
                }
                let _ = done.send(());
            }
            Ask::Disconnect(connection, done) => {
                self.waiting
                    .retain(|walker| walker.attached.connection != connection);
                for walk in &mut self.walks {
                    walk.disconnect(connection);
                }
                let _ = done.send(());
            }
        }
    }

    fn take_back(&mut self, withdrawn: Withdrawn, since: Position, until: Instant) {
        let Withdrawn {
            id,
            connection,
            spec,
            mut member,
        } = withdrawn;
        let outbox = member.outbox.clone();
        let had = member.gate.take().and_then(|gate| gate.skip());
        let resume = Resume {
            attached: Attached {
                id,
                connection,
                spec: spec.clone(),
                member,
            },
            since,
            had,
            acknowledge: None,
            caught_up: None,
        };
        if self.take_in(resume, until).is_err() {
            outbox.push(gap_frame(&spec, "unjudged"));
        }
    }

    /// Acknowledges it if what it missed is still there.
    fn take_in(&mut self, resume: Resume, until: Instant) -> Result<(), Refusal> {
        let Resume {
            attached,
            since,
            had,
            acknowledge,
            caught_up,
        } = resume;
        let history = &self.made_of.history;
        history.reader_after(since).map_err(|error| match error {
            ReadError::EpochChanged { .. } => epoch_changed(),
            ReadError::TooOld { oldest } => Refusal {
                oldest: Some(Position {
                    cursor: oldest,
                    ..since
                }),
                ..too_old()
            },
            _ => unavailable(),
        })?;
        if let Some(acknowledge) = acknowledge
            && attached.member.outbox.push(acknowledge(since)) == Pushed::Closed
        {
            return Ok(());
        }
        self.waiting.push(Walker {
            attached,
            since,
            had,
            until,
            caught_up,
        });
        Ok(())
    }

    /// Finds everybody a walk: one that will come by soon, or a new one.
    async fn place_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        // From the oldest: a walk that begins there takes the others in.
        waiting.sort_by_key(|walker| walker.since.cursor);
        for walker in waiting {
            if walker.attached.has_ended() {
                continue;
            }
            match self.walk_for(walker.since).await {
                Ok(Some(walk)) => walk.enter(walker),
                Ok(None) => self.waiting.push(walker),
                Err(refusal) => self.refuse(&walker, refusal),
            }
        }
    }

    async fn walk_for(
        &mut self,
        since: Position,
    ) -> Result<Option<&mut Walk<PostgresCheck>>, Refusal> {
        let before = self.walks.iter().enumerate();
        let before = before.filter(|(_, walk)| walk.reached() <= since.cursor);
        let nearest = before.max_by_key(|(_, walk)| walk.reached());
        let nearest = nearest.map(|(at, walk)| (at, walk.reached()));
        let is_near = |reached: Cursor| {
            let distance = since
                .cursor
                .commit_lsn
                .0
                .saturating_sub(reached.commit_lsn.0);
            distance <= NEAR_BYTES
        };
        let at = match nearest {
            Some((at, reached)) if is_near(reached) => at,
            _ if self.walks.len() < WALKS_MAX => {
                let walk = self.new_walk(since).await?;
                self.walks.push(walk);
                self.walks.len() - 1
            }
            Some((at, _)) => at,
            None => return Ok(None),
        };
        Ok(self.walks.get_mut(at))
    }

    async fn new_walk(&mut self, since: Position) -> Result<Walk<PostgresCheck>, Refusal> {
        let made_of = &self.made_of;
        let reader = made_of.history.reader_after(since);
        let reader = reader.map_err(|error| match error {
            ReadError::EpochChanged { .. } => epoch_changed(),
            _ => too_old(),
        })?;
        let publisher = match self.idle.pop() {
            Some(publisher) => publisher,
            None => {
                let connected = PostgresCheck::connect(made_of.check.clone());
                let connected = tokio::time::timeout(CONNECT_PATIENCE, connected).await;
                let check = match connected {
                    Ok(Ok(check)) => check,
                    Ok(Err(error)) => {
                        warn!(%error, "nobody can be caught up: no connection for the checks");
                        return Err(unavailable());
                    }
                    Err(_) => return Err(unavailable()),
                };
                Publisher::new(check, made_of.metrics.clone())
            }
        };
        Ok(Walk::new(publisher, reader, made_of.history.written()))
    }

    fn refuse(&self, walker: &Walker, refusal: Refusal) {
        let Attached { spec, member, .. } = &walker.attached;
        let refusal = refusal.on(&*spec.channel);
        member.outbox.push(text_frame(|out| {
            codec_of(spec.format).refusal(&refusal, out);
        }));
    }
}

/// How long a connection for the checks may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

fn unavailable() -> Refusal {
    let text = "missed changes can't be read right now; try again in a moment";
    Refusal::new(Code::SubscriptionFailed, text)
}
