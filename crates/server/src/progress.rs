//! How far the pipeline has come in the stream.

use walcast_change::Cursor;
use walcast_pgoutput::{Lsn, Xid};
use walcast_source::{Gap, GapReason};

/// Where the stream stands.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The last change that was taken from the stream, and its transaction.
    pub(crate) taken: Cursor,
    pub(crate) xid: Option<Xid>,
    /// Everything before this is dealt with, once the batch at hand is published.
    pub(crate) finished: Option<Lsn>,
    /// The last [`Progress::finished`] that was acknowledged.
    pub(crate) acknowledged: Lsn,
}

impl Progress {
    /// Behind `taken`, which an earlier life of this process has dealt with.
    pub(crate) fn behind(taken: Cursor) -> Progress {
        Progress {
            taken,
            ..Progress::default()
        }
    }

    /// The stream began at `start`: nothing before it will come.
    pub(crate) fn begin(&mut self, start: Lsn) {
        if self.acknowledged == Lsn::ZERO {
            self.acknowledged = start;
        }
    }

    /// A place in the order of changes that is after all that was published and before all that
    /// is to come. No change was seen for a while: then a byte before the next transaction can
    /// begin, a commit record being longer than that.
    pub(crate) fn cursor(&self) -> Cursor {
        let idle = Cursor {
            commit_lsn: Lsn(self.acknowledged.0.saturating_sub(1)),
            ordinal: 0,
        };
        self.taken.max(idle)
    }

    /// Where it stands after a gap. What the same slot sends again is still known; any other
    /// source may count its LSNs anew.
    pub(crate) fn after(&self, gap: &Gap) -> Progress {
        Progress {
            taken: match keeps_order(gap.reason) {
                true => self.taken,
                false => Cursor::default(),
            },
            xid: None,
            finished: None,
            acknowledged: gap.resumes_at,
        }
    }
}

/// Whether the LSNs after a gap go on from those before it. Any other source may count anew.
pub(crate) fn keeps_order(reason: GapReason) -> bool {
    matches!(
        reason,
        GapReason::PublicationRecreated | GapReason::SlotAdvanced
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_another_source_counts_anew() {
        let taken = Cursor {
            commit_lsn: Lsn(100),
            ordinal: 3,
        };
        for (reason, resumes_at, expected) in [
            (GapReason::PublicationRecreated, 90, taken),
            (GapReason::SlotAdvanced, 120, taken),
            (GapReason::SlotMissing, 20, Cursor::default()),
            (GapReason::OtherServer, 20, Cursor::default()),
        ] {
            let progress = Progress {
                taken,
                xid: None,
                finished: Some(Lsn(95)),
                acknowledged: Lsn(80),
            };
            let gap = Gap {
                reason,
                after: Lsn(80),
                resumes_at: Lsn(resumes_at),
            };
            let after = progress.after(&gap);
            assert_eq!(after.taken, expected, "{reason:?}");
            assert_eq!(after.finished, None, "nothing of before is acknowledged");
            assert!(after.cursor().commit_lsn < Lsn(resumes_at) || after.cursor() == taken);
        }
    }
}
