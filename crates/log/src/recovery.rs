//! What a directory holds when the log is opened, and how much of it may be believed.
//!
//! Every checksum is compared before anything is served. Then:
//! - The newest segment ends at its first block that is not whole: that is how a crash leaves it.
//! - After the last commit comes a transaction of which the rest is missing. It is cut off; Postgres
//!   sends it again, because it was never acknowledged.
//! - A segment is followed by the one whose header names its last change. An older segment that is
//!   damaged, missing or doesn't fit ends what can be read: it and all before it are dropped, what
//!   follows is whole.
//!
//! Nothing here can tell damage at the end of the newest segment from a torn write. It does not
//! matter: the commits lost with it are ones that Postgres was told are safe, so its slot stands
//! further on than the log, and [`Log::continue_from`](crate::Log::continue_from) ends the epoch.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use walcast_change::{Cursor, Epoch, Shape};
use walcast_pgoutput::Lsn;

use crate::error::Damaged;
use crate::format::{BLOCK_HEADER_BYTES, HEADER_BYTES, Header};
use crate::record::{Item, Walk};
use crate::segment::{BlockError, Blocks, Mark, Segment, State, Summary, later, parse_file_name};

const PIECE_BYTES: usize = 1 << 20;
/// Between two words about how far it is: a disk may be slow.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// What is left of an epoch.
#[derive(Debug, Default)]
pub(crate) struct Recovered {
    /// Each fits the one before it; the last one is to be written on. Empty: nothing is usable.
    pub(crate) segments: Vec<Segment>,
    /// Something other than the end of the newest segment was damaged or missing.
    pub(crate) damaged: bool,
    /// How much was cut off: a torn write, a transaction that was not complete.
    pub(crate) cut_bytes: u64,
}

impl Recovered {
    /// The end of the last commit; [`Lsn::ZERO`] if there is none. Where an epoch without a commit
    /// began is not known, so that nobody could tell whether the stream goes on where it ended.
    pub(crate) fn committed(&self) -> Lsn {
        self.segments.last().map_or(Lsn::ZERO, Segment::committed)
    }
}

/// Reads the segments of `epoch`, and deletes those of others and those that can't be used.
pub(crate) fn recover(directory: &Path, epoch: Option<Epoch>) -> io::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut shapes = HashMap::new();
    let mut found: Vec<Scanned> = Vec::new();
    let files = segment_files(directory, epoch)?;
    let segments = files.len();
    let newest = segments.saturating_sub(1);
    let mut told = Instant::now();
    for (nth, (sequence, path)) in files.into_iter().enumerate() {
        let scanned = scan(&path, &mut shapes)?;
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            tracing::info!(done = nth + 1, segments, "reading the log of changes");
        }
        match scanned {
            Some(scanned)
                if scanned.header.sequence == sequence && Some(scanned.header.epoch) == epoch =>
            {
                found.push(scanned);
            }
            _ => {
                // A crash can leave the newest one without a header: there is nothing in it yet.
                recovered.damaged |= nth < newest;
                fs::remove_file(path)?;
            }
        }
    }
    let usable = first_usable(&found);
    recovered.damaged |= usable > 0;
    for dropped in found.drain(..usable) {
        fs::remove_file(dropped.path)?;
    }
    cut_half_transaction(found, &mut recovered)?;
    File::open(directory)?.sync_all()?;
    Ok(recovered)
}

/// The segments' sequences and paths, oldest first. Those of other epochs are deleted.
fn segment_files(directory: &Path, epoch: Option<Epoch>) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        match name.to_str().and_then(parse_file_name) {
            Some((of, sequence)) if Some(of) == epoch => files.push((sequence, entry.path())),
            Some(_) => fs::remove_file(entry.path())?,
            None => {}
        }
    }
    files.sort();
    Ok(files)
}

/// A segment as it was found.
struct Scanned {
    header: Header,
    file: File,
    path: PathBuf,
    file_bytes: u64,
    age: Duration,
    /// Up to the first block that isn't whole.
    whole: State,
    /// Up to the last block that ends with a commit.
    complete: Option<Mark>,
}

