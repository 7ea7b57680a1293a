//! Holds a subscription's live frames back while what came before them is still being sent.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use walcast_change::Cursor;
use walcast_pgoutput::{Lsn, Xid};

use crate::{Outbox, Pushed, Standing};

/// Between the pipeline and one subscription's outbox. Closed at first: frames wait. Whoever sends
/// what came before (missed changes, a snapshot) opens it, once, and what waited follows in order.
#[derive(Debug)]
pub struct Gate {
    /// What passes has to be judged as this number stands for.
    judged: Option<(Arc<Standing>, u64)>,
    state: Mutex<State>,
}

/// Which changes are not delivered through a gate, since the subscriber has them already.
#[derive(Clone)]
pub struct Skip {
    /// No change of a transaction that committed after this is skipped.
    until: Lsn,
    has: Arc<dyn Fn(Cursor, Xid) -> bool + Send + Sync>,
}

#[derive(Debug)]
enum State {
    Closed {
        waiting: Waiting,
        skip: Option<Skip>,
    },
    Open {
        skip: Option<Skip>,
        /// The last that passed.
        last: Option<Cursor>,
    },
    /// See [`Gate::give_up`].
    GivenUp,
}

/// Frames behind a closed gate. However they leave, the connection has room for others again.
#[derive(Debug)]
struct Waiting {
    frames: VecDeque<Held>,
    bytes: usize,
    outbox: Arc<Outbox>,
}

/// What became of a gate that was to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Open,
    /// It was open already.
    Never,
    /// Nothing has passed, and nothing will: who was to open it goes on sending, or nobody does.
    GivenUp,
}

#[derive(Debug)]
struct Held {
    cursor: Cursor,
    xid: Xid,
    frame: Bytes,
}

impl Skip {
    /// Everything up to `cursor`.
    pub fn up_to(cursor: Cursor) -> Skip {
        Skip {
            until: cursor.commit_lsn,
            has: Arc::new(move |at, _| at <= cursor),
        }
    }

    /// The transactions that `seen` names, all of which committed before `until`.
    pub fn seen(until: Lsn, seen: impl Fn(Xid) -> bool + Send + Sync + 'static) -> Skip {
        Skip {
            until,
            has: Arc::new(move |at, xid| at.commit_lsn < until && seen(xid)),
        }
    }

    /// What one or the other names.
    pub fn or(self, other: Option<Skip>) -> Skip {
        let Some(other) = other else { return self };
        let until = self.until.max(other.until);
        Skip {
            until,
            has: Arc::new(move |at, xid| self.skips(at, xid) || other.skips(at, xid)),
        }
    }

    /// Whether all that it names came before `cursor`.
    pub fn ends_before(&self, cursor: Cursor) -> bool {
        self.until < cursor.commit_lsn
    }

    fn skips(&self, cursor: Cursor, xid: Xid) -> bool {
        cursor.commit_lsn <= self.until && (self.has)(cursor, xid)
    }
}

impl fmt::Debug for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Skip(until {})", self.until)
    }
}

impl Gate {
    /// A closed gate before `outbox`. What `skip` names does not wait. Behind all gates of a connection
    /// as much may wait as in its outbox.
    pub fn closed(outbox: Arc<Outbox>, skip: Option<Skip>) -> Arc<Gate> {
        let waiting = Waiting {
            frames: VecDeque::new(),
            bytes: 0,
            outbox,
        };
        Arc::new(Gate {
            judged: None,
            state: Mutex::new(State::Closed { waiting, skip }),
        })
    }

    /// An open gate that lets everything pass but what `skip` names, for as long as the
    /// subscription goes on and is judged as the one whose number `turn` is
    /// ([`Standing::judged`]): from then on nothing.
    pub fn open_but(skip: Skip, standing: Arc<Standing>, turn: u64) -> Arc<Gate> {
        Arc::new(Gate {
            judged: Some((standing, turn)),
            state: Mutex::new(State::Open {
                skip: Some(skip),
                last: None,
            }),
        })
    }

