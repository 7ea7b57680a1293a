//! What holds of a subscription wherever it is at the moment: live, or being caught up.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use walcast_rls::Viewer;

/// Shared by the session that owns a subscription and by whoever has it in hand. A subscription can be
/// on its way from one to the other just when it ends or is to be judged as somebody else: who takes
/// it in looks here.
#[derive(Debug)]
pub struct Standing {
    viewer: Mutex<Viewer>,
    ended: AtomicBool,
    set_aside: AtomicBool,
}

impl Standing {
    pub fn new(viewer: Viewer) -> Standing {
        Standing {
            viewer: Mutex::new(viewer),
            ended: AtomicBool::new(false),
            set_aside: AtomicBool::new(false),
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

    /// It is, or may have been, among those that are caught up.
    pub fn set_aside(&self) {
        self.set_aside.store(true, Ordering::SeqCst);
    }

    pub fn was_set_aside(&self) -> bool {
        self.set_aside.load(Ordering::SeqCst)
    }
}
