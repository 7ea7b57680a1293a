//! One file of the log, and what is known of it in memory.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::RwLock;
use walcast_change::{Cursor, Epoch, Shape};
use walcast_pgoutput::{Lsn, Xid};

use crate::format::{BLOCK_HEADER_BYTES, HEADER_BYTES, Header, parse_block_header};

/// Between two entries of the index lie at least this many bytes (and at most a block more).
const INDEX_EVERY_BYTES: u64 = 32 << 10;

#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) header: Header,
    pub(crate) file: File,
    path: PathBuf,
    state: RwLock<State>,
    /// No longer part of the log. Whoever still holds it must not read on.
    gone: AtomicBool,
    /// When it was closed, and so how old its youngest change is.
    closed: OnceLock<Instant>,
}

/// What grows while the segment is written.
#[derive(Clone, Debug)]
pub(crate) struct State {
    /// Readers go this far.
    pub(crate) len: u64,
    /// The last change in it; [`Header::after`] while there is none.
    pub(crate) last: Cursor,
    /// The last commit in it or before it.
    pub(crate) committed: Lsn,
    /// By their numbers. Replaced when one is added, so that readers can hold on to it.
    pub(crate) shapes: Arc<[Arc<Shape>]>,
    /// No transaction in it has a later number.
    newest: Option<Xid>,
    index: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The last change before the block.
    after: Cursor,
    offset: u64,
}

/// A [`State`] to come back to.
#[derive(Debug)]
pub(crate) struct Mark {
    len: u64,
    last: Cursor,
    committed: Lsn,
    shapes: Arc<[Arc<Shape>]>,
    entries: usize,
}

/// A whole block, as far as the segment must know it.
#[derive(Debug)]
pub(crate) struct Summary {
    /// With its header.
    pub(crate) bytes: u64,
    pub(crate) last: Cursor,
    pub(crate) committed: Option<Lsn>,
    pub(crate) shapes: Vec<Arc<Shape>>,
    /// No transaction in it has a later number.
    pub(crate) newest: Option<Xid>,
}

impl State {
    pub(crate) fn new(header: &Header) -> State {
        State {
            len: HEADER_BYTES as u64,
            last: header.after,
            committed: header.committed,
            shapes: Arc::new([]),
            newest: None,
            index: Vec::new(),
        }
    }

    /// Adds the block that begins where the last one ended.
    pub(crate) fn push(&mut self, block: &Summary) {
        let far = |entry: &Entry| self.len - entry.offset >= INDEX_EVERY_BYTES;
        if self.index.last().is_none_or(far) {
            self.index.push(Entry {
                after: self.last,
                offset: self.len,
            });
        }
        self.len += block.bytes;
        self.last = block.last;
        self.committed = block.committed.unwrap_or(self.committed);
        self.newest = later(self.newest, block.newest);
        if !block.shapes.is_empty() {
            self.shapes = self.shapes.iter().chain(&block.shapes).cloned().collect();
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark {
            len: self.len,
            last: self.last,
            committed: self.committed,
            shapes: self.shapes.clone(),
            entries: self.index.len(),
        }
    }

    /// As it was at `mark`.
    pub(crate) fn back_to(mut self, mark: Mark) -> State {
        self.index.truncate(mark.entries);
        State {
            len: mark.len,
            last: mark.last,
            committed: mark.committed,
            shapes: mark.shapes,
            newest: self.newest,
            index: self.index,
        }
    }

    /// Where to start for what follows `after`.
    fn offset_after(&self, after: Cursor) -> u64 {
        let count = self.index.partition_point(|entry| entry.after <= after);
        let entry = count.checked_sub(1).and_then(|nth| self.index.get(nth));
        entry.map_or(HEADER_BYTES as u64, |entry| entry.offset)
    }
}

impl Segment {
    /// Makes the file, durably. One of that name is overwritten.
    pub(crate) fn create(directory: &Path, header: Header) -> io::Result<Segment> {
        let path = directory.join(file_name(header.epoch, header.sequence));
        let mut options = File::options();
        let file = options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        file.write_all_at(&header.to_bytes(), 0)?;
        file.sync_all()?;
        File::open(directory)?.sync_all()?;
        Ok(Segment::from_parts(header, file, path, State::new(&header)))
    }

