//! The side that appends.

use std::fs::{self, File, TryLockError};
use std::sync::mpsc;
use std::sync::{Arc, mpsc::Sender};
use std::thread;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot};
use walcast_change::{Change, Cursor, Epoch};
use walcast_pgoutput::Lsn;

use crate::block::{Builder, Rolling};
use crate::format::HEADER_BYTES;
use crate::head::{self, Found};
use crate::history::{History, Shared};
use crate::recovery::{self, Recovered};
use crate::segment::Segment;
use crate::writer::{Order, Writer, make_epoch};
use crate::{Identity, LogConfig, LogError};

const LOCK_NAME: &str = "lock";

/// The one who appends. Readers use [`Log::history`].
///
/// Dropping it lets the writer's thread finish what was flushed, behind the caller's back;
/// [`Log::close`] waits for it.
#[derive(Debug)]
pub struct Log {
    builder: Builder,
    rolling: Rolling,
    orders: Sender<Order>,
    room: Arc<Semaphore>,
    room_bytes: u32,
    shared: Arc<Shared>,
    writer: Option<thread::JoinHandle<()>>,
}

/// What [`Log::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    pub epoch: Epoch,
    /// Everything that Postgres sends before this is here. `None` until the first commit.
    pub durable: Option<Lsn>,
    /// The last change that is here; those up to it are [skipped](Log::append) when they come again.
    pub last: Option<Cursor>,
    /// The least cursor that can be resumed from. `None`: any of this epoch.
    pub oldest: Option<Cursor>,
    /// A new epoch has begun: cursors from before are of no use.
    pub new_epoch: Option<NewEpoch>,
    /// Older segments were damaged and dropped; what is left is whole.
    pub damaged: bool,
    /// A torn write or half a transaction was cut off at the end.
    pub cut_bytes: u64,
}

/// Why an epoch begins when a log is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NewEpoch {
    /// There was no log.
    Fresh,
    /// It was the log of another server, timeline, slot or publication.
    OtherIdentity,
    /// It was damaged so that nothing could be used, or had not come to its first commit.
    Unusable,
}

