//! What is left of a session that ends without a word, and whose rows a snapshot sends.

use std::ffi::OsString;

use tokio::sync::{mpsc, watch};
use walcast_auth::Verifier;
use walcast_change::{Change, Operation, Shape, Types};
use walcast_harness::{Postgres, eventually};
use walcast_hub::{Audience, ConnectionLimits, Connections, Events, Pending, Target};
use walcast_log::{History, Identity, Log, LogConfig};
use walcast_pgoutput::{Lsn, PgTime, Relation, RelationId, ReplicaIdentity, Xid};
use walcast_rls::{Access, ChannelAccess, ReadLimits, ReaderBounds, TableReader};
use walcast_source::StreamState;

use super::*;
use crate::describe::Describe;
use crate::metrics::Metrics;
use crate::order::Place;
use crate::publisher::BatchLimits;
use crate::recent::Recent;
use crate::replay::Replay;
use crate::replayer::Replayer;
use crate::serve::{check_config, session_settings};
use crate::settings::{Config, Settings};
use crate::snapshot::Snapshots;

const DEADLINE: Duration = Duration::from_secs(90);
const CONNECTION: ConnId = ConnId(7);
const ROWS: usize = 5000;

/// Everything of a server but its stream: orders are carried out as the pipeline does, by hand.
struct Stage {
    _postgres: Postgres,
    sql: tokio_postgres::Client,
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    audience: Audience,
    history: History,
    _log: Log,
    _published: watch::Sender<Position>,
    _folder: tempfile::TempDir,
}

async fn stage() -> Stage {
    let postgres = Postgres::start().await.expect("a postgres");
    let sql = postgres.connect("postgres", "postgres").await;
    let mut sql = sql.expect("a connection");
    let roles = "create role anon nologin; create role authenticated nologin; create role service_role nologin";
    sql.batch_execute(roles).await.expect("roles");
    crate::migrate::migrate(&mut sql).await.expect("migrated");
    let table = format!(
        "create table t (id int primary key, body text);
         insert into t select n, repeat('x', 500) from generate_series(1, {ROWS}) n;
         grant select on t to anon; select enable_realtime('t')"
    );
    sql.batch_execute(&table).await.expect("a table");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = config(&postgres.url("postgres", "postgres"), folder.path());
    let log = log(folder.path()).await;
    let history = log.history();
    let check = check_config(&config).expect("settings");
    let metrics = Metrics::new();
    let (orders, ordered) = mpsc::channel(16);
    let replay = Replay::begin(Replayer {
        history: history.clone(),
        check: check.clone(),
        metrics: metrics.clone(),
        orders: orders.clone(),
        limits: BatchLimits {
            changes_max: 1000,
            bytes_max: 1 << 20,
        },
    });
    let published = watch::Sender::new(*history.written().borrow());
    let url = config.database().expect("given").expose().to_owned();
    let snapshots = Snapshots {
        reader: TableReader::new(check.clone(), ReaderBounds::default()),
        describe: tokio::sync::Mutex::new(Describe::new(url, watch::channel(None).1)),
        limits: ReadLimits {
            rows_max: u64::MAX,
            bytes_max: u64::MAX,
            time_max: DEADLINE,
        },
        published: published.subscribe(),
        recent: Arc::new(Recent::new(true)),
        replay: replay.clone(),
    };
    let connecting = StreamState::Connecting {
        attempt: 0,
        last_error: None,
    };
    let access = Access::connect(check.clone(), "realtime").await;
    let channel_access = ChannelAccess::connect(check).await;
    let verifier = Verifier::new(config.auth().expect("settings"));
    let shared = Shared::new(
        Arc::new(verifier.expect("a secret")),
        access.expect("a session"),
        channel_access.expect("a session"),
        watch::channel(connecting).1,
        orders,
        replay,
        Arc::new(snapshots),
        Connections::new(ConnectionLimits {
            total_max: 0,
            per_user_max: 0,
            per_address_max: 0,
        }),
        metrics,
        session_settings(&config).expect("settings"),
    );
    Stage {
        _postgres: postgres,
        sql,
        shared: Arc::new(shared),
        orders: ordered,
        audience: Audience::new(),
        history,
        _log: log,
        _published: published,
        _folder: folder,
    }
}

