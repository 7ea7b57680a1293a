//! Reads ahead of the pipeline, bounded in bytes.
//!
//! pgwire-replication bounds what it has read by the number of messages, which may be of 64 MiB each.
//! So it is allowed only a few ([`WIRE_MESSAGES_MAX`]), and a task takes them from it as soon as they
//! are there, as long as what waits for the pipeline is within the bound. Beyond it nobody takes any:
//! the worker stops to read the socket, and Postgres waits; the worker goes on telling Postgres each
//! second that somebody is there, so it waits for as long as it takes.
//!
//! With a bound of `b` bytes and messages of up to `m`, at most `max(b, m) + (WIRE_MESSAGES_MAX + 3) × m`
//! is held between the socket and the pipeline: what waits (a message over the bound waits alone), what
//! waits to be let in beside it, and the worker's: those counted, one in its hand, one that it reads.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use pgwire_replication::{Lsn as WireLsn, ReplicationClient, ReplicationEvent};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep, timeout, timeout_at};
use walcast_pgoutput::{Begin, Commit, Logical, Lsn, Message, PgTime, Xid};

use super::Received;
use super::settings::WIRE_MESSAGES_MAX;
use crate::SourceError;

/// Handed over in one go, so that a small message costs little more than being read. A larger
/// message goes alone.
const CHUNK_BYTES: usize = 64 * 1024;
/// What a message takes besides its bytes.
const MESSAGE_BYTES: usize = size_of::<Received>();
/// Postgres is told once a second at most, so the task need not be woken for each batch.
const PASS_ON_INTERVAL: Duration = Duration::from_millis(100);
/// How long the session may take to end once nobody reads it any more.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// What has been read ahead. Dropped, the session ends.
pub(super) struct Ahead {
    /// Bounded by the permits that its chunks hold.
    chunks: mpsc::UnboundedReceiver<Result<Chunk, SourceError>>,
    /// What is left of the chunk that was taken last.
    taken: Chunk,
    acknowledged: watch::Sender<Lsn>,
    task: JoinHandle<()>,
}

struct Chunk {
    messages: vec::IntoIter<Received>,
    /// Of as many bytes; given back when the last message has been taken.
    _room: Option<OwnedSemaphorePermit>,
}

impl Ahead {
    /// Takes over a session that streams.
    pub(super) fn of(client: ReplicationClient, bytes_max: usize) -> Ahead {
        let (tell, chunks) = mpsc::unbounded_channel();
        let (acknowledged, acknowledgements) = watch::channel(Lsn::ZERO);
        let bytes_max = u32::try_from(bytes_max)
            .unwrap_or(u32::MAX)
            .clamp(1, u32::MAX >> 3); // a semaphore has no more on 32 bits
        let reading = Reading {
            client,
            in_transaction: false,
            room: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
            acknowledgements: Acknowledgements {
                newest: acknowledgements,
                pause: Box::pin(sleep(Duration::ZERO)),
            },
        };
        Ahead {
            chunks,
            taken: Chunk::empty(),
            acknowledged,
            task: tokio::spawn(reading.run(tell)),
        }
    }

    /// The next message. Cancel safe.
    pub(super) async fn recv(&mut self) -> Result<Received, SourceError> {
        loop {
            if let Some(received) = self.taken.messages.next() {
                return Ok(received);
            }
            // Before it is waited: what it held is needed for what comes.
            self.taken = Chunk::empty();
            self.taken = self.chunks.recv().await.ok_or(SourceError::Closed)??;
        }
    }

    /// The next message if it is here already.
    pub(super) fn try_recv(&mut self) -> Option<Result<Received, SourceError>> {
        loop {
            if let Some(received) = self.taken.messages.next() {
                return Some(Ok(received));
            }
            self.taken = Chunk::empty();
            match self.chunks.try_recv() {
                Ok(Ok(chunk)) => self.taken = chunk,
                Ok(Err(error)) => return Some(Err(error)),
                Err(TryRecvError::Empty) => return None,
                Err(TryRecvError::Disconnected) => return Some(Err(SourceError::Closed)),
            }
        }
    }

    pub(super) fn acknowledge(&self, lsn: Lsn) {
        self.acknowledged.send_replace(lsn);
    }

    /// Whether the session has ended by itself.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits until the session has ended in order, until `end` at most.
    pub(super) async fn close(self, end: Instant) {
        let Ahead {
            acknowledged, task, ..
        } = self;
        drop(acknowledged);
        let _ = timeout_at(end, task).await; // goes on by itself
    }
}

impl Chunk {
    fn empty() -> Chunk {
        Chunk {
            messages: Vec::new().into_iter(),
            _room: None,
        }
    }
}

/// The task that has the session.
struct Reading {
    client: ReplicationClient,
    in_transaction: bool,
    room: Arc<Semaphore>,
    bytes_max: u32,
    acknowledgements: Acknowledgements,
}

/// Ends with the [`Ahead`].
struct Acknowledgements {
    newest: watch::Receiver<Lsn>,
    /// Until then nobody is woken for another one.
    pause: Pin<Box<Sleep>>,
}

/// Nobody reads any more.
struct Left;

