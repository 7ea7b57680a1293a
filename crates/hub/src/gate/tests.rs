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
