//! Who waits outside of the walks.

use walcast_change::{Change, Epoch, Operation, Shape, Types};
use walcast_hub::{Events, Member, Outbox, Spec, Standing, SubscriptionId, Target};
use walcast_log::{Identity, Log, LogConfig};
use walcast_pgoutput::{Lsn, PgTime, Relation, RelationId, ReplicaIdentity, Xid};
use walcast_rls::{ConnectError, Connector, Viewer};

use super::*;

/// A log whose first changes are not kept any more.
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
    let config = LogConfig {
        bytes_max: 4096,
        segment_bytes: 1024,
        ..LogConfig::new(folder.path())
    };
    let (mut log, _) = Log::open(config, identity).expect("an empty folder");
    for nth in 1..=2000 {
        log.append(&Change {
            cursor: at(nth),
            commit_time: PgTime(0),
            xid: Xid(nth as u32),
            shape: shape.clone(),
            operation: Operation::Truncate,
        });
        log.commit(Lsn(nth * 10 + 5));
        if nth % 20 == 0 {
            log.sync().await.expect("a disk");
        }
    }
    log
}

fn at(nth: u64) -> Cursor {
    Cursor {
        commit_lsn: Lsn(nth * 10),
        ordinal: 0,
    }
}

fn state(history: History) -> State {
    let metrics = Metrics::new();
    let unreachable = || async { Err(ConnectError::Timeout) };
    let check = CheckConfig::new(Connector::new(unreachable));
    State {
        written: history.written(),
        parts: Parts {
            history,
            orders: mpsc::channel(1).0,
            limits: BatchLimits {
                changes_max: 1,
                bytes_max: 1,
            },
            changes: Changes::default(),
        },
        checks: Checks::new(check, metrics.clone()),
        metrics,
        words: mpsc::channel(1).0,
        walks: Vec::new(),
        waiting: Vec::new(),
        look_at: Instant::now(),
        number_next: 0,
    }
}

fn walker(since: Position) -> Walker {
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
    let viewer = Viewer {
        role: "anon".into(),
        claims: "{}".into(),
    };
    let attached = Attached {
        id: SubscriptionId(1),
        connection: ConnId(1),
        spec: Arc::new(spec),
        member: Member {
            gate: None,
            outbox: Arc::new(Outbox::new(1000)),
            standing: Arc::new(Standing::new(viewer)),
        },
    };
    Walker::new(attached, since, Lane::Back)
}

#[tokio::test]
async fn who_waits_is_told_at_once_that_it_is_too_late() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = log(&folder).await;
    let history = log.history();
    assert!(history.oldest().cursor > at(1), "retention");
    let epoch = history.epoch();
    let other = Epoch(epoch.0 ^ 1);
    for (nth, epoch, told) in [
        (1, epoch, Some("CURSOR_TOO_OLD")),
        (2000, other, Some("EPOCH_CHANGED")),
        (2000, epoch, None),
    ] {
        let mut state = state(history.clone());
        let cursor = at(nth);
        let mut walker = walker(Position { cursor, epoch });
        walker.not_before = Instant::now() + Duration::from_secs(60);
        let Attached { member, .. } = walker.attached.clone();
        state.place(vec![walker]);
        assert_eq!(state.waiting.len(), usize::from(told.is_none()), "{told:?}");
        assert_eq!(member.standing.has_ended(), told.is_some(), "{told:?}");
        let Some(told) = told else { continue };
        let mut frames = Vec::new();
        member.outbox.take(&mut frames, 9).await;
        let text = String::from_utf8_lossy(&frames.concat()).into_owned();
        assert!(text.contains(told), "{text}");
    }
    log.close(Duration::from_secs(60)).await.expect("a disk");
}
