//! Catches subscriptions up from the log, beside the live stream and without delaying it. A task
//! makes all its walks in turn; sessions and the pipeline only hear of its results.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use walcast_change::Position;
use walcast_hub::{ConnId, Skip, SubscriptionId, Withdrawn};
use walcast_protocol::{Code, Refusal};
use walcast_rls::Viewer;

use crate::lane::Replayer;
use crate::order::Attached;
use crate::walk::Said;

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

/// Questions of sessions that may wait; sessions wait beyond that.
pub(crate) const ASKS_MAX: usize = 1024;
/// What the tasks are asked.
pub(crate) enum Ask {
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
    /// The subscriptions of a table and a role go to one of them.
    aside: Arc<[mpsc::Sender<Ask>]>,
}

/// How long it is waited until an end is known everywhere. A task that waits for the database knows
/// of it later; whoever ends holds nobody up, and nothing of it is sent meanwhile.
const END_PATIENCE: Duration = Duration::from_secs(1);

/// Lanes for those who are slow to judge. Two roles of a table have other policies: they should
/// rarely share one.
const ASIDE_LANES: usize = 32;

impl Replay {
    /// Begins its tasks, which end with the last copy of what is returned.
    pub(crate) fn begin(replayer: &Replayer) -> Replay {
        let lane = || replayer.clone().begin();
        let lanes = Lanes {
            back: lane(),
            aside: (0..ASIDE_LANES).map(|_| lane()).collect(),
        };
        Replay { lanes: Some(lanes) }
    }

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
            one.member.standing.set_aside(since);
            let mut hasher = DefaultHasher::new();
            one.spec.target.hash(&mut hasher);
            one.member.standing.viewer().role.hash(&mut hasher);
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

    /// Its standing has ended before.
    pub(crate) async fn unsubscribe(&self, id: SubscriptionId) {
        let asked = self.ask(|done| Ask::Unsubscribe(id, done));
        let _ = timeout(END_PATIENCE, asked).await;
    }

    pub(crate) async fn set_viewer(&self, connection: ConnId, viewer: Viewer) {
        self.ask(|done| Ask::SetViewer(connection, viewer.clone(), done))
            .await;
    }

    /// The standings of its subscriptions have ended before.
    pub(crate) async fn disconnect(&self, connection: ConnId) {
        let asked = self.ask(|done| Ask::Disconnect(connection, done));
        let _ = timeout(END_PATIENCE, asked).await;
    }

    /// Each of them may have it. None waits for another.
    async fn ask(&self, ask: impl Fn(oneshot::Sender<()>) -> Ask) {
        let Some(Lanes { back, aside }) = &self.lanes else {
            return;
        };
        let asked = std::iter::once(back).chain(aside.iter()).map(|lane| {
            let (done, answered) = oneshot::channel();
            let ask = ask(done);
            async move {
                if lane.send(ask).await.is_ok() {
                    let _ = answered.await;
                }
            }
        });
        join_all(asked).await;
    }
}

pub(crate) fn unavailable() -> Refusal {
    let text = "missed changes can't be read right now; try again in a moment";
    Refusal::new(Code::SubscriptionFailed, text)
}