    /// What an open gate still lets nobody through for.
    pub fn skip(&self) -> Option<Skip> {
        match &*self.state.lock() {
            State::Open { skip, .. } => skip.clone(),
            State::Closed { .. } | State::GivenUp => None,
        }
    }

    /// The last change that has passed the open gate.
    pub fn last(&self) -> Option<Cursor> {
        match &*self.state.lock() {
            State::Open { last, .. } => *last,
            State::Closed { .. } | State::GivenUp => None,
        }
    }

    /// Drops what waits, and whatever comes: whoever was to open it sends that, too. `false` if it
    /// is open already.
    pub fn give_up(&self) -> bool {
        let mut state = self.state.lock();
        match &*state {
            State::Open { .. } => false,
            State::Closed { .. } | State::GivenUp => {
                *state = State::GivenUp;
                true
            }
        }
    }

    /// Changes were lost. What waits belongs to a history that has ended, as has whoever was to open the
    /// gate: it is given up. `anew`: what comes is counted anew, so none of it is known.
    pub fn break_off(&self, anew: bool) {
        if !self.give_up()
            && anew
            && let State::Open { skip, last } = &mut *self.state.lock()
        {
            (*skip, *last) = (None, None);
        }
    }

    /// A frame on its way to `outbox`: held, passed or skipped. If too much waits, this gate is given
    /// up: nothing is left out, for who was to open it goes on sending instead.
    pub fn push(&self, cursor: Cursor, xid: Xid, frame: Bytes, outbox: &Outbox) -> Pushed {
        let mut state = self.state.lock();
        match &mut *state {
            State::Closed { waiting, skip } => {
                if skip.as_ref().is_some_and(|skip| skip.skips(cursor, xid)) {
                    return Pushed::Queued;
                }
                if !waiting.add(Held { cursor, xid, frame }) {
                    *state = State::GivenUp;
                    return Pushed::Closed;
                }
                Pushed::Queued
            }
            State::Open { skip, last } => {
                if let Some(known) = skip {
                    if known.skips(cursor, xid) {
                        return Pushed::Queued;
                    }
                    if cursor.commit_lsn > known.until {
                        *skip = None;
                    }
                }
                let pushed = match &self.judged {
                    None => Some(outbox.push(frame)),
                    Some((standing, turn)) => standing.in_turn(*turn, || outbox.push(frame)),
                };
                let Some(pushed) = pushed else {
                    return Pushed::Closed;
                };
                *last = Some(cursor);
                pushed
            }
            State::GivenUp => Pushed::Closed,
        }
    }

    /// Pushes what waited, except for what `skip` names, then the frame of `mark`, if any, which is given
    /// the cursor of the last that waited; from then on everything passes. If what waited has no room
    /// in `outbox` at the moment, the gate is given up: nobody is cut for what came together.
    pub fn open(
        &self,
        skip: Option<Skip>,
        mark: impl FnOnce(Option<Cursor>) -> Option<Bytes>,
        outbox: &Outbox,
    ) -> Opened {
        let mut state = self.state.lock();
        let waiting = match &mut *state {
            State::Closed { waiting, .. } => waiting,
            State::GivenUp => return Opened::GivenUp,
            State::Open { .. } => return Opened::Never,
        };
        if !outbox.has_room(waiting.bytes) {
            *state = State::GivenUp;
            return Opened::GivenUp;
        }
        let held = std::mem::take(&mut waiting.frames);
        let last = held.back().map(|held| held.cursor);
        for Held { cursor, xid, frame } in held {
            if !skip.as_ref().is_some_and(|skip| skip.skips(cursor, xid)) {
                outbox.push(frame);
            }
        }
        *state = State::Open { skip, last: None };
        if let Some(frame) = mark(last) {
            outbox.push(frame);
        }
        Opened::Open
    }
}

impl Waiting {
    /// `false`: there is no room for it.
    fn add(&mut self, held: Held) -> bool {
        let bytes = held.frame.len();
        let fits = self.outbox.hold(bytes);
        if fits {
            self.bytes += bytes;
            self.frames.push_back(held);
        }
        fits
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.outbox.let_go(self.bytes);
    }
}

#[cfg(test)]
mod tests;