fn config(database_url: &str, folder: &std::path::Path) -> Config {
    let given = [
        ("WALCAST_DATABASE_URL", database_url),
        (
            "WALCAST_JWT_SECRET",
            "a secret of the tests, at least 32 bytes long",
        ),
        // A loaded machine is no reason to deny.
        ("WALCAST_RLS_STATEMENT_TIMEOUT", "20s"),
    ];
    let given = given.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let args = ["walcast", "serve"].map(OsString::from);
    let (command, settings) = Settings::load_from(args, given, folder).expect("settings");
    settings.config(&command).expect("settings")
}

/// With one change of the table, which a walk has to go through.
async fn log(folder: &std::path::Path) -> Log {
    let relation = Relation {
        id: RelationId(1),
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Full,
        columns: Vec::new(),
    };
    let identity = Identity {
        system: "1".into(),
        timeline: 1,
        slot: "s".into(),
        publication: "p".into(),
    };
    let config = LogConfig::new(folder.join("log"));
    let (mut log, _) = Log::open(config, identity).expect("an empty folder");
    log.append(&Change {
        cursor: walcast_change::Cursor {
            commit_lsn: Lsn(10),
            ordinal: 0,
        },
        commit_time: PgTime(0),
        xid: Xid(1),
        shape: Arc::new(Shape::new(&relation, None, &Types::default())),
        operation: Operation::Truncate,
    });
    log.commit(Lsn(15));
    log.sync().await.expect("a disk");
    log
}

fn anon(claims: &str) -> Viewer {
    Viewer {
        role: "anon".into(),
        claims: claims.into(),
    }
}

fn spec() -> Arc<Spec> {
    Arc::new(Spec {
        target: Target {
            schema: "public".into(),
            table: Some("t".into()),
        },
        events: Events::ALL,
        filter: None,
        channel: "table:t".into(),
        format: 0,
        tag: 0,
        columns: None,
    })
}

fn words() -> Words {
    Words {
        acknowledge: Box::new(|_| Bytes::from_static(b"acknowledged")),
        caught_up: Box::new(|_| Bytes::from_static(b"caught up")),
    }
}

impl Stage {
    async fn order(&mut self) -> Order {
        let order = timeout(DEADLINE, self.orders.recv()).await;
        order.expect("an order in time").expect("a session")
    }

    /// Also if who asked is gone. Whether the order says that the connection has ended.
    fn carry_out(&mut self, order: Order) -> bool {
        match order {
            Order::Subscribe(begin) => {
                for attached in std::iter::once(begin.attached).chain(begin.more) {
                    self.attach(attached);
                }
                (begin.acknowledge)(*self.history.written().borrow());
                let _ = begin.done.send(());
            }
            Order::Attach(attached, _, done) => {
                attached.into_iter().for_each(|one| self.attach(one));
                let position = *self.history.written().borrow();
                let logged = position.cursor;
                let _ = done.send(Some(Place { position, logged }));
            }
            Order::Unsubscribe(id, done) => {
                let _ = self.audience.unsubscribe(id);
                let _ = done.send(());
            }
            Order::SetViewer(_, _, done) => drop(done.send(())),
            Order::Disconnect(connection) => {
                assert_eq!(connection, CONNECTION);
                self.audience.disconnect(connection);
                return true;
            }
        }
        false
    }

    fn attach(&mut self, attached: Attached) {
        if attached.has_ended() {
            return;
        }
        let viewer = attached.member.standing.viewer();
        let Attached {
            id, spec, member, ..
        } = attached;
        let new = self
            .audience
            .subscribe(id, CONNECTION, &viewer, spec, member);
        new.expect("it is new");
    }

    /// Whether a transaction is open in Postgres that reads rows for somebody, or has read them.
    async fn is_reading(&self) -> bool {
        let ask = "select count(*) from pg_stat_activity
                   where xact_start is not null and query like 'COPY%' and pid <> pg_backend_pid()";
        let row = self.sql.query_one(ask, &[]).await;
        row.expect("an answer").get::<_, i64>(0) > 0
    }
}

/// How far a session's subscription has come when its task panics.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Ordered,
    OrderedWithAnother,
    Live,
    LiveWithAnother,
    BecomesLive,
    IsRead,
}

impl Moment {
    fn is_before_the_answer(self) -> bool {
        matches!(self, Moment::Ordered | Moment::OrderedWithAnother)
    }