impl Log {
    /// Opens the log in `config.directory`, or begins one. Blocks: reads all of it and compares every
    /// checksum (about a second per GiB from the system's cache).
    ///
    /// Needs a directory of its own, which it locks for as long as the log is open; the lock goes
    /// with the process, however that ends.
    pub fn open(config: LogConfig, identity: Identity) -> Result<(Log, Opened), LogError> {
        let directory = config.directory.clone();
        let io = |action| {
            let path = directory.clone();
            move |source| LogError::Io {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(&directory).map_err(io("make"))?;
        let lock = lock(&config)?;
        let (head, mut new_epoch) = match head::read(&directory).map_err(io("read"))? {
            Found::Head(head) if head.identity == identity => (Some(head.epoch), None),
            Found::Head(_) => (None, Some(NewEpoch::OtherIdentity)),
            Found::Damaged => (None, Some(NewEpoch::Unusable)),
            Found::Nothing => (None, Some(NewEpoch::Fresh)),
        };
        let mut recovered = recovery::recover(&directory, head).map_err(io("recover"))?;
        let epoch = match head {
            Some(epoch) if recovered.committed() != Lsn::ZERO => epoch,
            _ => {
                for segment in recovered.segments.drain(..) {
                    segment.remove();
                }
                new_epoch = new_epoch.or(Some(NewEpoch::Unusable));
                let epoch = recovery::draw_epoch(head).ok_or(LogError::Random)?;
                let first = make_epoch(&directory, &identity, epoch).map_err(io("write"))?;
                recovered.segments = vec![first];
                epoch
            }
        };
        let opened = opened(epoch, new_epoch, &recovered);
        tracing::info!(%epoch, ?new_epoch, damaged = opened.damaged, cut_bytes = opened.cut_bytes, "log opened");
        let log = Log::start(config, identity, epoch, recovered.segments, lock)?;
        Ok((log, opened))
    }

    fn start(
        config: LogConfig,
        identity: Identity,
        epoch: Epoch,
        segments: Vec<Segment>,
        lock: File,
    ) -> Result<Log, LogError> {
        let rolling = Rolling {
            segment_bytes: config.segment_bytes,
            age: config.age_max / 4,
        };
        let room_bytes = u32::try_from(config.queue_bytes_max).unwrap_or(u32::MAX);
        let room_bytes = room_bytes.clamp(1 << 16, u32::MAX >> 3);
        let room = Arc::new(Semaphore::new(room_bytes as usize));
        let shared = Arc::new(Shared::new(epoch, segments));
        let last = shared.segments.read().back().cloned();
        let segment = last.expect("recovery or a new epoch made a segment");
        let (_, shapes) = segment.readable();
        let shapes = u32::try_from(shapes.len()).expect("they were numbered in 32 bits");
        let builder = Builder::new(
            rolling,
            segment.last(),
            segment.committed(),
            segment.len(),
            shapes,
        );
        let (orders, received) = mpsc::channel();
        let path = config.directory.clone();
        let writer = Writer::new(
            shared.clone(),
            segment,
            config,
            identity,
            received,
            room.clone(),
            lock,
        );
        let thread = thread::Builder::new().name("walcast-log".to_owned());
        let writer = thread.spawn(move || writer.run());
        let writer = writer.map_err(|source| LogError::Io {
            action: "start a thread for",
            path,
            source,
        })?;
        Ok(Log {
            builder,
            rolling,
            orders,
            room,
            room_bytes,
            shared,
            writer: Some(writer),
        })
    }

    /// For readers, and for what is to be known of the log.
    pub fn history(&self) -> History {
        History::new(self.shared.clone())
    }

    pub fn epoch(&self) -> Epoch {
        self.shared.epoch()
    }

    /// The last change that was appended, perhaps not flushed yet; all zero before the first one.
    pub fn last(&self) -> Cursor {
        self.builder.last()
    }

    /// Call when the stream (re)starts, before its first change, with the slot's
    /// `confirmed_flush_lsn`. If the slot stands further on than the log, what lies between will not
    /// come again: a new epoch begins, and is returned. In an epoch without a commit, history begins
    /// at the slot.
    ///
    /// Relies on Postgres being told nothing that [`History::durable`] did not say.
    pub async fn continue_from(&mut self, confirmed_flush: Lsn) -> Result<Option<Epoch>, LogError> {
        let committed = self.builder.committed();
        let gap = committed != Lsn::ZERO && confirmed_flush > committed;
        let epoch = match gap {
            true => Some(self.new_epoch("the slot is ahead of the log").await?),
            false => None,
        };
        if self.builder.committed() == Lsn::ZERO {
            self.commit(confirmed_flush);
            self.flush().await?;
        }
        Ok(epoch)
    }

    /// Takes `change` into memory; `false` if it is already in the log, because Postgres sent it
    /// again. Costs a copy of its values. Flush before too much waits ([`Log::waiting_bytes`]).
    pub fn append(&mut self, change: &Change) -> bool {
        let new = change.cursor > self.builder.last();
        if new {
            self.builder.change(change);
        }
        new
    }

    /// Everything that Postgres sends before `end_lsn` has been appended: the end of a transaction,
    /// or outside of one the position of a keepalive that is to be acknowledged.
    /// Does nothing unless it is further than the last one.
    pub fn commit(&mut self, end_lsn: Lsn) {
        if end_lsn > self.builder.committed() {
            self.builder.commit(end_lsn);
        }
    }

    /// What was appended and waits for [`Log::flush`], in bytes.
    pub fn waiting_bytes(&self) -> usize {
        self.builder.waiting_bytes()
    }

    /// Hands everything to the writer; waits while its queue is full. Readers see it soon
    /// ([`History::written`]), and it will be durable ([`History::durable`]).
    ///
    /// If the future is dropped, nothing was flushed and nothing is lost.
    pub async fn flush(&mut self) -> Result<(), LogError> {
        let waiting = u32::try_from(self.builder.waiting_bytes()).unwrap_or(u32::MAX);
        if waiting == 0 {
            return Ok(());
        }
        let room = waiting.min(self.room_bytes);
        let permit = self.room.acquire_many(room).await;
        permit.map_err(|_| LogError::Ended)?.forget();
        let blocks = self.builder.take();
        let last = blocks.len().saturating_sub(1);
        for (nth, block) in blocks.into_iter().enumerate() {
            // The room comes back when all of it is durable.
            let room = if nth == last { room } else { 0 };
            self.order(Order::Write { block, room })?;
        }
        Ok(())
    }

    /// Waits until everything that was appended is durable. For as long as that takes: see
    /// [`History::health`].
    pub async fn sync(&mut self) -> Result<(), LogError> {
        self.flush().await?;
        let (done, synced) = oneshot::channel();
        self.order(Order::Sync { done })?;
        synced.await.map_err(|_| LogError::Ended)
    }

    /// Drops all that there is, because of a gap, and begins a new epoch. It is durable when this
    /// returns; until then it is tried every second ([`History::health`]).
    pub async fn new_epoch(&mut self, reason: &str) -> Result<Epoch, LogError> {
        let before = self.epoch();
        let epoch = recovery::draw_epoch(Some(before)).ok_or(LogError::Random)?;
        tracing::warn!(%before, %epoch, reason, "a new epoch begins");
        let (last, committed) = (Cursor::default(), Lsn::ZERO);
        self.builder = Builder::new(self.rolling, last, committed, HEADER_BYTES as u64, 0);
        let (done, begun) = oneshot::channel();
        self.order(Order::Begin { epoch, done })?;
        begun.await.map_err(|_| LogError::Ended)?;
        Ok(epoch)
    }

    /// Makes everything durable and ends the writer's thread; then the directory is free.
    /// Waits for a disk that is full at most `patience`, and gives up what wasn't durable then.
    pub async fn close(mut self, patience: Duration) -> Result<(), LogError> {
        let synced = tokio::time::timeout(patience, self.sync()).await;
        let writer = self.writer.take();
        drop(self);
        if let Some(writer) = writer {
            let joined = tokio::task::spawn_blocking(move || writer.join()).await;
            joined
                .map_err(|_| LogError::Ended)?
                .map_err(|_| LogError::Ended)?;
        }
        synced.map_err(|_| LogError::NotDurable)?
    }

    fn order(&self, order: Order) -> Result<(), LogError> {
        self.orders.send(order).map_err(|_| LogError::Ended)
    }
}

fn lock(config: &LogConfig) -> Result<File, LogError> {
    let path = config.directory.join(LOCK_NAME);
    let mut options = File::options();
    let opened = options.write(true).create(true).truncate(false).open(&path);
    let io = |source| LogError::Io {
        action: "lock",
        path,
        source,
    };
    let file = match opened {
        Ok(file) => file,
        Err(error) => return Err(io(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::Locked {
            directory: config.directory.clone(),
        }),
        Err(TryLockError::Error(error)) => Err(io(error)),
    }
}

fn opened(epoch: Epoch, new_epoch: Option<NewEpoch>, recovered: &Recovered) -> Opened {
    let some = |cursor: Cursor| (cursor != Cursor::default()).then_some(cursor);
    let newest = recovered.segments.last();
    Opened {
        epoch,
        durable: Some(recovered.committed()).filter(|&lsn| lsn != Lsn::ZERO),
        last: newest.and_then(|segment| some(segment.last())),
        oldest: recovered
            .segments
            .first()
            .and_then(|first| some(first.header.after)),
        new_epoch,
        damaged: recovered.damaged,
        cut_bytes: recovered.cut_bytes,
    }
}
