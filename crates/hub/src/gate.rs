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
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use walcast_rls::Viewer;

    use super::*;

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
        let outbox = Arc::new(Outbox::new(1000));
        let gate = Gate::closed(outbox.clone(), Some(Skip::up_to(at(5, 0))));
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
        let outbox = Arc::new(Outbox::new(1000));
        let gate = Gate::closed(outbox.clone(), None);
        gate.push(at(1, 0), Xid(1), "a".into(), &outbox);
        assert!(gate.give_up());
        let pushed = gate.push(at(2, 0), Xid(2), "b".into(), &outbox);
        assert_eq!(pushed, Pushed::Closed);
        let opened = gate.open(None, |_| Some("!".into()), &outbox);
        assert_eq!(opened, Opened::GivenUp);
        assert_eq!(taken(&outbox).await, b"");
        let gate = Gate::closed(outbox.clone(), None);
        gate.push(at(1, 0), Xid(1), "a".into(), &outbox);
        assert_eq!(gate.open(None, |_| None, &outbox), Opened::Open);
        assert!(!gate.give_up(), "what has passed can't be sent by another");
        assert_eq!(taken(&outbox).await, b"a");
    }

    #[tokio::test]
    async fn after_a_gap_nothing_is_skipped_that_is_counted_anew() {
        for (anew, expected) in [(false, "b"), (true, "ab")] {
            let outbox = Arc::new(Outbox::new(1000));
            let [open, closed] = [(); 2].map(|()| Gate::closed(outbox.clone(), None));
            open.open(Some(Skip::up_to(at(10, 0))), |_| None, &outbox);
            closed.push(at(11, 0), Xid(1), "x".into(), &outbox);
            for gate in [&open, &closed] {
                gate.break_off(anew);
                gate.push(at(3, 0), Xid(1), "a".into(), &outbox);
                gate.push(at(12, 0), Xid(2), "b".into(), &outbox);
            }
            let opened = closed.open(None, |_| Some("!".into()), &outbox);
            assert_eq!((opened, outbox.held()), (Opened::GivenUp, 0));
            assert_eq!(taken(&outbox).await, expected.as_bytes(), "{anew}");
        }
    }

    #[tokio::test]
    async fn too_much_that_waits_is_given_up_and_makes_room() {
        let outbox = Arc::new(Outbox::new(3));
        let [one, other] = [(); 2].map(|()| Gate::closed(outbox.clone(), None));
        let push = |gate: &Gate, lsn, frame| gate.push(at(lsn, 0), Xid(1), frame, &outbox);
        assert_eq!(push(&one, 1, "ab".into()), Pushed::Queued);
        assert_eq!(push(&other, 1, "cd".into()), Pushed::Closed);
        assert_eq!(
            other.open(None, |_| Some("!".into()), &outbox),
            Opened::GivenUp
        );
        assert_eq!(push(&one, 2, "c".into()), Pushed::Queued);
        assert_eq!((outbox.held(), outbox.closing()), (3, None));
        assert_eq!(one.open(None, |_| None, &outbox), Opened::Open);
        assert_eq!(taken(&outbox).await, b"abc");
        let large = Gate::closed(outbox.clone(), None);
        assert_eq!(push(&large, 3, "abcdef".into()), Pushed::Queued);
        assert_eq!(push(&large, 4, "g".into()), Pushed::Closed);
        assert_eq!(outbox.held(), 0);
    }

    #[tokio::test]
    async fn nobody_is_cut_for_what_waited() {
        for (queued, opened, expected) in [(6, Opened::GivenUp, 6), (5, Opened::Open, 10)] {
            let outbox = Arc::new(Outbox::new(10));
            let gate = Gate::closed(outbox.clone(), None);
            gate.push(at(1, 0), Xid(1), "abcde".into(), &outbox);
            outbox.push(vec![0; queued].into());
            assert_eq!(gate.open(None, |_| None, &outbox), opened);
            assert_eq!((outbox.closing(), outbox.held()), (None, 0));
            assert_eq!(taken(&outbox).await.len(), expected);
        }
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push {
            gate: usize,
            bytes: usize,
        },
        Open(usize),
        GiveUp(usize),
        /// Nobody has it any more, and another takes its place.
        Drop(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let gate = 0..GATES;
        prop_oneof![
            8 => (gate.clone(), 1..12usize).prop_map(|(gate, bytes)| Step::Push { gate, bytes }),
            1 => gate.clone().prop_map(Step::Open),
            1 => gate.clone().prop_map(Step::GiveUp),
            1 => gate.prop_map(Step::Drop),
        ]
    }

    const GATES: usize = 4;
    const HELD_MAX: usize = 20;

    /// What a gate should have.
    #[derive(Clone, Default)]
    struct Model {
        waiting: Vec<(u8, usize)>,
        state: Option<Opened>,
    }

    proptest! {
        /// Of all gates together no more waits than may wait, and of each either everything passes, in
        /// order, or nothing.
        #[test]
        fn a_connection_holds_no_more_than_its_bound(steps in vec(step(), 0..200)) {
            let outbox = Arc::new(Outbox::new(HELD_MAX));
            let new = || Gate::closed(outbox.clone(), None);
            let mut gates: Vec<_> = (0..GATES).map(|_| new()).collect();
            let mut models = vec![Model::default(); GATES];
            let reader = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            for (nth, step) in steps.into_iter().enumerate() {
                let held: usize = models.iter().flat_map(|one| &one.waiting).map(|(_, bytes)| bytes).sum();
                prop_assert_eq!(outbox.held(), held);
                let mut expected = Vec::new();
                match step {
                    Step::Push { gate, bytes } => {
                        let byte = nth as u8;
                        let pushed = gates[gate].push(at(nth as u64, 0), Xid(1), vec![byte; bytes].into(), &outbox);
                        let model = &mut models[gate];
                        match model.state {
                            Some(Opened::GivenUp) => prop_assert_eq!(pushed, Pushed::Closed),
                            Some(_) => expected.push((byte, bytes)),
                            None if held == 0 || held + bytes <= HELD_MAX => {
                                prop_assert_eq!(pushed, Pushed::Queued);
                                model.waiting.push((byte, bytes));
                            }
                            None => {
                                prop_assert_eq!(pushed, Pushed::Closed);
                                *model = Model { waiting: Vec::new(), state: Some(Opened::GivenUp) };
                            }
                        }
                    }
                    Step::Open(gate) => {
                        let model = &mut models[gate];
                        let opened = gates[gate].open(None, |_| None, &outbox);
                        let now = match model.state {
                            None => Opened::Open,
                            Some(Opened::GivenUp) => Opened::GivenUp,
                            Some(_) => Opened::Never,
                        };
                        prop_assert_eq!(opened, now);
                        model.state.get_or_insert(opened);
                        expected = std::mem::take(&mut model.waiting);
                    }
                    Step::GiveUp(gate) => {
                        if gates[gate].give_up() {
                            models[gate] = Model { waiting: Vec::new(), state: Some(Opened::GivenUp) };
                        }
                    }
                    Step::Drop(gate) => {
                        gates[gate] = new();
                        models[gate] = Model::default();
                    }
                }
                let expected: Vec<u8> = expected
                    .into_iter()
                    .flat_map(|(byte, bytes)| vec![byte; bytes])
                    .collect();
                prop_assert_eq!(reader.block_on(taken(&outbox)), expected);
            }
        }
    }
}
