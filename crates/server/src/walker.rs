//! Who is being caught up, from its place in the log to the live stream, in whichever walk.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tracing::warn;
use walcast_change::{Cursor, Position};
use walcast_hub::{Opened, Skip};
use walcast_log::ReadError;
use walcast_protocol::{Code, Refusal};

use crate::lane::Lane;
use crate::order::Attached;
use crate::publisher::ended_frame;

/// Before each further question to row-level security about a viewer that it could not judge. Longer,
/// in all, than it leaves unasked who took too long (half a minute), so that the last is a question.
const PAUSES: [Duration; 7] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(3),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(12),
];

/// What is said of a place.
pub(crate) type Said = Box<dyn FnOnce(Position) -> Bytes + Send>;

pub(crate) struct Walker {
    pub(crate) attached: Attached,
    /// Everything up to here it has been handed.
    pub(crate) since: Position,
    /// What came after `since` and it has all the same.
    pub(crate) had: Option<Skip>,
    /// Before this it does not become live.
    pub(crate) until: Instant,
    pub(crate) caught_up: Option<Said>,
    pub(crate) lane: Lane,
    /// Before this it enters no walk.
    pub(crate) not_before: Instant,
    pub(crate) trials: Trials,
}

/// How often somebody could not be judged, and where.
#[derive(Debug, Default)]
pub(crate) struct Trials {
    count: usize,
    /// Up to here the first of them asked.
    place: Cursor,
}

impl Walker {
    /// One that goes to a walk at once.
    pub(crate) fn new(attached: Attached, since: Position, lane: Lane) -> Walker {
        let now = Instant::now();
        Walker {
            attached,
            since,
            had: None,
            until: now,
            caught_up: None,
            lane,
            not_before: now,
            trials: Trials::default(),
        }
    }

    /// What it has of what it is sent.
    pub(crate) fn has(&self, reached: Cursor) -> Skip {
        let reached = reached.max(self.since.cursor);
        // Not for ever what it had in every earlier life.
        let had = self.had.clone().filter(|had| !had.ends_before(reached));
        Skip::up_to(reached).or(had)
    }

    /// As it is judged now.
    pub(crate) fn role(&self) -> Arc<str> {
        self.attached.member.standing.viewer().role
    }

    /// It has been handed everything up to `cursor`, perhaps more.
    pub(crate) fn reach(&mut self, cursor: Cursor) {
        self.since.cursor = self.since.cursor.max(cursor);
    }
}

/// Whoever has a subscription in hand holds one: if the task panics, the subscription ends and is told so.
/// It would wait for ever for what is missing.
pub(crate) struct InHand(pub(crate) Attached);

impl Drop for InHand {
    fn drop(&mut self) {
        tell_if_lost(&self.0);
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        tell_if_lost(&self.attached);
    }
}

fn tell_if_lost(attached: &Attached) {
    if std::thread::panicking() && !attached.has_ended() {
        dismiss(attached, &unavailable());
    }
}

impl Trials {
    /// What follows `before`, up to `last`, could not be judged: the time until it may be tried again.
    /// `None`: that has been done often enough.
    pub(crate) fn again(&mut self, before: Cursor, last: Cursor) -> Option<Duration> {
        if self.count == 0 || before >= self.place {
            *self = Trials {
                count: 0,
                place: last,
            };
        }
        let pause = PAUSES.get(self.count).copied();
        self.count = pause.map_or(0, |_| self.count + 1);
        pause
    }
}

/// What waited behind the gate follows, then the word that nothing is missing; from then on it is live.
/// The walk may have come further than the place where the subscription became live: up to `reached` it
/// has everything. If the pipeline gave it up meanwhile, it goes on as before. `None`: what waited was
/// judged as somebody else, or it has ended; nothing has passed.
pub(crate) fn release(
    walker: &mut Walker,
    turn: u64,
    place: Position,
    reached: Cursor,
) -> Option<Opened> {
    let has = walker.has(reached);
    let had = reached.max(walker.since.cursor);
    let Walker {
        attached,
        caught_up,
        ..
    } = walker;
    let member = &attached.member;
    let Some(gate) = &member.gate else {
        return Some(Opened::Never);
    };
    let standing = &member.standing;
    let mark = |last: Option<Cursor>| {
        // While nobody can set it aside again.
        standing.set_live();
        let cursor = place.cursor.max(had).max(last.unwrap_or_default());
        let caught_up = caught_up.take();
        caught_up.map(|caught_up| caught_up(Position { cursor, ..place }))
    };
    standing.in_turn(turn, || gate.open(Some(has), mark, &member.outbox))
}

/// It ends, wherever it is, and is told why.
pub(crate) fn dismiss(attached: &Attached, refusal: &Refusal) {
    let Attached { spec, member, .. } = attached;
    member.standing.end();
    // Known to the pipeline already: nothing may wait there.
    if let Some(gate) = &member.gate {
        gate.give_up();
    }
    let refusal = refusal.clone().on(&*spec.channel);
    member.outbox.push(ended_frame(spec, &refusal));
}