    pub(crate) fn from_parts(header: Header, file: File, path: PathBuf, state: State) -> Segment {
        Segment {
            header,
            file,
            path,
            state: RwLock::new(state),
            gone: AtomicBool::new(false),
            closed: OnceLock::new(),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn len(&self) -> u64 {
        self.state.read().len
    }

    pub(crate) fn last(&self) -> Cursor {
        self.state.read().last
    }

    pub(crate) fn committed(&self) -> Lsn {
        self.state.read().committed
    }

    /// Whether it may have a transaction with this number or a later one.
    pub(crate) fn reaches(&self, xid: Xid) -> bool {
        let newest = self.state.read().newest;
        newest.is_some_and(|newest| !is_before(newest, xid))
    }

    /// How far readers may go, and the shapes up to there.
    pub(crate) fn readable(&self) -> (u64, Arc<[Arc<Shape>]>) {
        let state = self.state.read();
        (state.len, state.shapes.clone())
    }

    pub(crate) fn offset_after(&self, after: Cursor) -> u64 {
        self.state.read().offset_after(after)
    }

    /// Lets readers see one block more.
    pub(crate) fn publish(&self, block: &Summary) {
        self.state.write().push(block);
    }

    /// Ends the file where its blocks end, durably.
    pub(crate) fn cut(&self) -> io::Result<()> {
        self.file.set_len(self.len())?;
        self.file.sync_all()
    }

    /// Nothing is written to it any more; its youngest change is `age` old.
    pub(crate) fn close(&self, age: Duration) {
        let now = Instant::now();
        // The monotonic clock may not reach back that far: then it counts from its beginning.
        let _ = self.closed.set(now.checked_sub(age).unwrap_or(now));
    }

    pub(crate) fn is_older_than(&self, age: Duration) -> bool {
        self.closed.get().is_some_and(|at| at.elapsed() >= age)
    }

    pub(crate) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Takes it out of service and deletes it. If the file can't be deleted, the next start does.
    pub(crate) fn remove(&self) {
        self.gone.store(true, Ordering::Release);
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a segment of the log was not deleted");
        }
    }
}

/// The later of two numbers of transactions.
pub(crate) fn later(one: Option<Xid>, other: Option<Xid>) -> Option<Xid> {
    match (one, other) {
        (Some(one), Some(other)) if is_before(one, other) => Some(other),
        (one, other) => one.or(other),
    }
}

/// The numbers wrap around: of two, the later one is less than half a circle ahead.
fn is_before(one: Xid, other: Xid) -> bool {
    one.0.wrapping_sub(other.0).cast_signed() < 0
}

/// `5f3c9a12-0000000000000001.segment`
fn file_name(epoch: Epoch, sequence: u64) -> String {
    format!("{epoch}-{sequence:016x}.segment")
}

/// The epoch and the sequence in a segment's file name.
pub(crate) fn parse_file_name(name: &str) -> Option<(Epoch, u64)> {
    let (epoch, sequence) = name.strip_suffix(".segment")?.split_once('-')?;
    let epoch = epoch.parse().ok()?;
    let sequence = u64::from_str_radix(sequence, 16).ok()?;
    (file_name(epoch, sequence) == name).then_some((epoch, sequence))
}

/// Reads blocks of a segment in large pieces.
pub(crate) struct Blocks<'a> {
    header: &'a Header,
    file: &'a File,
    /// Nothing is read from here on.
    end: u64,
    piece_bytes: usize,
    piece: Bytes,
    piece_at: u64,
}

/// Why there is no block at an offset.
#[derive(Debug)]
pub(crate) enum BlockError {
    Damaged,
    Io(io::Error),
}

impl<'a> Blocks<'a> {
    pub(crate) fn new(header: &'a Header, file: &'a File, end: u64, piece_bytes: usize) -> Self {
        Blocks {
            header,
            file,
            end,
            piece_bytes,
            piece: Bytes::new(),
            piece_at: 0,
        }
    }

    /// The body of the block at `offset`, its checksum compared.
    pub(crate) fn body(&mut self, offset: u64) -> Result<Bytes, BlockError> {
        let header = self.bytes(offset, BLOCK_HEADER_BYTES)?;
        let header = header[..].try_into().map_err(|_| BlockError::Damaged)?;
        let (size, checksum) = parse_block_header(header);
        let body_at = offset + BLOCK_HEADER_BYTES as u64;
        let body = self.bytes(body_at, size)?;
        match size > 0 && self.header.checksum(offset, &body) == checksum {
            true => Ok(body),
            false => Err(BlockError::Damaged),
        }
    }

    fn bytes(&mut self, offset: u64, size: usize) -> Result<Bytes, BlockError> {
        if let Some(bytes) = self.slice_of_piece(offset, size) {
            return Ok(bytes);
        }
        let left = self.end.saturating_sub(offset);
        // Before anything is allocated: the size may be nonsense.
        if left < size as u64 {
            return Err(BlockError::Damaged);
        }
        let want = (size.max(self.piece_bytes) as u64).min(left) as usize;
        let mut piece = vec![0; want];
        self.file
            .read_exact_at(&mut piece, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => BlockError::Damaged,
                _ => BlockError::Io(error),
            })?;
        self.piece = piece.into();
        self.piece_at = offset;
        self.slice_of_piece(offset, size).ok_or(BlockError::Damaged)
    }

    fn slice_of_piece(&self, offset: u64, size: usize) -> Option<Bytes> {
        let from = usize::try_from(offset.checked_sub(self.piece_at)?).ok()?;
        let to = from.checked_add(size)?;
        (to <= self.piece.len()).then(|| self.piece.slice(from..to))
    }
}
