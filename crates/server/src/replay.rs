//! The way to the replay, which catches subscriptions up from the log, beside the live stream and
//! without delaying it. Sessions and the pipeline hand subscriptions over, and only hear of the results.
//! That one ends, or is judged as somebody else, is said on its standing, and holds from then on,
//! whatever a walk is busy with: nobody waits for a walk.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use walcast_change::Position;
use walcast_hub::{Skip, Withdrawn};
use walcast_protocol::{Code, Refusal};

use crate::order::Attached;
use crate::replayer::Replayer;
use crate::walker::{Said, Walker, unavailable};

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
/// Words of the pipeline and of the walks that may wait.
pub(crate) const WORDS_MAX: usize = 1024;

/// Of a session, which waits for the answer.
pub(crate) type Ask = (Resume, oneshot::Sender<Result<(), Refusal>>);

pub(crate) enum Word {
    /// From the pipeline, which waits for nobody. They don't go back to it before the time.
    Rejoin(Vec<Withdrawn>, Position, Instant),
    /// From a walk: these are to go on in another.
    Leave(Vec<Walker>),
    /// The walk with this number is over.
    Ended(u64),
}

/// Without a log there is none.
#[derive(Clone)]
pub(crate) struct Replay {
    kept: Option<Kept>,
}

#[derive(Clone)]
struct Kept {
    asks: mpsc::Sender<Ask>,
    words: mpsc::Sender<Word>,
    changes: Changes,
}

impl Replay {
    /// Begins its task, which ends with the last copy of what is returned.
    pub(crate) fn begin(replayer: Replayer) -> Replay {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let (words, spoken) = mpsc::channel(WORDS_MAX);
        let changes = Changes::default();
        replayer.begin(changes.clone(), asked, words.clone(), spoken);
        let kept = Kept {
            asks,
            words,
            changes,
        };
        Replay { kept: Some(kept) }
    }

    /// Nothing is kept.
    pub(crate) fn none() -> Replay {
        Replay { kept: None }
    }

    /// Whether there is a log.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Returns when the subscription was acknowledged.
    pub(crate) async fn resume(&self, resume: Resume) -> Result<(), Refusal> {
        let channel = resume.attached.spec.channel.clone();
        let Some(Kept { asks, .. }) = &self.kept else {
            let text =
                "this server keeps no log of changes (setting log_dir); read the table again";
            return Err(Refusal::new(Code::CursorTooOld, text).on(&*channel));
        };
        let (done, resumed) = oneshot::channel();
        let sent = asks.send((resume, done)).await.is_ok();
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
        let Some(Kept { words, .. }) = &self.kept else {
            return Err(withdrawn);
        };
        for one in &withdrawn {
            one.member.standing.set_aside(since);
        }
        let word = Word::Rejoin(withdrawn, since, until);
        words
            .try_send(word)
            .map_err(|error| match error.into_inner() {
                Word::Rejoin(withdrawn, ..) => withdrawn,
                _ => unreachable!("what was sent comes back"),
            })
    }

    /// Changes standings: subscriptions end, or are judged as somebody else. Once this has returned,
    /// nothing is sent of those that have ended, and nothing that only the viewer before might see.
    pub(crate) fn change(&self, change: impl FnOnce()) {
        match &self.kept {
            Some(kept) => kept.changes.make(change),
            None => change(),
        }
    }
}

/// Counts the changes of standings, so that walks look through their members only when there was one.
/// What a gate has refused is found with certainty: it was refused after its change began, and a look
/// that comes while a change is being made is not the last.
#[derive(Clone, Default)]
pub(crate) struct Changes(Arc<Counts>);

#[derive(Default)]
struct Counts {
    begun: AtomicU64,
    done: AtomicU64,
}

impl Changes {
    pub(crate) fn make(&self, change: impl FnOnce()) {
        self.0.begun.fetch_add(1, Ordering::SeqCst);
        change();
        self.0.done.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether there may be changes that a look before `seen` was set did not find.
    pub(crate) fn since(&self, seen: &mut u64) -> bool {
        let done = self.0.done.load(Ordering::SeqCst);
        let begun = self.0.begun.load(Ordering::SeqCst);
        let may_be = begun != *seen;
        *seen = done;
        may_be
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_during_a_change_is_not_the_last() {
        let changes = Changes::default();
        let mut seen = 0;
        assert!(!changes.since(&mut seen), "nothing has changed");
        changes.make(|| {
            assert!(changes.since(&mut seen));
            assert!(changes.since(&mut seen), "it is still being made");
        });
        assert!(changes.since(&mut seen), "it was made after the last look");
        assert!(!changes.since(&mut seen));
    }
}