    async fn begin(self, own: &mut Subscriptions, since: Position) -> Result<(), Refusal> {
        let start = match self {
            Moment::OrderedWithAnother | Moment::LiveWithAnother => {
                let specs = vec![spec(), spec()];
                return own.begin_all(&anon("{}"), specs, Box::new(|| None)).await;
            }
            Moment::Ordered | Moment::Live => Start::Now,
            Moment::BecomesLive => Start::Since(since),
            Moment::IsRead => Start::Snapshot,
        };
        let id = SubscriptionId(1);
        own.begin(id, anon("{}"), spec(), start, words()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_of_a_session_whose_task_panics() {
    let mut stage = stage().await;
    for moment in [
        Moment::Ordered,
        Moment::OrderedWithAnother,
        Moment::Live,
        Moment::LiveWithAnother,
        Moment::BecomesLive,
        Moment::IsRead,
    ] {
        let outbox = Arc::new(Outbox::new(1 << 20)); // holds less than the rows
        let mut own = Subscriptions::new(stage.shared.clone(), CONNECTION, outbox);
        let since = *stage.history.written().borrow();
        let (begun, mut has_begun) = oneshot::channel();
        let (end, ends) = oneshot::channel::<()>();
        let session = tokio::spawn(async move {
            let beginning = async {
                let done = moment.begin(&mut own, since).await;
                done.expect("it begins");
                let _ = begun.send(());
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = beginning => {}
                _ = ends => panic!("as it is to be tested"),
            }
        });
        match moment {
            Moment::Live | Moment::LiveWithAnother => {
                let order = stage.order().await;
                stage.carry_out(order);
                has_begun.await.expect("it has begun");
                assert!(!stage.audience.is_empty(), "{moment:?}");
            }
            Moment::IsRead => {
                has_begun.await.expect("it has begun");
                eventually(DEADLINE, async || stage.is_reading().await.then_some(()))
                    .await
                    .expect("rows are read");
            }
            _ => {
                eventually(DEADLINE, async || (!stage.orders.is_empty()).then_some(()))
                    .await
                    .expect("an order");
                match moment.is_before_the_answer() {
                    true => assert!(has_begun.try_recv().is_err(), "{moment:?}"),
                    // The walk's order may be faster than the session's own task.
                    false => has_begun.await.expect("it has begun"),
                }
            }
        }
        // A walk's word may come to the pipeline after the session's last one.
        let held = match moment {
            Moment::BecomesLive => Some(stage.order().await),
            _ => None,
        };
        end.send(()).expect("it goes on");
        let ended = session.await.expect_err("its task panics");
        assert!(ended.is_panic(), "{moment:?}");
        loop {
            let order = stage.order().await;
            if stage.carry_out(order) {
                break;
            }
        }
        if let Some(order) = held {
            stage.carry_out(order);
        }
        assert!(stage.audience.is_empty(), "{moment:?}");
        eventually(DEADLINE, async || (!stage.is_reading().await).then_some(()))
            .await
            .expect("nobody reads for it");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_sent_only_for_whom_they_were_read() {
    let stage = stage().await;
    type Change = fn(&Standing);
    let cases: [(&str, Change, bool); 4] = [
        ("nothing changes", |_| {}, true),
        ("the same again", |one| one.set_viewer(&anon("{}")), true),
        (
            "a new token",
            |one| one.set_viewer(&anon("{\"a\":1}")),
            false,
        ),
        ("it ends", Standing::end, false),
    ];
    for (case, change, expected) in cases {
        let outbox = Arc::new(Outbox::new(64 << 20));
        let standing = Arc::new(Standing::new(anon("{}")));
        let member = Member {
            outbox: outbox.clone(),
            gate: None,
            standing: standing.clone(),
        };
        let attached = Attached {
            id: SubscriptionId(1),
            connection: CONNECTION,
            spec: spec(),
            member,
        };
        let snapshots = stage.shared.snapshots.clone();
        let snapshot = snapshots.open(attached).await.expect("rows");
        change(&standing);
        snapshots.send(snapshot).await;
        outbox.push(Bytes::from_static(b"the end"));
        let mut frames = Vec::new();
        while frames.last().is_none_or(|last| last != "the end") {
            let taken = timeout(DEADLINE, outbox.take(&mut frames, 1000)).await;
            assert_eq!(taken.expect("in time"), Pending::Frames, "{case}");
        }
        let is_row = |frame: &Bytes| frame.windows(6).any(|part| part == b"xxxxxx");
        let sent = frames.iter().any(is_row);
        assert_eq!(sent, expected, "{case}: {} frames", frames.len());
    }
}
