//! The queue of frames that wait for one connection's socket.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout_at;

/// Why a connection is being ended from the inside. The dialect gives it its code and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Closing {
    /// The client read too slowly: its outbox was full, or a write stood still.
    Slow,
    /// The server stops.
    Shutdown,
    /// Its token expired.
    Expired,
    /// Nothing came from it for too long.
    Idle,
    /// It did not say who it is in time.
    Unauthenticated,
    /// A limit on connections is reached.
    Full,
    /// It asked to end.
    Done,
}

/// Frames on their way to one socket, bounded in bytes. Shared by who pushes and who writes.
#[derive(Debug)]
pub struct Outbox {
    bytes_max: usize,
    state: Mutex<State>,
    /// Bytes that wait behind the connection's gates to come here.
    held: AtomicUsize,
    /// There is something to write, or an end.
    wake: Notify,
    /// Nothing is left to write, or nothing will be written.
    empty: Notify,
}

#[derive(Debug)]
struct State {
    frames: VecDeque<Bytes>,
    bytes: usize,
    closing: Option<Closing>,
    emptied: Instant,
}

/// What became of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// Queued, and the outbox is more than half full.
    Crowded,
    /// The connection is ending.
    Closed,
}

/// What the writer finds.
#[derive(Debug, PartialEq, Eq)]
pub enum Pending {
    /// Frames were moved into the writer's list.
    Frames,
    /// Nothing waits, and nothing more will come.
    Closed(Closing),
}

/// Queues that grew beyond this many frames give their memory back once they are empty.
const FRAMES_KEPT: usize = 32;

impl Outbox {
    pub fn new(bytes_max: usize) -> Outbox {
        let state = State {
            frames: VecDeque::new(),
            bytes: 0,
            closing: None,
            emptied: Instant::now(),
        };
        let (wake, empty) = (Notify::new(), Notify::new());
        Outbox {
            bytes_max,
            state: Mutex::new(state),
            held: AtomicUsize::new(0),
            wake,
            empty,
        }
    }

    /// Queues a frame. One that does not fit closes the outbox as [`Closing::Slow`]: the client is
    /// told to come back, never given a gap.
    pub fn push(&self, frame: Bytes) -> Pushed {
        let mut state = self.state.lock();
        if state.closing.is_some() {
            return Pushed::Closed;
        }
        let was_empty = state.frames.is_empty();
        if state.bytes + frame.len() > self.bytes_max && !was_empty {
            state.close(Closing::Slow);
            drop(state);
            self.wake.notify_one();
            self.empty.notify_waiters();
            return Pushed::Closed;
        }
        state.bytes += frame.len();
        state.frames.push_back(frame);
        let crowded = state.bytes > self.bytes_max / 2;
        drop(state);
        if was_empty {
            self.wake.notify_one();
        }
        if crowded {
            Pushed::Crowded
        } else {
            Pushed::Queued
        }
    }

    /// Whether so much more can be pushed now.
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let state = self.state.lock();
        state.frames.is_empty() || state.bytes.saturating_add(bytes) <= self.bytes_max
    }

    /// Waits until the writer has taken everything, or the outbox is closed; no longer than until
    /// `patience` after it was last empty. So a burst is waited for, and a reader that has been
    /// behind for long is not.
    pub async fn relieved(&self, patience: Duration) {
        loop {
            let emptied = self.empty.notified();
            let deadline = {
                let state = self.state.lock();
                if state.frames.is_empty() || state.closing.is_some() {
                    return;
                }
                state.emptied + patience
            };
            if timeout_at(deadline.into(), emptied).await.is_err() {
                return;
            }
        }
    }

    /// Takes no more frames. What waits is still written, but for a slow client, which is
    /// not going to read it.
    pub fn close(&self, closing: Closing) {
        let mut state = self.state.lock();
        if state.closing.is_none() {
            state.close(closing);
        }
        drop(state);
        self.wake.notify_one();
        self.empty.notify_waiters();
    }

    pub fn closing(&self) -> Option<Closing> {
        self.state.lock().closing
    }

    /// Whether so much more may wait behind the gates of this connection: together as much as here, or
    /// one frame alone. It does from now on, until [`Outbox::let_go`].
    pub(crate) fn hold(&self, bytes: usize) -> bool {
        let fits = |held: usize| {
            let more = held.saturating_add(bytes);
            (held == 0 || more <= self.bytes_max).then_some(more)
        };
        self.held
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .is_ok()
    }

    /// So much waits behind gates no more.
    pub(crate) fn let_go(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// The bytes that wait behind gates.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The bytes that wait.
    pub fn bytes(&self) -> usize {
        self.state.lock().bytes
    }

    /// Waits until there is something to do, then moves up to `frames_max` frames into `frames`.
    /// One writer only.
    pub async fn take(&self, frames: &mut Vec<Bytes>, frames_max: usize) -> Pending {
        loop {
            if let Some(pending) = self.try_take(frames, frames_max) {
                return pending;
            }
            self.wake.notified().await;
        }
    }

    fn try_take(&self, frames: &mut Vec<Bytes>, frames_max: usize) -> Option<Pending> {
        let mut state = self.state.lock();
        if state.frames.is_empty() {
            return state.closing.map(Pending::Closed);
        }
        let count = state.frames.len().min(frames_max);
        frames.extend(state.frames.drain(..count));
        state.bytes -= frames[frames.len() - count..]
            .iter()
            .map(Bytes::len)
            .sum::<usize>();
        if state.frames.is_empty() {
            state.frames.shrink_to(FRAMES_KEPT);
            state.emptied = Instant::now();
            drop(state);
            self.empty.notify_waiters();
        }
        Some(Pending::Frames)
    }
}

