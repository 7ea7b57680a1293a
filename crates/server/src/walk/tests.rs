//! Who leaves a walk leaves it at an exact place, also when a batch makes several plans.

use walcast_change::{Operation, Types};
use walcast_hub::{ConnId, Events, Outbox, Spec, Standing, Target};
use walcast_log::{Identity, Log, LogConfig};
use walcast_pgoutput::{Lsn, PgTime, Relation, RelationId, ReplicaIdentity, Xid};
use walcast_rls::{Answers, Batch, Question, Sighting, Wants};

use super::*;
use crate::metrics::Metrics;

const CHANGES: u64 = 6;

/// What happens to the first viewer at the third change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    Nothing,
    CanNotBeJudged,
    HasNewToken,
    Ends,
    BreaksTheCheck,
}

/// Every change costs so much that it makes a plan of its own.
struct Fake {
    trouble: Trouble,
    first: Arc<Standing>,
    changes: Changes,
    asked: u64,
}

impl RowCheck for Fake {
    async fn check(&mut self, batch: &Batch) -> Answers {
        Answers::hidden(batch)
    }

    fn watch(&mut self, _: u32, _: &Viewer, _: &str, _: Option<&str>) {}

    fn unwatch(&mut self, _: u32, _: &str, _: Option<&str>) {}

    async fn sweep(&mut self, questions: &[Question], _: &Wants<'_>) -> Vec<Vec<Sighting>> {
        vec![Vec::new(); questions.len()]
    }

    fn cost(&self, _: &Shape) -> usize {
        usize::MAX >> 1
    }

    async fn table(&mut self, _: &Arc<Shape>, viewers: &[Viewer]) -> Vec<Option<bool>> {
        self.asked += 1;
        let now = self.asked == 3;
        let standing = &self.first;
        match self.trouble {
            Trouble::HasNewToken if now => {
                self.changes.make(|| standing.set_viewer(&viewer("c")));
            }
            Trouble::Ends if now => self.changes.make(|| standing.end()),
            Trouble::BreaksTheCheck if now => panic!("as it is to be tested"),
            _ => {}
        }
        let unjudged = now && self.trouble == Trouble::CanNotBeJudged;
        let answer = |one: &Viewer| (!unjudged || *one.claims != *"a").then_some(true);
        viewers.iter().map(answer).collect()
    }

    fn invalidate(&mut self) {}
}

fn viewer(claims: &str) -> Viewer {
    Viewer {
        role: "authenticated".into(),
        claims: claims.into(),
    }
}

fn cursor(nth: u64) -> Cursor {
    Cursor {
        commit_lsn: Lsn(nth * 10),
        ordinal: 0,
    }
}

async fn log(folder: &tempfile::TempDir) -> Log {
    let relation = Relation {
        id: RelationId(1),
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Full,
        columns: Vec::new(),
    };
    let shape = Arc::new(Shape::new(&relation, None, &Types::default()));
    let identity = Identity {
        system: "1".into(),
        timeline: 1,
        slot: "s".into(),
        publication: "p".into(),
    };
    let config = LogConfig::new(folder.path());
    let (mut log, _) = Log::open(config, identity).expect("an empty folder");
    for nth in 1..=CHANGES {
        log.append(&Change {
            cursor: cursor(nth),
            commit_time: PgTime(0),
            xid: Xid(nth as u32),
            shape: shape.clone(),
            operation: Operation::Truncate,
        });
        log.commit(Lsn(nth * 10 + 5));
    }
    log.sync().await.expect("a disk");
    log
}

fn walker(id: u64, standing: &Arc<Standing>, since: Position) -> Walker {
    let target = Target {
        schema: "public".into(),
        table: Some("t".into()),
    };
    let spec = Spec {
        target,
        events: Events::ALL,
        filter: None,
        channel: "table:t".into(),
        format: 0,
        tag: 0,
        columns: None,
    };
    let attached = Attached {
        id: SubscriptionId(id),
        connection: ConnId(id),
        spec: Arc::new(spec),
        member: Member {
            outbox: Arc::new(Outbox::new(1 << 20)),
            gate: None,
            standing: standing.clone(),
        },
    };
    Walker::new(attached, since, Lane::Back)
}

/// Two walkers at the beginning of a log.
struct Stage {
    _folder: tempfile::TempDir,
    log: Log,
    start: Position,
    parts: Parts,
    orders: mpsc::Receiver<crate::order::Order>,
    standings: [Arc<Standing>; 2],
}

impl Stage {
    async fn set() -> Stage {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let log = log(&folder).await;
        let start = Position {
            cursor: Cursor::default(),
            epoch: log.epoch(),
        };
        let (sender, orders) = mpsc::channel(8);
        let parts = Parts {
            history: log.history(),
            orders: sender,
            limits: BatchLimits {
                changes_max: 100,
                bytes_max: 1 << 20,
            },
            changes: Changes::default(),
        };
        Stage {
            _folder: folder,
            log,
            start,
            parts,
            orders,
            standings: ["a", "b"].map(|claims| Arc::new(Standing::new(viewer(claims)))),
        }
    }

    fn walkers(&self) -> [Walker; 2] {
        let [first, other] = &self.standings;
        [walker(1, first, self.start), walker(2, other, self.start)]
    }