/// Why nobody can go on from a place in the log.
pub(crate) fn lost(error: &ReadError) -> Refusal {
    match error {
        ReadError::EpochChanged { .. } => epoch_changed(),
        error => {
            warn!(%error, "the log can't be read where clients want to go on");
            too_old()
        }
    }
}

pub(crate) fn too_old() -> Refusal {
    let text = "what came after this cursor is not kept any more; read the tables again";
    Refusal::new(Code::CursorTooOld, text)
}

pub(crate) fn epoch_changed() -> Refusal {
    let text =
        "changes were lost since, or this cursor is of another server; read the tables again";
    Refusal::new(Code::EpochChanged, text)
}

pub(crate) fn unavailable() -> Refusal {
    let text = "missed changes can't be read right now; try again in a moment";
    Refusal::new(Code::SubscriptionFailed, text)
}

#[cfg(test)]
mod tests {
    use walcast_change::Epoch;
    use walcast_hub::{
        ConnId, Events, Gate, Member, Outbox, Spec, Standing, SubscriptionId, Target,
    };
    use walcast_pgoutput::{Lsn, Xid};
    use walcast_rls::Viewer;

    use super::*;

    fn at(lsn: u64) -> Cursor {
        Cursor {
            commit_lsn: Lsn(lsn),
            ordinal: 0,
        }
    }

    #[test]
    fn patience_is_for_one_place() {
        let mut trials = Trials::default();
        // The plan that holds the trouble may be another one each time.
        for (nth, pause) in PAUSES.iter().enumerate() {
            let last = at(20 + nth as u64);
            assert_eq!(trials.again(at(10), last), Some(*pause), "{nth}");
        }
        assert_eq!(trials.again(at(10), at(20)), None);
        assert_eq!(trials.again(at(20), at(30)), Some(PAUSES[0]));
        assert_eq!(trials.again(at(20), at(30)), Some(PAUSES[1]));
        assert_eq!(trials.again(at(30), at(40)), Some(PAUSES[0]));
    }

    #[test]
    fn the_last_question_is_asked_by_all_means() {
        let unasked = Duration::from_secs(30);
        assert!(PAUSES.iter().sum::<Duration>() > unasked);
    }

    fn viewer(claims: &str) -> Viewer {
        Viewer {
            role: "authenticated".into(),
            claims: claims.into(),
        }
    }

    fn arriving() -> Walker {
        let outbox = Arc::new(Outbox::new(1000));
        let target = Target {
            schema: "public".into(),
            table: None,
        };
        let spec = Spec {
            target,
            events: Events::ALL,
            filter: None,
            channel: "table:*".into(),
            format: 0,
            tag: 0,
            columns: None,
        };
        let attached = Attached {
            id: SubscriptionId(1),
            connection: ConnId(1),
            spec: Arc::new(spec),
            member: Member {
                gate: Some(Gate::closed(outbox.clone(), None)),
                outbox,
                standing: Arc::new(Standing::new(viewer("a"))),
            },
        };
        let since = Position {
            cursor: at(1),
            epoch: Epoch(1),
        };
        Walker::new(attached, since, Lane::Back)
    }

    #[tokio::test]
    async fn who_is_in_hand_when_a_task_panics_is_told() {
        for panics in [false, true] {
            let attached = arriving().attached.clone();
            let Member {
                outbox, standing, ..
            } = attached.member.clone();
            let task = tokio::spawn(async move {
                let _in_hand = InHand(attached);
                assert!(!panics, "as it is to be tested");
            });
            assert_eq!(task.await.is_err(), panics);
            assert_eq!((standing.has_ended(), outbox.bytes() > 0), (panics, panics));
        }
    }

    #[test]
    fn what_it_had_is_forgotten_once_it_is_past() {
        for (reached, remembered) in [(5, true), (10, true), (11, false)] {
            let known = Arc::new(());
            let held = known.clone();
            let mut walker = arriving();
            let seen = move |_| Arc::strong_count(&held) > 0;
            walker.had = Some(Skip::seen(Lsn(10), seen));
            let _has = walker.has(at(reached));
            walker.had = None;
            let is_held = Arc::strong_count(&known) == 2;
            assert_eq!(is_held, remembered, "{reached}");
        }
    }

    #[test]
    fn what_waited_is_not_sent_to_whom_it_was_not_judged_for() {
        type Change = fn(&Standing);
        let cases: [(Change, Option<Opened>, usize); 3] = [
            (|_| {}, Some(Opened::Open), 1),
            (|standing| standing.set_viewer(&viewer("b")), None, 0),
            (|standing| standing.end(), None, 0),
        ];
        for (change, opened, sent) in cases {
            let mut walker = arriving();
            let Member {
                gate,
                outbox,
                standing,
            } = walker.attached.member.clone();
            let (_, turn) = standing.judged();
            let gate = gate.expect("it is arriving");
            gate.push(at(5), Xid(5), "x".into(), &outbox);
            change(&standing);
            let place = walker.since;
            assert_eq!(release(&mut walker, turn, place, at(2)), opened);
            assert_eq!(outbox.bytes(), sent);
        }
    }
}