impl State {
    fn close(&mut self, closing: Closing) {
        self.closing = Some(closing);
        if closing == Closing::Slow {
            self.frames = VecDeque::new();
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: usize) -> Bytes {
        Bytes::from(vec![b'x'; size])
    }

    #[tokio::test]
    async fn keeps_order_and_counts_bytes() {
        let outbox = Outbox::new(10);
        assert_eq!(outbox.push(frame(4)), Pushed::Queued);
        assert_eq!(outbox.push(frame(6)), Pushed::Crowded);
        assert_eq!(outbox.bytes(), 10);
        let mut frames = Vec::new();
        assert_eq!(outbox.take(&mut frames, 1).await, Pending::Frames);
        assert_eq!((frames.len(), outbox.bytes()), (1, 6));
        assert_eq!(outbox.take(&mut frames, 9).await, Pending::Frames);
        assert_eq!((frames.len(), outbox.bytes()), (2, 0));
    }

    #[tokio::test]
    async fn a_full_outbox_ends_the_connection_and_frees_its_frames() {
        let outbox = Outbox::new(10);
        assert_eq!(outbox.push(frame(8)), Pushed::Crowded);
        assert_eq!(outbox.push(frame(3)), Pushed::Closed);
        assert_eq!(outbox.bytes(), 0);
        assert_eq!(
            outbox.push(frame(1)),
            Pushed::Closed,
            "nothing may follow a lost frame"
        );
        let mut frames = Vec::new();
        assert_eq!(
            outbox.take(&mut frames, 9).await,
            Pending::Closed(Closing::Slow)
        );
        assert!(frames.is_empty());
    }

    #[tokio::test]
    async fn one_frame_larger_than_the_bound_still_goes_out() {
        let outbox = Outbox::new(10);
        assert_eq!(outbox.push(frame(100)), Pushed::Crowded);
        assert_eq!(outbox.take(&mut Vec::new(), 9).await, Pending::Frames);
    }

    #[tokio::test]
    async fn what_waits_is_written_before_an_orderly_end() {
        let outbox = Outbox::new(10);
        outbox.push(frame(1));
        outbox.close(Closing::Shutdown);
        outbox.close(Closing::Idle);
        assert_eq!(outbox.take(&mut Vec::new(), 9).await, Pending::Frames);
        let end = outbox.take(&mut Vec::new(), 9).await;
        assert_eq!(
            end,
            Pending::Closed(Closing::Shutdown),
            "the first reason stays"
        );
    }

    #[tokio::test]
    async fn a_waiting_writer_is_woken() {
        let outbox = std::sync::Arc::new(Outbox::new(10));
        let writer = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.take(&mut Vec::new(), 9).await }
        });
        tokio::task::yield_now().await;
        outbox.push(frame(1));
        assert_eq!(
            writer.await.expect("the writer does not panic"),
            Pending::Frames
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_waited_for_and_a_slow_reader_is_not() {
        let outbox = std::sync::Arc::new(Outbox::new(10));
        outbox.push(frame(8));
        let taken = tokio::spawn({
            let outbox = outbox.clone();
            async move { outbox.take(&mut Vec::new(), 9).await }
        });
        outbox.relieved(Duration::from_secs(3600)).await;
        assert_eq!(outbox.bytes(), 0);
        taken.await.expect("the writer does not panic");
        outbox.push(frame(8));
        outbox.relieved(Duration::from_millis(5)).await;
        assert_eq!(outbox.bytes(), 8, "nobody took it");
    }
}