    fn walk_from(&self, place: Position, trouble: Trouble) -> Walk<Fake> {
        let fake = Fake {
            trouble,
            first: self.standings[0].clone(),
            changes: self.parts.changes.clone(),
            asked: 0,
        };
        let publisher = Publisher::new(fake, Metrics::new());
        let reader = self.parts.history.reader_after(place).expect("it is kept");
        Walk::new(publisher, reader, self.parts.clone(), Lane::Back)
    }

    fn seat(&self) -> watch::Sender<Seat> {
        watch::Sender::new(Seat {
            reached: self.start.cursor,
            members: 0,
        })
    }

    async fn close(self) {
        let closed = self.log.close(Duration::from_secs(60));
        closed.await.expect("a disk");
    }
}

fn outbox(walker: &Walker) -> Arc<Outbox> {
    walker.attached.member.outbox.clone()
}

async fn sent(outbox: &Outbox) -> Vec<bytes::Bytes> {
    let mut frames = Vec::new();
    if outbox.bytes() > 0 {
        outbox.take(&mut frames, 99).await;
    }
    frames
}

/// Two members go through the whole log, and whoever leaves goes on in a second walk. The frames that each
/// has got, and where it left.
async fn walked(trouble: Trouble) -> ([usize; 2], Vec<(Cursor, Lane)>) {
    let stage = Stage::set().await;
    let walkers = stage.walkers();
    let outboxes = walkers.each_ref().map(outbox);
    let seat = stage.seat();
    let mut walk = stage.walk_from(stage.start, trouble);
    walk.take_in(walkers.into());
    while !walk.advance(&seat).await.expect("the log is there") {}
    let left: Vec<Walker> = std::mem::take(&mut walk.leaving);
    let places = left
        .iter()
        .map(|one| (one.since.cursor, one.lane))
        .collect();
    for walker in left {
        let mut walk = stage.walk_from(walker.since, Trouble::Nothing);
        walk.take_in(vec![walker]);
        while !walk.advance(&seat).await.expect("the log is there") {}
        assert!(walk.leaving.is_empty());
    }
    let mut counts = [0; 2];
    for (outbox, count) in outboxes.iter().zip(&mut counts) {
        let mut frames = sent(outbox).await;
        *count = frames.len();
        frames.dedup();
        assert_eq!(frames.len(), *count, "twice");
    }
    stage.close().await;
    (counts, places)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_lost_with_a_walk_is_told() {
    let stage = Stage::set().await;
    let walkers = stage.walkers();
    let outboxes = walkers.each_ref().map(outbox);
    let [first, other] = walkers;
    let walk = stage.walk_from(stage.start, Trouble::BreaksTheCheck);
    let (enter, inbox) = mpsc::channel(8);
    let (leave, _left) = mpsc::channel(8);
    let mut doors = Doors {
        inbox,
        leave,
        seat: stage.seat(),
    };
    enter.send(vec![first]).await.expect("it is open");
    let walking = tokio::spawn(async move { walk.run(&mut doors).await });
    assert!(walking.await.is_err());
    // One that is about to enter.
    assert!(enter.send(vec![other]).await.is_err());
    assert_eq!(sent(&outboxes[0]).await.len(), 2 + 1);
    assert!(stage.standings[0].has_ended() && !stage.standings[1].has_ended());
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_has_a_gap_because_the_server_stops() {
    let mut stage = Stage::set().await;
    let walkers = stage.walkers();
    let outboxes = walkers.each_ref().map(outbox);
    let mut walk = stage.walk_from(stage.start, Trouble::Nothing);
    walk.take_in(walkers.into());
    stage.orders.close();
    let seat = stage.seat();
    while !walk.going.is_empty() {
        walk.step(&seat).await;
    }
    for outbox in outboxes {
        assert_eq!(sent(&outbox).await.len(), CHANGES as usize);
    }
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_what_comes_later_is_not_told_that_it_is_too_late() {
    let stage = Stage::set().await;
    let [first, mut ahead] = stage.walkers();
    ahead.since.cursor = cursor(4);
    let outboxes = [outbox(&first), outbox(&ahead)];
    let mut walk = stage.walk_from(stage.start, Trouble::Nothing);
    walk.take_in(vec![first, ahead]);
    walk.dismiss(&crate::walker::too_old()).await;
    let left = walk.leaving.iter();
    let left: Vec<_> = left.map(|one| one.since.cursor).collect();
    assert_eq!(left, [cursor(4)]);
    assert_eq!(sent(&outboxes[0]).await.len(), 1);
    assert_eq!(sent(&outboxes[1]).await.len(), 0);
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_gets_everything_once() {
    let all = CHANGES as usize;
    for (trouble, counts, left) in [
        (Trouble::Nothing, [all, all], vec![]),
        (
            Trouble::CanNotBeJudged,
            [all, all],
            vec![(cursor(2), Lane::tried(&walker_spec(), "authenticated"))],
        ),
        (
            Trouble::HasNewToken,
            [all, all],
            vec![(cursor(2), Lane::Back)],
        ),
        (Trouble::Ends, [2, all], vec![]),
    ] {
        let found = walked(trouble).await;
        assert_eq!(found, (counts, left), "{trouble:?}");
    }
}

fn walker_spec() -> Arc<Spec> {
    let standing = Arc::new(Standing::new(viewer("a")));
    let start = Position {
        cursor: Cursor::default(),
        epoch: Epoch(1),
    };
    walker(1, &standing, start).attached.spec.clone()
}
