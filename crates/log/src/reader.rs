//! Reading on from a position.

use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Change, Cursor, Position, Shape};
use walcast_pgoutput::Xid;

use crate::ReadError;
use crate::error::Damaged;
use crate::format::{BLOCK_HEADER_BYTES, HEADER_BYTES};
use crate::history::Shared;
use crate::record::{Item, RawChange, Walk};
use crate::segment::{BlockError, Blocks, Segment};

/// The most that one call reads when nobody wants what it finds.
const SCAN_BYTES_MAX: u64 = 4 << 20;

/// Files are read in pieces of this size, if the caller asks for as much.
const PIECE_BYTES_MAX: usize = 256 << 10;
const PIECE_BYTES_MIN: usize = 36 << 10;

/// A place in the log. Holds no memory between two calls, but keeps a segment's file open.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    position: Position,
    place: Option<Place>,
}

#[derive(Debug)]
struct Place {
    segment: Arc<Segment>,
    /// Where a block begins or will begin.
    offset: u64,
}

/// What [`Reader::next_batch`] found.
#[derive(Debug)]
pub struct Batch {
    /// In order. All of them share their blocks' bytes: keep none of them for long.
    pub changes: Vec<Change>,
    /// Everything wanted up to here has been given.
    pub position: Position,
    /// Nothing more was written when this was read: wait for [`History::written`](crate::History::written).
    pub at_end: bool,
}

/// What is still to be gathered.
struct Gather<'a, F> {
    wanted: F,
    bytes_left: usize,
    changes_max: usize,
    changes: &'a mut Vec<Change>,
    after: &'a mut Cursor,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, position: Position) -> Reader {
        Reader {
            shared,
            position,
            place: None,
        }
    }

    /// Everything wanted up to here has been given.
    pub fn position(&self) -> Position {
        self.position
    }

    /// The next changes of tables that are `wanted`: at least one if there is one within the next
    /// 4 MiB, at most `changes_max`, and not more than `bytes_max` of row values unless the first
    /// alone has more. Blocks on the disk; what was just written comes from the system's cache.
    ///
    /// After an error the reader stays where it was.
    pub fn next_batch(
        &mut self,
        bytes_max: usize,
        changes_max: usize,
        mut wanted: impl FnMut(&Arc<Shape>) -> bool,
    ) -> Result<Batch, ReadError> {
        let mut decided: Option<(Arc<Shape>, bool)> = None;
        self.gather(bytes_max, changes_max, |_, shape| match &decided {
            Some((of, wanted)) if Arc::ptr_eq(of, shape) => *wanted,
            _ => decided.insert((shape.clone(), wanted(shape))).1,
        })
    }

    /// Tells `each` the transaction of every change in the next 4 MiB, without looking at the rows;
    /// whether that was all that is written. Blocks on the disk.
    pub fn next_transactions(&mut self, mut each: impl FnMut(Xid)) -> Result<bool, ReadError> {
        let none = |raw: &RawChange, _: &Arc<Shape>| {
            each(raw.xid);
            false
        };
        let batch = self.gather(PIECE_BYTES_MAX, 1, none)?;
        Ok(batch.at_end)
    }

    fn gather(
        &mut self,
        bytes_max: usize,
        changes_max: usize,
        wanted: impl FnMut(&RawChange, &Arc<Shape>) -> bool,
    ) -> Result<Batch, ReadError> {
        let epoch = self.shared.epoch();
        if epoch != self.position.epoch {
            return Err(ReadError::EpochChanged { epoch });
        }
        let mut place = self.take_place()?;
        let mut changes = Vec::new();
        let mut after = self.position.cursor;
        let mut gather = Gather {
            wanted,
            bytes_left: bytes_max,
            changes_max: changes_max.max(1),
            changes: &mut changes,
            after: &mut after,
        };
        let piece_bytes = bytes_max.clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX);
        let at_end = read_on(&self.shared, &mut place, &mut gather, piece_bytes)?;
        self.place = Some(place);
        self.position.cursor = after;
        Ok(Batch {
            changes,
            position: self.position,
            at_end,
        })
    }

    /// Where to read on; found again if retention took the segment away.
    fn take_place(&mut self) -> Result<Place, ReadError> {
        match self.place.take() {
            Some(place) if !place.segment.is_gone() => Ok(place),
            _ => {
                let after = self.position.cursor;
                let segment = self.shared.segment_for(after)?;
                let offset = segment.offset_after(after);
                Ok(Place { segment, offset })
            }
        }
    }
}

/// Fills `gather` from `place` on, and moves it; whether it came to the end.
fn read_on<F>(
    shared: &Shared,
    place: &mut Place,
    gather: &mut Gather<'_, F>,
    piece_bytes: usize,
) -> Result<bool, ReadError>
where
    F: FnMut(&RawChange, &Arc<Shape>) -> bool,
{
    let mut scanned = 0;
    loop {
        // In this order: a segment that has a successor is complete.
        let next = shared.segment_after(&place.segment);
        let (end, shapes) = place.segment.readable();
        let segment = place.segment.clone();
        let mut blocks = Blocks::new(&segment.header, &segment.file, end, piece_bytes);
        while place.offset < end {
            if scanned >= SCAN_BYTES_MAX || gather.is_full() {
                return Ok(false);
            }
            let body = blocks.body(place.offset);
            let body = body.map_err(|error| failed(shared, place, error))?;
            let bytes = (BLOCK_HEADER_BYTES + body.len()) as u64;
            match gather.block(body, &shapes) {
                Ok(true) => place.offset += bytes,
                Ok(false) => return Ok(false),
                Err(Damaged) => return Err(failed(shared, place, BlockError::Damaged)),
            }
            scanned += bytes;
        }
        let Some(segment) = next else {
            return Ok(true);
        };
        let offset = HEADER_BYTES as u64;
        *place = Place { segment, offset };
    }
}

impl<F: FnMut(&RawChange, &Arc<Shape>) -> bool> Gather<'_, F> {
    fn is_full(&self) -> bool {
        self.changes.len() >= self.changes_max
    }

    /// Takes what is wanted of a block; `false` if there was no room for all of it.
    fn block(&mut self, body: Bytes, shapes: &[Arc<Shape>]) -> Result<bool, Damaged> {
        let mut walk = Walk::new(body);
        while let Some(item) = walk.next()? {
            let Item::Change(raw) = item else { continue };
            if raw.cursor <= *self.after {
                continue;
            }
            let cursor = raw.cursor;
            let shape = shapes.get(raw.shape as usize).ok_or(Damaged)?;
            if (self.wanted)(&raw, shape) && !self.take(raw.decode(shape)?) {
                return Ok(false);
            }
            *self.after = cursor;
        }
        Ok(true)
    }

    /// `false` if there is no room for it.
    fn take(&mut self, change: Change) -> bool {
        let bytes = change.size_bytes();
        let fits = !self.is_full() && bytes <= self.bytes_left;
        if !fits && !self.changes.is_empty() {
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.changes.push(change);
        true
    }
}

/// A damaged segment is not offered to anybody again.
fn failed(shared: &Shared, place: &Place, error: BlockError) -> ReadError {
    match error {
        BlockError::Io(error) => ReadError::Io(error),
        BlockError::Damaged => {
            let segment = &place.segment;
            tracing::error!(path = %segment.path().display(), offset = place.offset, "the log is damaged");
            shared.drop_damaged(segment);
            ReadError::Damaged {
                segment: segment.header.sequence,
                offset: place.offset,
            }
        }
    }
}