fn scan(path: &Path, known: &mut HashMap<Bytes, Arc<Shape>>) -> io::Result<Option<Scanned>> {
    let file = File::options().read(true).write(true).open(path)?;
    let metadata = file.metadata()?;
    let mut bytes = [0; HEADER_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let Ok(header) = Header::from_bytes(&bytes) else {
        return Ok(None);
    };
    let mut whole = State::new(&header);
    let mut complete = None;
    let mut blocks = Blocks::new(&header, &file, metadata.len(), PIECE_BYTES);
    while whole.len < metadata.len() {
        let body = match blocks.body(whole.len) {
            Ok(body) => body,
            Err(BlockError::Damaged) => break,
            Err(BlockError::Io(error)) => return Err(error),
        };
        let Ok(block) = summary(body, &whole, known) else {
            break;
        };
        whole.push(&block);
        if block.committed.is_some() {
            complete = Some(whole.mark());
        }
    }
    let modified = metadata.modified()?;
    let age = SystemTime::now().duration_since(modified);
    Ok(Some(Scanned {
        header,
        path: path.to_owned(),
        file_bytes: metadata.len(),
        age: age.unwrap_or_default(),
        whole,
        complete,
        file,
    }))
}

/// What the block that follows `before` brings; its changes in order, its shapes all there.
fn summary(
    body: Bytes,
    before: &State,
    known: &mut HashMap<Bytes, Arc<Shape>>,
) -> Result<Summary, Damaged> {
    let mut block = Summary {
        bytes: (body.len() + BLOCK_HEADER_BYTES) as u64,
        last: before.last,
        committed: None,
        shapes: Vec::new(),
        newest: None,
    };
    let mut ends_with_commit = true;
    let mut walk = Walk::new(body);
    while let Some(item) = walk.next()? {
        let shapes = before.shapes.len() + block.shapes.len();
        ends_with_commit = matches!(item, Item::Commit { .. });
        match item {
            Item::Shape { number, bytes } if number as usize == shapes => {
                block.shapes.push(shape(&bytes, known)?);
            }
            Item::Change(change)
                if change.cursor > block.last && (change.shape as usize) < shapes =>
            {
                block.last = change.cursor;
                block.newest = later(block.newest, Some(change.xid));
            }
            Item::Commit { end_lsn } => block.committed = Some(end_lsn),
            Item::Shape { .. } | Item::Change(_) => return Err(Damaged),
        }
    }
    match ends_with_commit || block.committed.is_none() {
        true => Ok(block),
        false => Err(Damaged),
    }
}

/// Equal shapes become one in memory: each segment has its own copy of them.
fn shape(bytes: &Bytes, known: &mut HashMap<Bytes, Arc<Shape>>) -> Result<Arc<Shape>, Damaged> {
    if let Some(shape) = known.get(bytes) {
        return Ok(shape.clone());
    }
    let shape = Arc::new(Shape::from_bytes(bytes).ok_or(Damaged)?);
    known.insert(Bytes::copy_from_slice(bytes), shape.clone());
    Ok(shape)
}

/// The first segment from which on each one fits the one before it.
fn first_usable(found: &[Scanned]) -> usize {
    let fits = |before: &Scanned, next: &Scanned| {
        before.whole.len == before.file_bytes
            && before.header.sequence + 1 == next.header.sequence
            && before.whole.last == next.header.after
            && before.whole.committed == next.header.committed
    };
    let pairs = found.windows(2).rposition(|pair| match pair {
        [before, next] => !fits(before, next),
        _ => false,
    });
    pairs.map_or(0, |nth| nth + 1)
}

/// Cuts off what follows the last commit: the ends of a segment and whole segments after it.
fn cut_half_transaction(found: Vec<Scanned>, recovered: &mut Recovered) -> io::Result<()> {
    let complete = found.iter().rposition(|scanned| scanned.complete.is_some());
    // Without any, the oldest header still says where the readers' history begins.
    let keep = complete.unwrap_or(0);
    for (nth, scanned) in found.into_iter().enumerate() {
        if nth > keep {
            recovered.cut_bytes += scanned.file_bytes;
            fs::remove_file(scanned.path)?;
            continue;
        }
        let state = match (nth == keep, scanned.complete) {
            (false, _) => scanned.whole,
            (true, Some(mark)) => scanned.whole.back_to(mark),
            (true, None) => State::new(&scanned.header),
        };
        recovered.cut_bytes += scanned.file_bytes - state.len;
        let segment = Segment::from_parts(scanned.header, scanned.file, scanned.path, state);
        match nth == keep {
            // Also syncs what the last process left in the system's cache.
            true => segment.cut()?,
            false => segment.close(scanned.age),
        }
        recovered.segments.push(segment);
    }
    Ok(())
}

/// An epoch that is not `before`, or `None` if the system gives no random numbers.
pub(crate) fn draw_epoch(before: Option<Epoch>) -> Option<Epoch> {
    let mut draws = std::iter::repeat_with(|| getrandom::u32().ok()).take(8);
    draws.find_map(|draw| {
        draw.map(Epoch)
            .filter(|&epoch| epoch.0 != 0 && Some(epoch) != before)
    })
}

/// The first segment of an epoch.
pub(crate) fn first_header(epoch: Epoch) -> Header {
    Header {
        epoch,
        sequence: 1,
        after: Cursor::default(),
        committed: Lsn::ZERO,
    }
}
