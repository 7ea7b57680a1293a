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
    bytes_max: usize,
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
        held: VecDeque<Held>,
        bytes: usize,
        skip: Option<Skip>,
    },
    Open {
        skip: Option<Skip>,
        /// The last that passed.
        last: Option<Cursor>,
    },
    /// More waited than may wait.
    Overflowed,
    /// See [`Gate::give_up`].
    GivenUp,
}

/// What became of a gate that was to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    Open,
    /// More waited than may wait: the connection ends. Or it was open already.
    Never,
    /// Nothing has passed, and nothing will.
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
    /// A closed gate, behind which at most `bytes_max` may wait. What `skip` names does not.
    pub fn closed(bytes_max: usize, skip: Option<Skip>) -> Arc<Gate> {
        Arc::new(Gate {
            bytes_max,
            judged: None,
            state: Mutex::new(State::Closed {
                held: VecDeque::new(),
                bytes: 0,
                skip,
            }),
        })
    }

    /// An open gate that lets everything pass but what `skip` names, for as long as the
    /// subscription goes on and is judged as the one whose number `turn` is
    /// ([`Standing::judged`]): from then on nothing.
    pub fn open_but(skip: Skip, standing: Arc<Standing>, turn: u64) -> Arc<Gate> {
        Arc::new(Gate {
            bytes_max: 0,
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
            State::Closed { .. } | State::Overflowed | State::GivenUp => None,
        }
    }

    /// The last change that has passed the open gate.
    pub fn last(&self) -> Option<Cursor> {
        match &*self.state.lock() {
            State::Open { last, .. } => *last,
            State::Closed { .. } | State::Overflowed | State::GivenUp => None,
        }
    }

    /// Drops what waits, and whatever comes: whoever was to open it sends that, too. `false` if it
    /// is open already.
    pub fn give_up(&self) -> bool {
        let mut state = self.state.lock();
        match &*state {
            State::Open { .. } => false,
            State::Closed { .. } | State::Overflowed | State::GivenUp => {
                *state = State::GivenUp;
                true
            }
        }
    }

    /// A frame on its way to `outbox`: held, passed or skipped. Too much that waits ends the
    /// connection like an outbox that is full: nothing is left out silently.
    pub fn push(&self, cursor: Cursor, xid: Xid, frame: Bytes, outbox: &Outbox) -> Pushed {
        let mut state = self.state.lock();
        match &mut *state {
            State::Closed { held, bytes, skip } => {
                if skip.as_ref().is_some_and(|skip| skip.skips(cursor, xid)) {
                    return Pushed::Queued;
                }
                *bytes += frame.len();
                if *bytes > self.bytes_max && !held.is_empty() {
                    *state = State::Overflowed;
                    outbox.close_slow();
                    return Pushed::Closed;
                }
                held.push_back(Held { cursor, xid, frame });
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
            State::Overflowed | State::GivenUp => Pushed::Closed,
        }
    }

    /// Pushes what waited, except for what `skip` names, then the frame of `mark`, if any, which is given
    /// the cursor of the last that waited; from then on everything passes.
    pub fn open(
        &self,
        skip: Option<Skip>,
        mark: impl FnOnce(Option<Cursor>) -> Option<Bytes>,
        outbox: &Outbox,
    ) -> Opened {
        let mut state = self.state.lock();
        let held = match &mut *state {
            State::Closed { held, .. } => held,
            State::GivenUp => return Opened::GivenUp,
            State::Open { .. } | State::Overflowed => return Opened::Never,
        };
        let held = std::mem::take(held);
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

#[cfg(test)]
mod tests {
    use walcast_rls::Viewer;

    use super::*;
    use crate::{Closing, Pending};

    fn at(lsn: u64, ordinal: u64) -> Cursor {
        Cursor {
            commit_lsn: Lsn(lsn),
            ordinal,
        }
    }

    async fn taken(outbox: &Outbox) -> Vec<u8> {
        let mut frames = Vec::new();
        match outbox.bytes() {
            0 => return Vec::new(),
            _ => outbox.take(&mut frames, 99).await,
        };
        frames.concat()
    }

    #[tokio::test]
    async fn what_waits_follows_in_order_and_what_is_known_is_skipped() {
        let outbox = Outbox::new(1000);
        let gate = Gate::closed(100, Some(Skip::up_to(at(5, 0))));
        gate.push(at(5, 0), Xid(5), vec![0; 1000].into(), &outbox);
        for (lsn, frame) in [(10, "a"), (20, "b"), (30, "c")] {
            let pushed = gate.push(at(lsn, 0), Xid(lsn as u32), frame.into(), &outbox);
            assert_eq!(pushed, Pushed::Queued);
        }
        assert_eq!(outbox.bytes(), 0, "nothing passes a closed gate");
        let skip = Skip::seen(Lsn(41), |xid| xid.0 == 20 || xid.0 == 40);
        let mark = |last: Option<Cursor>| {
            assert_eq!(last, Some(at(30, 0)));
            Some("!".into())
        };
        gate.open(Some(skip), mark, &outbox);
        for (lsn, frame) in [(35, "d"), (40, "e"), (41, "f"), (42, "g")] {
            gate.push(at(lsn, 0), Xid(lsn as u32), frame.into(), &outbox);
        }
        assert_eq!(taken(&outbox).await, b"ac!dfg");
        assert_eq!(
            gate.open(None, |_| Some("!".into()), &outbox),
            Opened::Never
        );
    }

    fn viewer(claims: &str) -> Viewer {
        Viewer {
            role: "anon".into(),
            claims: claims.into(),
        }
    }

    #[tokio::test]
    async fn nothing_passes_that_was_judged_as_somebody_else() {
        let outbox = Outbox::new(1000);
        let standing = Arc::new(Standing::new(viewer("a")));
        let gate = Gate::open_but(Skip::up_to(at(1, 0)), standing.clone(), 0);
        assert_eq!(gate.last(), None);
        gate.push(at(1, 0), Xid(1), "a".into(), &outbox);
        gate.push(at(2, 0), Xid(1), "b".into(), &outbox);
        standing.set_viewer(&viewer("b"));
        let pushed = gate.push(at(3, 0), Xid(1), "c".into(), &outbox);
        assert_eq!((pushed, gate.last()), (Pushed::Closed, Some(at(2, 0))));
        assert_eq!(taken(&outbox).await, b"b");
    }

    #[tokio::test]
    async fn an_open_gate_skips_up_to_its_cursor() {
        let outbox = Outbox::new(1000);
        let standing = Arc::new(Standing::new(viewer("a")));
        let gate = Gate::open_but(Skip::up_to(at(10, 1)), standing, 0);
        for (lsn, ordinal, frame) in [(9, 7, "a"), (10, 1, "b"), (10, 2, "c"), (11, 0, "d")] {
            gate.push(at(lsn, ordinal), Xid(1), frame.into(), &outbox);
        }
        assert_eq!(taken(&outbox).await, b"cd");
    }

    #[tokio::test]
    async fn of_a_gate_that_was_given_up_nothing_passes() {
        let outbox = Outbox::new(1000);
        let gate = Gate::closed(100, None);
        gate.push(at(1, 0), Xid(1), "a".into(), &outbox);
        assert!(gate.give_up());
        let pushed = gate.push(at(2, 0), Xid(2), "b".into(), &outbox);
        assert_eq!(pushed, Pushed::Closed);
        let opened = gate.open(None, |_| Some("!".into()), &outbox);
        assert_eq!(opened, Opened::GivenUp);
        assert_eq!(taken(&outbox).await, b"");
        let gate = Gate::closed(100, None);
        gate.push(at(1, 0), Xid(1), "a".into(), &outbox);
        assert_eq!(gate.open(None, |_| None, &outbox), Opened::Open);
        assert!(!gate.give_up(), "what has passed can't be sent by another");
        assert_eq!(taken(&outbox).await, b"a");
    }

    #[tokio::test]
    async fn too_much_that_waits_ends_the_connection() {
        let outbox = Outbox::new(1000);
        let gate = Gate::closed(3, None);
        assert_eq!(
            gate.push(at(1, 0), Xid(1), "ab".into(), &outbox),
            Pushed::Queued
        );
        assert_eq!(
            gate.push(at(1, 1), Xid(1), "cd".into(), &outbox),
            Pushed::Closed
        );
        assert_eq!(
            gate.open(None, |_| Some("!".into()), &outbox),
            Opened::Never
        );
        let end = outbox.take(&mut Vec::new(), 9).await;
        assert_eq!(end, Pending::Closed(Closing::Slow));
    }
}
