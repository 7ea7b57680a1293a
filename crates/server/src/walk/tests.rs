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

/// Two members go through the whole log, and whoever leaves goes on in a second walk. The frames that each
/// has got, and where it left.
async fn walked(trouble: Trouble) -> ([usize; 2], Vec<(Cursor, Lane)>) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = log(&folder).await;
    let start = Position {
        cursor: Cursor::default(),
        epoch: log.epoch(),
    };
    let (orders, _ordered) = mpsc::channel(8);
    let parts = Parts {
        history: log.history(),
        orders,
        limits: BatchLimits {
            changes_max: 100,
            bytes_max: 1 << 20,
        },
        changes: Changes::default(),
    };
    let standings = ["a", "b"].map(|claims| Arc::new(Standing::new(viewer(claims))));
    let [first, other] = &standings;
    let walkers = vec![walker(1, first, start), walker(2, other, start)];
    let outboxes = [0, 1].map(|nth: usize| walkers[nth].attached.member.outbox.clone());
    let walk_from = |place: Position, trouble| {
        let fake = Fake {
            trouble,
            first: first.clone(),
            changes: parts.changes.clone(),
            asked: 0,
        };
        let publisher = Publisher::new(fake, Metrics::new());
        let reader = parts.history.reader_after(place).expect("it is kept");
        Walk::new(publisher, reader, parts.clone(), Lane::Back)
    };
    let members = 0;
    let seat = watch::Sender::new(Seat {
        reached: start.cursor,
        members,
    });
    let mut walk = walk_from(start, trouble);
    walk.take_in(walkers);
    while !walk.advance(&seat).await.expect("the log is there") {}
    let left: Vec<Walker> = std::mem::take(&mut walk.leaving);
    let places = left
        .iter()
        .map(|one| (one.since.cursor, one.lane))
        .collect();
    for walker in left {
        let mut walk = walk_from(walker.since, Trouble::Nothing);
        walk.take_in(vec![walker]);
        while !walk.advance(&seat).await.expect("the log is there") {}
        assert!(walk.leaving.is_empty());
    }
    let mut counts = [0; 2];
    for (outbox, count) in outboxes.iter().zip(&mut counts) {
        let mut frames = Vec::new();
        outbox.take(&mut frames, 99).await;
        *count = frames.len();
        frames.dedup();
        assert_eq!(frames.len(), *count, "twice");
    }
    log.close(Duration::from_secs(1)).await.expect("a disk");
    (counts, places)
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
    walker(1, &standing, start).attached.spec
}
