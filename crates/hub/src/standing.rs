//! What holds of a subscription wherever it is at the moment: live, or being caught up.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use walcast_change::Position;
use walcast_rls::Viewer;

/// Shared by the session that owns a subscription and by whoever has it in hand. A subscription can be
/// on its way from one to the other just when it ends or is to be judged as somebody else: who takes
/// it in looks here.
#[derive(Debug)]
pub struct Standing {
    judged: Mutex<Judged>,
    ended: AtomicBool,
    set_aside: AtomicBool,
    /// Where it stood when it was set aside; `None` if it is live.
    behind: Mutex<Option<Position>>,
}

#[derive(Debug)]
struct Judged {
    viewer: Viewer,
    turn: u64,
}

impl Standing {
    pub fn new(viewer: Viewer) -> Standing {
        Standing {
            judged: Mutex::new(Judged { viewer, turn: 0 }),
            ended: AtomicBool::new(false),
            set_aside: AtomicBool::new(false),
            behind: Mutex::new(None),
        }
    }

    /// Whom it is judged as.
    pub fn viewer(&self) -> Viewer {
        self.judged.lock().viewer.clone()
    }

    /// Whom it is judged as, and a number that is another as soon as that is somebody else.
    pub fn judged(&self) -> (Viewer, u64) {
        let judged = self.judged.lock();
        (judged.viewer.clone(), judged.turn)
    }

    /// Once this has returned, no work of [`Standing::in_turn`] is done for whom it was before.
    pub fn set_viewer(&self, viewer: &Viewer) {
        let mut judged = self.judged.lock();
        if judged.viewer != *viewer {
            judged.viewer = viewer.clone();
            judged.turn = judged.turn.wrapping_add(1);
        }
    }

    /// Whether it goes on, and is judged as the one whose number this is.
    pub fn is_in_turn(&self, turn: u64) -> bool {
        self.judged.lock().turn == turn && !self.has_ended()
    }

    /// Does what may be done only while it goes on, and is judged as the one whose number this is:
    /// neither changes meanwhile. `None`: it was not done.
    pub fn in_turn<T>(&self, turn: u64, work: impl FnOnce() -> T) -> Option<T> {
        let judged = self.judged.lock();
        (judged.turn == turn && !self.has_ended()).then(work)
    }

    /// Nobody takes it in any more, and no work of [`Standing::in_turn`] is done for it.
    pub fn end(&self) {
        let _nobody_is_at_work = self.judged.lock();
        self.ended.store(true, Ordering::SeqCst);
    }

    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// It is, or may have been, among those that are caught up: from `since` on.
    pub fn set_aside(&self, since: Position) {
        *self.behind.lock() = Some(since);
        self.set_aside.store(true, Ordering::SeqCst);
    }

    /// It is live.
    pub fn set_live(&self) {
        *self.behind.lock() = None;
    }

    /// A place from which on it may still lack something; `None` if it is live.
    pub fn behind(&self) -> Option<Position> {
        *self.behind.lock()
    }

    pub fn was_set_aside(&self) -> bool {
        self.set_aside.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(claims: &str) -> Viewer {
        Viewer {
            role: "anon".into(),
            claims: claims.into(),
        }
    }

    #[test]
    fn work_is_done_for_who_it_is_judged_as_until_it_ends() {
        let standing = Standing::new(viewer("a"));
        let (_, before) = standing.judged();
        assert_eq!(standing.in_turn(before, || 1), Some(1));
        standing.set_viewer(&viewer("a"));
        assert!(standing.is_in_turn(before), "nobody else");
        standing.set_viewer(&viewer("b"));
        assert_eq!(standing.in_turn(before, || 1), None);
        let (who, now) = standing.judged();
        assert_eq!((who, standing.in_turn(now, || 1)), (viewer("b"), Some(1)));
        standing.end();
        assert_eq!(standing.in_turn(now, || 1), None);
    }
}
