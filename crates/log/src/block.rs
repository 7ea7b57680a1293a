//! Changes become blocks, on the task of whoever appends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use walcast_change::{Change, Cursor, Shape};
use walcast_pgoutput::{Lsn, RelationId, Xid};

use crate::format::{BLOCK_HEADER_BYTES, HEADER_BYTES};
use crate::record::{self, Transaction};
use crate::segment::later;

/// A block is closed when it is this large. What a reader must read at least.
const BLOCK_BYTES: usize = 32 << 10;

/// Ready to be written, but for its header.
#[derive(Debug)]
pub(crate) struct Block {
    /// Begins with room for the header.
    pub(crate) bytes: Vec<u8>,
    /// A new segment begins with it.
    pub(crate) rolls: bool,
    /// The last change in it or before it.
    pub(crate) last: Cursor,
    /// It ends with this commit. A block has changes either up to a commit or without one, so that
    /// half a transaction can be cut off at the end of a block.
    pub(crate) committed: Option<Lsn>,
    /// The shapes that stand in it, in the order of their numbers.
    pub(crate) shapes: Vec<Arc<Shape>>,
    /// No transaction in it has a later number.
    pub(crate) newest: Option<Xid>,
}

/// When segments are closed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rolling {
    pub(crate) segment_bytes: u64,
    pub(crate) age: Duration,
}

#[derive(Debug)]
pub(crate) struct Builder {
    rolling: Rolling,
    last: Cursor,
    committed: Lsn,
    /// Of the block that is being made; empty or with room for the header at its front.
    bytes: Vec<u8>,
    rolls: bool,
    new_shapes: Vec<Arc<Shape>>,
    transaction: Option<Transaction>,
    /// The latest number of a transaction in `bytes`.
    newest: Option<Xid>,
    /// As it was after the last commit in `bytes`.
    mark: Option<Mark>,
    sealed: Vec<Block>,
    sealed_bytes: usize,
    /// The shapes that stand in the segment. Bounded by the published tables.
    shapes: HashMap<RelationId, (Arc<Shape>, u32)>,
    shapes_count: u32,
    segment_bytes: u64,
    segment_since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    bytes: usize,
    last: Cursor,
    shapes: usize,
}

impl Builder {
    /// Goes on after `last` in a segment that has `segment_bytes` and `shapes_count` shapes.
    pub(crate) fn new(
        rolling: Rolling,
        last: Cursor,
        committed: Lsn,
        segment_bytes: u64,
        shapes_count: u32,
    ) -> Builder {
        Builder {
            rolling,
            last,
            committed,
            bytes: Vec::new(),
            rolls: false,
            new_shapes: Vec::new(),
            transaction: None,
            newest: None,
            mark: None,
            sealed: Vec::new(),
            sealed_bytes: 0,
            shapes: HashMap::new(),
            shapes_count,
            segment_bytes,
            segment_since: Instant::now(),
        }
    }

    pub(crate) fn last(&self) -> Cursor {
        self.last
    }

    pub(crate) fn committed(&self) -> Lsn {
        self.committed
    }

    /// What waits for [`Builder::take`].
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.sealed_bytes + self.bytes.len()
    }

    pub(crate) fn change(&mut self, change: &Change) {
        self.begin_block();
        let shape = self.shape(&change.shape);
        let here = Transaction::before(change);
        if self.transaction != Some(here) {
            record::put_transaction(&here, &mut self.bytes);
            self.newest = later(self.newest, Some(here.xid));
        }
        record::put_change(change, shape, &mut self.bytes);
        self.transaction = Some(Transaction {
            ordinal: here.ordinal.wrapping_add(1),
            ..here
        });
        self.last = change.cursor;
        if self.bytes.len() >= BLOCK_BYTES {
            self.seal();
        }
    }

    pub(crate) fn commit(&mut self, end_lsn: Lsn) {
        self.begin_block();
        record::put_commit(end_lsn, &mut self.bytes);
        self.committed = end_lsn;
        self.transaction = None;
        self.mark = Some(Mark {
            bytes: self.bytes.len(),
            last: self.last,
            shapes: self.new_shapes.len(),
        });
        if self.bytes.len() >= BLOCK_BYTES {
            self.seal();
        }
    }

    /// All that was appended since the last time.
    pub(crate) fn take(&mut self) -> Vec<Block> {
        self.seal();
        self.sealed_bytes = 0;
        std::mem::take(&mut self.sealed)
    }

    fn begin_block(&mut self) {
        if !self.bytes.is_empty() {
            return;
        }
        let written = self.segment_bytes > HEADER_BYTES as u64;
        let full = self.segment_bytes >= self.rolling.segment_bytes;
        if written && (full || self.segment_since.elapsed() >= self.rolling.age) {
            self.rolls = true;
            self.shapes.clear();
            self.shapes_count = 0;
            self.segment_bytes = HEADER_BYTES as u64;
            self.segment_since = Instant::now();
        }
        self.bytes.reserve(BLOCK_BYTES + BLOCK_BYTES / 8);
        self.bytes.extend_from_slice(&[0; BLOCK_HEADER_BYTES]);
    }

    /// The number of `shape` in this segment; writes it if it has none.
    fn shape(&mut self, shape: &Arc<Shape>) -> u32 {
        match self.shapes.get(&shape.id) {
            Some((known, number)) if Arc::ptr_eq(known, shape) => return *number,
            _ => {}
        }
        let number = self.shapes_count;
        self.shapes_count += 1;
        record::put_shape(number, shape, &mut self.bytes);
        self.shapes.insert(shape.id, (shape.clone(), number));
        self.new_shapes.push(shape.clone());
        number
    }

    fn seal(&mut self) {
        if self.bytes.is_empty() {
            return;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        let mut shapes = std::mem::take(&mut self.new_shapes);
        let mut rest = None;
        let mark = self.mark.take();
        if let Some(mark) = mark.filter(|mark| mark.bytes < bytes.len()) {
            let mut tail = vec![0; BLOCK_HEADER_BYTES];
            tail.extend_from_slice(&bytes[mark.bytes..]);
            bytes.truncate(mark.bytes);
            rest = Some((tail, shapes.split_off(mark.shapes)));
        }
        let rolls = std::mem::take(&mut self.rolls);
        let newest = self.newest.take();
        let last = mark.map_or(self.last, |mark| mark.last);
        self.push_sealed(Block {
            bytes,
            rolls,
            last,
            committed: mark.map(|_| self.committed),
            shapes,
            newest,
        });
        if let Some((bytes, shapes)) = rest {
            self.push_sealed(Block {
                bytes,
                rolls: false,
                last: self.last,
                committed: None,
                shapes,
                newest,
            });
        }
        self.transaction = None;
    }

    fn push_sealed(&mut self, block: Block) {
        self.sealed_bytes += block.bytes.len();
        self.segment_bytes += block.bytes.len() as u64;
        self.sealed.push(block);
    }
}
