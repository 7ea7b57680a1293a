//! One task of the replay: takes in who is to be caught up, finds them a walk, and makes the walks
//! in turn.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;
use walcast_change::{Cursor, Position};
use walcast_hub::{Pushed, Withdrawn};
use walcast_log::{History, ReadError};
use walcast_protocol::Refusal;
use walcast_rls::{CheckConfig, PostgresCheck};

use crate::metrics::Metrics;
use crate::order::{Attached, Orders};
use crate::publisher::{BatchLimits, Publisher};
use crate::replay::{ASKS_MAX, Ask, Resume, unavailable};
use crate::walk::{Walk, Walker, dismiss, epoch_changed, too_old};

/// Walks at the same time. More places to begin at wait, or join a walk that begins before them.
const WALKS_MAX: usize = 4;
/// A walk so many bytes of WAL before a place is joined; one farther away would take long.
const NEAR_BYTES: u64 = 16 << 20;
/// Between two looks whether somebody may go back to the pipeline, or the checks can be asked.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Taken in before the walks go on.
const ASKS_AT_ONCE: usize = 16_384;

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
    /// Begins a task.
    pub(crate) fn begin(self) -> mpsc::Sender<Ask> {
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
            // Nobody can be placed now, or all are at the end of the log, and stay away from the pipeline for a while.
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => self.carry_out(ask),
                    None => return,
                },
                _ = written.changed(), if !self.walks.is_empty() => {}
                () = sleep(LOOK_AGAIN) => {}
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
        busy || self.walks.is_empty() && self.waiting.is_empty()
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
        let had = member.gate.take().and_then(|gate| gate.skip());
        let attached = Attached {
            id,
            connection,
            spec,
            member,
        };
        let resume = Resume {
            attached: attached.clone(),
            since,
            had,
            acknowledge: None,
            caught_up: None,
        };
        if let Err(refusal) = self.take_in(resume, until) {
            dismiss(&attached, &refusal);
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
        let mut away = false;
        for walker in waiting {
            if walker.attached.has_ended() {
                continue;
            }
            if away {
                self.waiting.push(walker);
                continue;
            }
            match self.walk_for(walker.since).await {
                Ok(Some(walk)) => walk.enter(walker),
                Ok(None) => {
                    // There was room for a walk, but no connection: trying may take long, once is enough.
                    away = self.walks.len() < WALKS_MAX;
                    self.waiting.push(walker);
                }
                Err(refusal) => dismiss(&walker.attached, &refusal),
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
                let Some(walk) = self.new_walk(since).await? else {
                    return Ok(None);
                };
                self.walks.push(walk);
                self.walks.len() - 1
            }
            Some((at, _)) => at,
            None => return Ok(None),
        };
        Ok(self.walks.get_mut(at))
    }

    /// `None`: not now.
    async fn new_walk(&mut self, since: Position) -> Result<Option<Walk<PostgresCheck>>, Refusal> {
        let made_of = &self.made_of;
        let reader = made_of.history.reader_after(since);
        let reader = reader.map_err(|error| match error {
            ReadError::EpochChanged { .. } => epoch_changed(),
            _ => too_old(),
        })?;
        let publisher = match self.idle.pop() {
            Some(publisher) => publisher,
            None => match connect(&self.made_of).await {
                Some(publisher) => publisher,
                None => return Ok(None),
            },
        };
        Ok(Some(Walk::new(
            publisher,
            reader,
            self.made_of.history.written(),
        )))
    }
}

/// How long a connection for the checks may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

async fn connect(made_of: &Replayer) -> Option<Publisher<PostgresCheck>> {
    let connected = PostgresCheck::connect(made_of.check.clone());
    match timeout(CONNECT_PATIENCE, connected).await {
        Ok(Ok(check)) => Some(Publisher::new(check, made_of.metrics.clone())),
        Ok(Err(error)) => {
            warn!(%error, "who missed changes waits for a connection of the checks");
            None
        }
        Err(_) => None,
    }
}
