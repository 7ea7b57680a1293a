//! The thread that writes: blocks in, durable LSNs out.
//!
//! What was written but not yet synced stays in memory. When writing or syncing fails (after a
//! failed fdatasync nobody knows what is on the disk), all of it is written again to the same
//! places, every second, until a sync succeeds.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};
use walcast_change::{Epoch, Position};
use walcast_pgoutput::Lsn;

use crate::block::Block;
use crate::format::{BLOCK_HEADER_BYTES, Header};
use crate::head::{self, Head};
use crate::history::{Health, Shared};
use crate::recovery::first_header;
use crate::segment::{Segment, Summary};
use crate::{Identity, LogConfig};

/// Between two tries after a failure, and between two looks at what is too old.
const TICK: Duration = Duration::from_secs(1);

pub(crate) enum Order {
    /// `room` of the queue's bytes are its own until it is durable.
    Write { block: Block, room: u32 },
    /// Everything before is of no use any more.
    Begin {
        epoch: Epoch,
        done: oneshot::Sender<()>,
    },
    /// Tells when everything before is durable.
    Sync { done: oneshot::Sender<()> },
}

pub(crate) struct Writer {
    shared: Arc<Shared>,
    config: LogConfig,
    identity: Identity,
    orders: Receiver<Order>,
    /// The queue's free bytes.
    room: Arc<Semaphore>,
    queue: VecDeque<(Block, u32)>,
    segment: Arc<Segment>,
    unsynced: Unsynced,
    begin: Option<(Epoch, oneshot::Sender<()>)>,
    syncs: Vec<oneshot::Sender<()>>,
    /// Something failed: when to try again.
    retry_at: Option<Instant>,
    synced_at: Instant,
    retained_at: Instant,
    /// Holds the lock on the directory.
    _lock: File,
}

