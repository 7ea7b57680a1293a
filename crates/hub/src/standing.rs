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
    viewer: Mutex<Viewer>,
    ended: AtomicBool,
    set_aside: AtomicBool,
    /// Where it stood when it was set aside; `None` if it is live.
    behind: Mutex<Option<Position>>,
}

impl Standing {
    pub fn new(viewer: Viewer) -> Standing {
        Standing {
            viewer: Mutex::new(viewer),
            ended: AtomicBool::new(false),
            set_aside: AtomicBool::new(false),
            behind: Mutex::new(None),
        }
    }

    /// Whom it is judged as.
    pub fn viewer(&self) -> Viewer {
        self.viewer.lock().clone()
    }

    pub fn set_viewer(&self, viewer: &Viewer) {
        *self.viewer.lock() = viewer.clone();
    }

    /// Nobody takes it in any more.
    pub fn end(&self) {
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