impl Reading {
    async fn run(mut self, tell: mpsc::UnboundedSender<Result<Chunk, SourceError>>) {
        while let Ok(event) = self.next().await {
            let (messages, bytes, end) = self.collect(event);
            let Ok(room) = self.room(bytes).await else {
                break;
            };
            let chunk = Chunk {
                messages: messages.into_iter(),
                _room: Some(room),
            };
            let _ = tell.send(Ok(chunk)); // whoever left is noticed above
            if let Some(error) = end {
                let _ = tell.send(Err(error));
                return;
            }
        }
        drop(tell);
        if timeout(END_PATIENCE, self.client.shutdown()).await.is_err() {
            self.client.abort();
        }
    }

    /// Waits for what comes from the session, and passes acknowledgements on meanwhile.
    async fn next(&mut self) -> Result<Result<ReplicationEvent, SourceError>, Left> {
        loop {
            tokio::select! {
                biased;
                event = self.client.recv() => {
                    return Ok(event.map_err(SourceError::from).and_then(|event| event.ok_or(SourceError::Closed)));
                }
                passed_on = self.acknowledgements.next() => {
                    self.client.update_applied_lsn(passed_on?);
                }
            }
        }
    }

    /// `event` and what has come behind it, how much that is, and the error at its end.
    fn collect(
        &mut self,
        mut event: Result<ReplicationEvent, SourceError>,
    ) -> (Vec<Received>, usize, Option<SourceError>) {
        let mut messages = Vec::with_capacity(WIRE_MESSAGES_MAX);
        let mut bytes = 0;
        loop {
            let size = event.as_ref().map_or(0, size_of_event);
            match event.and_then(|event| self.map(event)) {
                Ok(received) => messages.extend(received),
                Err(error) => return (messages, bytes, Some(error)),
            }
            bytes += size + MESSAGE_BYTES;
            if bytes >= CHUNK_BYTES {
                return (messages, bytes, None);
            }
            // Of one that has ended the reason is for `next`, which may wait for it.
            event = match self
                .client
                .is_running()
                .then(|| poll_once(self.client.recv()))
            {
                Some(Some(Ok(Some(event)))) => Ok(event),
                Some(Some(Ok(None))) => Err(SourceError::Closed),
                Some(Some(Err(error))) => Err(error.into()),
                Some(None) | None => return (messages, bytes, None),
            };
        }
    }

    /// Waits until so much may be held.
    async fn room(&mut self, bytes: usize) -> Result<OwnedSemaphorePermit, Left> {
        let bytes = u32::try_from(bytes).map_or(self.bytes_max, |bytes| bytes.min(self.bytes_max));
        let mut room = pin!(Arc::clone(&self.room).acquire_many_owned(bytes));
        loop {
            tokio::select! {
                biased;
                room = &mut room => return room.map_err(|_| Left),
                passed_on = self.acknowledgements.next() => {
                    self.client.update_applied_lsn(passed_on?);
                }
            }
        }
    }

    fn map(&mut self, event: ReplicationEvent) -> Result<Option<Received>, SourceError> {
        let message = match event {
            ReplicationEvent::XLogData { data, .. } => walcast_pgoutput::decode(data)?,
            ReplicationEvent::Begin {
                final_lsn,
                xid,
                commit_time_micros,
            } => {
                self.in_transaction = true;
                Message::Begin(Begin {
                    final_lsn: Lsn(final_lsn.0),
                    commit_time: PgTime(commit_time_micros),
                    xid: Xid(xid),
                })
            }
            ReplicationEvent::Commit {
                lsn,
                end_lsn,
                commit_time_micros,
            } => {
                self.in_transaction = false;
                Message::Commit(Commit {
                    flags: 0,
                    commit_lsn: Lsn(lsn.0),
                    end_lsn: Lsn(end_lsn.0),
                    commit_time: PgTime(commit_time_micros),
                })
            }
            ReplicationEvent::Message {
                transactional,
                lsn,
                prefix,
                content,
            } => Message::Logical(Logical {
                transactional,
                lsn: Lsn(lsn.0),
                prefix: Bytes::from(prefix),
                content,
            }),
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                let idle = !self.in_transaction && wal_end.0 > 0;
                return Ok(Some(match idle {
                    true => Received::Idle(Lsn(wal_end.0)),
                    false => Received::Alive,
                }));
            }
            _ => return Ok(None),
        };
        Ok(Some(Received::Message(message)))
    }
}

impl Acknowledgements {
    /// The next one that is worth passing on. Cancel safe.
    async fn next(&mut self) -> Result<WireLsn, Left> {
        self.pause.as_mut().await;
        self.newest.changed().await.map_err(|_| Left)?;
        let lsn = *self.newest.borrow_and_update();
        self.pause.as_mut().reset(Instant::now() + PASS_ON_INTERVAL);
        Ok(WireLsn(lsn.0))
    }
}

fn size_of_event(event: &ReplicationEvent) -> usize {
    match event {
        ReplicationEvent::XLogData { data, .. } => data.len(),
        ReplicationEvent::Message {
            prefix, content, ..
        } => prefix.len() + content.len(),
        _ => 0,
    }
}

fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let future = pin!(tokio::task::unconstrained(future));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
