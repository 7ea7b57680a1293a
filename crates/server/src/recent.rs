//! The transactions that the stream told of and that other sessions perhaps don't see yet.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;
use walcast_pgoutput::Xid;
use walcast_rls::PgSnapshot;

/// A transaction can come from the stream a moment before other sessions see it, and long before
/// if its commit waits for a synchronous standby. Who reads a table to join it to the stream asks
/// here which ones have to be visible.
#[derive(Debug)]
pub(crate) struct Recent {
    state: Mutex<State>,
    /// There are many: it is worth to look which of them have become visible.
    many: Notify,
}

#[derive(Debug)]
struct State {
    /// The oldest first.
    xids: VecDeque<Xid>,
    /// Those of the log are known.
    complete: bool,
}

/// Those that wait for a synchronous standby are as many as connections; the others have become
/// visible when it is looked ([`XIDS_MANY`]). If nobody can look, the oldest is taken for visible.
const XIDS_MAX: usize = 32_768;
/// It is looked each time so many have come.
const XIDS_MANY: usize = 4096;

impl Recent {
    /// `complete`: nothing was told in an earlier life, so [`Recent::complete`] need not be called.
    pub(crate) fn new(complete: bool) -> Recent {
        let state = State {
            xids: VecDeque::new(),
            complete,
        };
        Recent {
            state: Mutex::new(state),
            many: Notify::new(),
        }
    }

    pub(crate) fn add(&self, xid: Xid) {
        let mut state = self.state.lock();
        state.add(xid);
        if state.xids.len().is_multiple_of(XIDS_MANY) {
            drop(state);
            self.many.notify_one();
        }
    }

    /// These were told of in an earlier life, and are all that were not visible yet.
    pub(crate) fn complete(&self, doubtful: impl IntoIterator<Item = Xid>) {
        let mut state = self.state.lock();
        if std::mem::replace(&mut state.complete, true) {
            return; // another server came meanwhile
        }
        let since = std::mem::take(&mut state.xids);
        for xid in doubtful.into_iter().chain(since) {
            state.add(xid);
        }
    }

    /// Another server counts its transactions anew.
    pub(crate) fn clear(&self) {
        let mut state = self.state.lock();
        state.xids.clear();
        state.complete = true;
    }

    /// What a snapshot that is taken from now on has to see. `None`: not known yet.
    pub(crate) fn xids(&self) -> Option<Vec<Xid>> {
        let state = self.state.lock();
        state.complete.then(|| state.xids.iter().copied().collect())
    }

    /// What is visible once stays so: every later snapshot sees it.
    pub(crate) fn forget(&self, seen: &PgSnapshot) {
        self.state.lock().xids.retain(|xid| !seen.sees(*xid));
    }

    /// Waits until it is worth to look what can be forgotten.
    pub(crate) async fn many(&self) {
        self.many.notified().await;
    }
}

impl State {
    fn add(&mut self, xid: Xid) {
        if self.xids.len() == XIDS_MAX {
            self.xids.pop_front();
        }
        self.xids.push_back(xid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(text: &str) -> PgSnapshot {
        PgSnapshot::parse(text).expect("a snapshot's text")
    }

    #[test]
    fn what_became_visible_is_forgotten_and_nothing_else() {
        let recent = Recent::new(true);
        for xid in [99, 100, 101, 102, 103] {
            recent.add(Xid(xid));
        }
        recent.forget(&snapshot("100:103:100,102"));
        assert_eq!(recent.xids(), Some(vec![Xid(100), Xid(102), Xid(103)]));
        recent.forget(&snapshot("104:104:"));
        assert_eq!(recent.xids(), Some(vec![]));
    }

    #[test]
    fn what_the_log_tells_of_comes_first() {
        let recent = Recent::new(false);
        recent.add(Xid(7));
        assert_eq!(recent.xids(), None, "nobody knows what came before");
        recent.complete([Xid(5), Xid(4)]);
        assert_eq!(recent.xids(), Some(vec![Xid(5), Xid(4), Xid(7)]));
    }

    #[test]
    fn those_of_another_server_are_not_waited_for() {
        let recent = Recent::new(false);
        recent.add(Xid(7));
        recent.clear();
        recent.complete([Xid(5)]);
        assert_eq!(recent.xids(), Some(vec![]));
    }

    #[tokio::test]
    async fn the_oldest_go_when_nobody_looks() {
        let recent = Recent::new(true);
        for xid in 0..40_000 {
            recent.add(Xid(xid));
        }
        recent.many().await;
        let xids = recent.xids().expect("complete");
        assert_eq!(xids.len(), XIDS_MAX);
        assert_eq!(xids.first(), Some(&Xid(40_000 - 32_768)));
    }
}
