//! What readers and the writer share.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::watch;
use walcast_change::{Cursor, Epoch, Position};
use walcast_pgoutput::{Lsn, Xid};

use crate::segment::Segment;
use crate::{ReadError, Reader};

/// Whether what is appended reaches the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    Good,
    /// Writing failed and is tried again every second. Nothing is lost and nothing more is durable
    /// until then; who appends waits as soon as the queue is full.
    Degraded {
        reason: Arc<str>,
    },
}

/// The log as its readers see it. Clones are the same log.
#[derive(Clone, Debug)]
pub struct History {
    shared: Arc<Shared>,
}

impl History {
    pub(crate) fn new(shared: Arc<Shared>) -> History {
        History { shared }
    }

    #[cfg(test)]
    pub(crate) fn faults(&self) -> crate::tests::faults::Faults {
        self.shared.faults.clone()
    }

    pub fn epoch(&self) -> Epoch {
        self.shared.epoch()
    }

    /// The least cursor that [`History::reader_after`] takes; what follows it is all there.
    pub fn oldest(&self) -> Position {
        self.shared.oldest()
    }

    /// A reader of what follows `position`, which may lie ahead of what is written.
    /// Does not touch the disk.
    pub fn reader_after(&self, position: Position) -> Result<Reader, ReadError> {
        let epoch = self.epoch();
        if position.epoch != epoch {
            return Err(ReadError::EpochChanged { epoch });
        }
        self.shared.segment_for(position.cursor)?;
        Ok(Reader::new(self.shared.clone(), position))
    }

    /// A reader of at least every transaction whose number is `xid` or a later one. What it leaves out
    /// are the segments before the first that has such a one.
    pub fn reader_since(&self, xid: Xid) -> Reader {
        Reader::new(self.shared.clone(), self.shared.before(xid))
    }

    /// The last change that a reader can read. Its cursor is all zero in a log without any.
    pub fn written(&self) -> watch::Receiver<Position> {
        self.shared.written.subscribe()
    }

    /// Everything that Postgres sends before this is on the disk, and may be acknowledged.
    /// [`Lsn::ZERO`] while nothing is.
    pub fn durable(&self) -> watch::Receiver<Lsn> {
        self.shared.durable.subscribe()
    }

    pub fn health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// On the disk, in bytes.
    pub fn size_bytes(&self) -> u64 {
        let segments = self.shared.segments.read();
        segments.iter().map(|segment| segment.len()).sum()
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    /// Oldest first; each fits the one before it; only the last one grows. Empty only while an
    /// epoch begins. Bounded by retention.
    pub(crate) segments: RwLock<VecDeque<Arc<Segment>>>,
    pub(crate) written: watch::Sender<Position>,
    pub(crate) durable: watch::Sender<Lsn>,
    pub(crate) health: watch::Sender<Health>,
    #[cfg(test)]
    pub(crate) faults: crate::tests::faults::Faults,
}

impl Shared {
    /// `segments` are all of `epoch`, and there is at least one.
    pub(crate) fn new(epoch: Epoch, segments: Vec<Segment>) -> Shared {
        let cursor = segments.last().map(Segment::last).unwrap_or_default();
        let durable = segments.last().map_or(Lsn::ZERO, Segment::committed);
        Shared {
            segments: RwLock::new(segments.into_iter().map(Arc::new).collect()),
            written: watch::Sender::new(Position { cursor, epoch }),
            durable: watch::Sender::new(durable),
            health: watch::Sender::new(Health::Good),
            #[cfg(test)]
            faults: crate::tests::faults::Faults::default(),
        }
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.written.borrow().epoch
    }

    pub(crate) fn oldest(&self) -> Position {
        let written = *self.written.borrow();
        let segments = self.segments.read();
        let cursor = segments
            .front()
            .map_or(Cursor::default(), |segment| segment.header.after);
        Position {
            cursor,
            epoch: written.epoch,
        }
    }

    /// A place before everything that has this number or a later one.
    fn before(&self, xid: Xid) -> Position {
        let written = *self.written.borrow();
        let segments = self.segments.read();
        let mut segments = segments.iter();
        let first = segments.find(|segment| segment.reaches(xid));
        Position {
            cursor: first.map_or(written.cursor, |segment| segment.header.after),
            epoch: written.epoch,
        }
    }

    /// The segment that holds what follows `after`.
    pub(crate) fn segment_for(&self, after: Cursor) -> Result<Arc<Segment>, ReadError> {
        let segments = self.segments.read();
        let count = segments.partition_point(|segment| segment.header.after <= after);
        match count.checked_sub(1).and_then(|nth| segments.get(nth)) {
            Some(segment) => Ok(segment.clone()),
            None => match segments.front() {
                Some(first) => Err(ReadError::TooOld {
                    oldest: first.header.after,
                }),
                None => Err(ReadError::EpochChanged {
                    epoch: self.epoch(),
                }),
            },
        }
    }

    /// The one after `segment`. Once there is one, `segment` doesn't grow any more.
    pub(crate) fn segment_after(&self, segment: &Segment) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let first = segments.front()?.header.sequence;
        let nth = (segment.header.sequence + 1).checked_sub(first)?;
        segments.get(usize::try_from(nth).ok()?).cloned()
    }

    pub(crate) fn push_segment(&self, segment: Arc<Segment>) {
        self.segments.write().push_back(segment);
    }

    /// Takes the oldest segments out of service while `old` says so; never the last one.
    pub(crate) fn drop_oldest(&self, mut old: impl FnMut(&VecDeque<Arc<Segment>>) -> bool) {
        loop {
            let dropped = {
                let mut segments = self.segments.write();
                match segments.len() > 1 && old(&segments) {
                    true => segments.pop_front(),
                    false => None,
                }
            };
            match dropped {
                Some(segment) => segment.remove(),
                None => return,
            }
        }
    }

    /// Takes a damaged segment, and with it all before it, out of service. Not the last one: while
    /// it is written, a failing disk may show what will be written again.
    pub(crate) fn drop_damaged(&self, damaged: &Segment) {
        let of = |segment: Option<&Arc<Segment>>| segment.map(|segment| segment.header);
        self.drop_oldest(
            |segments| match (of(segments.front()), of(segments.back())) {
                (Some(first), Some(last)) => {
                    first.epoch == damaged.header.epoch
                        && first.sequence <= damaged.header.sequence
                        && last.sequence != damaged.header.sequence
                }
                _ => false,
            },
        );
    }

    /// Takes all out of service: a new epoch begins.
    pub(crate) fn drop_all(&self, epoch: Epoch) {
        let dropped = std::mem::take(&mut *self.segments.write());
        self.written.send_replace(Position {
            cursor: Cursor::default(),
            epoch,
        });
        self.durable.send_replace(Lsn::ZERO);
        for segment in dropped {
            segment.remove();
        }
    }
}
