//! The transactions that the stream told of last.

use std::collections::VecDeque;

use parking_lot::Mutex;
use walcast_pgoutput::Xid;

/// A transaction can come from the stream a moment before other sessions see it. Who reads a table
/// to join it to the stream asks here which ones have to be visible.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    xids: Mutex<VecDeque<Xid>>,
}

/// More than commit between two looks at any rate; while commits wait for a synchronous standby,
/// there are as many of them as connections.
const XIDS_MAX: usize = 4096;

impl Recent {
    pub(crate) fn add(&self, xid: Xid) {
        let mut xids = self.xids.lock();
        if xids.len() == XIDS_MAX {
            xids.pop_front();
        }
        xids.push_back(xid);
    }

    /// Another server counts its transactions anew.
    pub(crate) fn clear(&self) {
        self.xids.lock().clear();
    }

    pub(crate) fn xids(&self) -> Vec<Xid> {
        self.xids.lock().iter().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept() {
        let recent = Recent::default();
        for xid in 0..5000 {
            recent.add(Xid(xid));
        }
        let xids = recent.xids();
        assert_eq!((xids.len(), xids[0]), (XIDS_MAX, Xid(5000 - 4096)));
        recent.clear();
        assert_eq!(recent.xids(), []);
    }
}