/// What stands in the file, but perhaps not on the disk.
#[derive(Default)]
struct Unsynced {
    blocks: Vec<(u64, Vec<u8>)>,
    bytes: usize,
    room: usize,
    committed: Option<Lsn>,
    /// The last of `blocks`, if writing it failed: readers don't know of it yet.
    unpublished: Option<Summary>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        segment: Arc<Segment>,
        config: LogConfig,
        identity: Identity,
        orders: Receiver<Order>,
        room: Arc<Semaphore>,
        lock: File,
    ) -> Writer {
        Writer {
            shared,
            config,
            identity,
            orders,
            room,
            queue: VecDeque::new(),
            segment,
            unsynced: Unsynced::default(),
            begin: None,
            syncs: Vec::new(),
            retry_at: None,
            synced_at: Instant::now(),
            retained_at: Instant::now(),
            _lock: lock,
        }
    }

    pub(crate) fn run(mut self) {
        let mut open = true;
        while open {
            open = self.receive();
            if self.retry_at.is_none_or(|at| at <= Instant::now()) || !open {
                match self.work(!open) {
                    Ok(()) => self.recovered(),
                    Err(error) => self.failed(&error),
                }
            }
            self.retain();
        }
    }

    /// Waits for orders or for something to become due; `false` when no more will come.
    fn receive(&mut self) -> bool {
        let due = match self.retry_at {
            Some(at) => at.saturating_duration_since(Instant::now()),
            None if self.unsynced.blocks.is_empty() => TICK,
            None => self
                .config
                .sync_interval
                .saturating_sub(self.synced_at.elapsed()),
        };
        match self.orders.recv_timeout(due.min(TICK)) {
            Ok(order) => self.take(order),
            Err(RecvTimeoutError::Timeout) => return true,
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        while let Ok(order) = self.orders.try_recv() {
            self.take(order);
        }
        true
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Write { block, room } => self.queue.push_back((block, room)),
            Order::Sync { done } => self.syncs.push(done),
            Order::Begin { epoch, done } => {
                let queued = self.queue.drain(..).map(|(_, room)| room as usize);
                let room = queued.sum::<usize>() + self.unsynced.room;
                self.unsynced = Unsynced::default();
                self.room.add_permits(room);
                self.begin = Some((epoch, done));
            }
        }
    }

    fn work(&mut self, ending: bool) -> io::Result<()> {
        if let Some((epoch, _)) = &self.begin {
            self.segment =
                begin_epoch(&self.shared, &self.config.directory, &self.identity, *epoch)?;
            if let Some((_, done)) = self.begin.take() {
                let _ = done.send(());
            }
        }
        if self.retry_at.is_some() {
            self.write_again()?;
        }
        loop {
            let more = self.write_queue();
            // Readers don't wait for the disk.
            self.announce();
            match more? {
                true => self.sync()?,
                false => break,
            }
        }
        let due = self.synced_at.elapsed() >= self.config.sync_interval;
        if ending || due || !self.syncs.is_empty() || self.retry_at.is_some() {
            self.sync()?;
            for done in self.syncs.drain(..) {
                let _ = done.send(());
            }
        }
        Ok(())
    }

    /// Whether so much is written that it must be synced before more is.
    fn write_queue(&mut self) -> io::Result<bool> {
        while self.unsynced.bytes < self.config.queue_bytes_max / 2 {
            match self.queue.front_mut() {
                None => return Ok(false),
                Some((block, _)) if block.rolls => {
                    self.roll()?;
                    if let Some((block, _)) = self.queue.front_mut() {
                        block.rolls = false;
                    }
                }
                Some(_) => {
                    let front = self.queue.pop_front();
                    let (block, room) = front.expect("just looked at");
                    self.write(block, room)?;
                }
            }
        }
        Ok(true)
    }

    fn write(&mut self, block: Block, room: u32) -> io::Result<()> {
        let offset = self.segment.len();
        let mut bytes = block.bytes;
        let (header, body) = bytes.split_at_mut(BLOCK_HEADER_BYTES);
        header.copy_from_slice(&self.segment.header.block_header(offset, body));
        let summary = Summary {
            bytes: bytes.len() as u64,
            last: block.last,
            committed: block.committed,
            shapes: block.shapes,
            newest: block.newest,
        };
        let written = self.write_at(&bytes, offset);
        self.unsynced.bytes += bytes.len();
        self.unsynced.room += room as usize;
        self.unsynced.committed = block.committed.or(self.unsynced.committed);
        self.unsynced.blocks.push((offset, bytes));
        match written {
            Ok(()) => self.segment.publish(&summary),
            Err(_) => self.unsynced.unpublished = Some(summary),
        }
        written
    }

    fn write_again(&mut self) -> io::Result<()> {
        for (offset, bytes) in &self.unsynced.blocks {
            self.write_at(bytes, *offset)?;
        }
        if let Some(block) = self.unsynced.unpublished.take() {
            self.segment.publish(&block);
        }
        Ok(())
    }

    /// Wakes who waits for what has just been written.
    fn announce(&self) {
        let position = Position {
            cursor: self.segment.last(),
            epoch: self.segment.header.epoch,
        };
        // While an epoch begins, the last segment is of the one before.
        self.shared.written.send_if_modified(|written| {
            let newer = written.epoch == position.epoch && written.cursor != position.cursor;
            if newer {
                *written = position;
            }
            newer
        });
    }

    fn sync(&mut self) -> io::Result<()> {
        self.synced_at = Instant::now();
        if self.unsynced.blocks.is_empty() {
            return Ok(());
        }
        self.sync_file()?;
        let synced = std::mem::take(&mut self.unsynced);
        self.room.add_permits(synced.room);
        if let Some(committed) = synced.committed {
            self.shared.durable.send_replace(committed);
        }
        Ok(())
    }

    /// Closes the segment and begins the next one.
    fn roll(&mut self) -> io::Result<()> {
        self.sync()?;
        let header = Header {
            sequence: self.segment.header.sequence + 1,
            after: self.segment.last(),
            committed: self.segment.committed(),
            ..self.segment.header
        };
        let next = Arc::new(Segment::create(&self.config.directory, header)?);
        self.segment.close(Duration::ZERO);
        self.shared.push_segment(next.clone());
        self.segment = next;
        self.retained_at = Instant::now();
        retain(&self.shared, &self.config);
        Ok(())
    }

    fn retain(&mut self) {
        if self.retained_at.elapsed() >= TICK {
            self.retained_at = Instant::now();
            retain(&self.shared, &self.config);
        }
    }

    fn failed(&mut self, error: &io::Error) {
        self.retry_at = Some(Instant::now() + TICK);
        let reason: Arc<str> = error.to_string().into();
        let health = Health::Degraded { reason };
        if *self.shared.health.borrow() != health {
            tracing::error!(%error, "the log can't be written; trying again every second");
            self.shared.health.send_replace(health);
        }
    }

    fn recovered(&mut self) {
        if self.retry_at.take().is_some() {
            tracing::info!("the log is written again");
            self.shared.health.send_replace(Health::Good);
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        #[cfg(test)]
        self.shared.faults.write()?;
        self.segment.file.write_all_at(bytes, offset)
    }

    fn sync_file(&self) -> io::Result<()> {
        #[cfg(test)]
        self.shared.faults.sync()?;
        self.segment.file.sync_data()
    }
}

impl Drop for Writer {
    /// Who waits for room would wait for ever.
    fn drop(&mut self) {
        self.room.close();
    }
}

/// Drops what there is and makes `epoch` durable. May be called again after an error.
fn begin_epoch(
    shared: &Shared,
    directory: &Path,
    identity: &Identity,
    epoch: Epoch,
) -> io::Result<Arc<Segment>> {
    // First, because it frees the space that the rest may need. A crash from here on leaves an
    // epoch without segments, which is no epoch.
    shared.drop_all(epoch);
    let segment = Arc::new(make_epoch(directory, identity, epoch)?);
    shared.push_segment(segment.clone());
    Ok(segment)
}

/// The head file and the first segment of `epoch`.
pub(crate) fn make_epoch(
    directory: &Path,
    identity: &Identity,
    epoch: Epoch,
) -> io::Result<Segment> {
    let identity = identity.clone();
    head::write(directory, &Head { epoch, identity })?;
    Segment::create(directory, first_header(epoch))
}

fn retain(shared: &Shared, config: &LogConfig) {
    shared.drop_oldest(|segments| {
        let closed: u64 = segments
            .iter()
            .rev()
            .skip(1)
            .map(|segment| segment.len())
            .sum();
        let first = segments.front();
        closed + config.segment_bytes > config.bytes_max && segments.len() > 2
            || first.is_some_and(|first| first.is_older_than(config.age_max))
    });
}
