//! Joins that wait until their changes are live, beside all else that their socket does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use walcast_hub::Membership;
use walcast_protocol::phoenix::{Join, Reason, System};
use walcast_rls::Viewer;

use super::changes::{Changes, Missing, Work};
use super::channel::Channel;
use super::join::{Entrance, Refused};

/// A join on its way. It is given up when this is dropped.
pub(super) struct Waiting {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Option<Channel>>,
    bindings: usize,
}

/// What is done at the end of the wait.
pub(super) struct Ends {
    /// Makes the membership, and says so to the client.
    pub(super) entrance: Entrance,
    /// Makes the channel of it.
    pub(super) seat: Box<dyn FnOnce(Membership, Option<Changes>) -> Channel + Send>,
    /// Tells the client why not.
    pub(super) refuse: Box<dyn FnOnce(Refused) + Send>,
}

/// How long a join waits unless it says otherwise, and at most.
const WAIT: Duration = Duration::from_secs(15);
const WAIT_MAX: Duration = Duration::from_secs(20);

impl Waiting {
    pub(super) fn begin(mut work: Work, viewer: Viewer, ends: Ends, patience: Duration) -> Waiting {
        let (stop, stopped) = oneshot::channel();
        let bindings = work.bindings();
        let Ends {
            entrance,
            seat,
            refuse,
        } = ends;
        let task = tokio::spawn(async move {
            let waited = tokio::select! {
                waited = wait(&mut work, &viewer, entrance, patience) => waited,
                _ = stopped => {
                    work.end().await;
                    return None;
                }
            };
            match waited {
                Ok((membership, begun)) => Some(seat(membership, Some(work.start(viewer, begun)))),
                Err(refused) => {
                    work.end().await;
                    refuse(refused);
                    None
                }
            }
        });
        Waiting {
            stop,
            task,
            bindings,
        }
    }

    pub(super) fn bindings(&self) -> usize {
        self.bindings
    }

    pub(super) fn is_finished(&self) -> bool {
        self.task.is_finished()
    }

    /// The channel, once it is joined; `None` if it was refused.
    pub(super) async fn outcome(self) -> Option<Channel> {
        // What tells it to stop must live as long.
        let Waiting { stop, task, .. } = self;
        let channel = task.await.ok().flatten();
        drop(stop);
        channel
    }

    /// Nobody waits any more. The channel, if it was joined just before.
    pub(super) async fn give_up(self) -> Option<Channel> {
        drop(self.stop);
        self.task.await.ok().flatten()
    }
}

pub(super) fn patience(join: &Join) -> Duration {
    let asked = join.changes.timeout_ms.map(Duration::from_millis);
    asked.unwrap_or(WAIT).min(WAIT_MAX)
}

/// Makes the changes live, and the channel with them, at one place in the stream; and whether all
/// is known to be live.
async fn wait(
    work: &mut Work,
    viewer: &Viewer,
    entrance: Entrance,
    patience: Duration,
) -> Result<(Membership, bool), Refused> {
    // Whoever comes first decides: the pipeline that it is live, or the clock that it is too late.
    let decided = Arc::new(AtomicBool::new(false));
    let decides = decided.clone();
    let (entered, membership) = oneshot::channel();
    let attempt = work.attempt(viewer, |refused| {
        let all = refused.is_empty();
        Box::new(move || {
            if all && !decides.swap(true, Ordering::AcqRel) {
                let _ = entered.send(entrance());
            }
            None
        })
    });
    let outcome = timeout(patience, attempt).await;
    match &outcome {
        Ok(Err(Missing::Never(refused))) => {
            let message = refused.first().map(System::to_string).unwrap_or_default();
            return Err(Reason::ChangesRefused { message }.into());
        }
        Ok(Err(Missing::Later)) | Err(_) if !decided.swap(true, Ordering::AcqRel) => {
            return Err(Reason::ChangesTimeout.into());
        }
        _ => {}
    }
    let begun = matches!(outcome, Ok(Ok(())));
    match membership.await {
        Ok(Ok(membership)) => Ok((membership, begun)),
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(Reason::Unknown.into()),
    }
}
