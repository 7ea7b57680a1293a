//! From nothing to a running stream: check, make or take the slot, start. Again and again until it
//! works, with pauses, saying why it doesn't.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use walcast_pgoutput::Lsn;

use crate::backoff::{self, Backoff};
use crate::database::{Database, Target};
use crate::gap::{self, Found, Known};
use crate::preflight::{Facts, slot_lost};
use crate::slot::{self, Reader, Slot};
use crate::stream::{Opening, Stream};
use crate::{
    Gap, GapReason, LostSlot, Progress, Retry, ServerIdentity, SourceConfig, SourceError,
    StreamState,
};

/// The longest pause while another process holds the slot: so much later than its end we take over.
const STAND_BY: Duration = Duration::from_secs(1);
/// The longest pause while what is wrong may pass by itself.
const SOON: Duration = Duration::from_secs(1);
/// A session that lived so long was a good one.
const HEALTHY: Duration = Duration::from_secs(10);
/// What an attempt gets to clean up when it is stopped.
const GRACE: Duration = Duration::from_secs(1);
/// How often is said for whom the creation of a slot waits.
const BLOCKER_INTERVAL: Duration = Duration::from_secs(10);

/// What a source and its tasks share.
pub(crate) struct Shared {
    pub(crate) config: SourceConfig,
    pub(crate) database: Database,
    pub(crate) state: watch::Sender<StreamState>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) stop: CancellationToken,
}

impl Shared {
    pub(crate) fn set_state(&self, state: StreamState) {
        self.state.send_replace(state);
    }
}

/// What is remembered from one connection to the next.
#[derive(Clone, Default)]
pub(crate) struct Memory {
    pub(crate) known: Known,
    /// Whether there has been a connection before.
    pub(crate) connected_before: bool,
    /// Our own last walsender; it may still hold the slot.
    pub(crate) last_backend: Option<Backend>,
    /// The stream ended because a change was made before the publication was.
    pub(crate) publication_too_young: bool,
    pub(crate) last_error: Option<SourceError>,
    /// Not reset by a connection that breaks again at once.
    pub(crate) backoff: Backoff,
    /// Before the first try.
    pub(crate) pause: Option<Duration>,
}

impl Memory {
    /// The session has ended after `lived`.
    pub(crate) fn session_ended(&mut self, error: SourceError, lived: Duration, publication: &str) {
        self.pause = None;
        if lived >= HEALTHY {
            self.backoff = Backoff::default();
        } else {
            self.pause = Some(pause(&error, &mut self.backoff));
        }
        // "undefined object" may be other things too; the server's language is unknown, the name isn't
        self.publication_too_young |= matches!(
            &error,
            SourceError::Server { code, text } if code == "42704" && text.contains(publication)
        );
        self.last_error = Some(error);
    }
}

/// A server process, recognisable when its pid is used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Backend {
    pid: i32,
    started: String,
}

/// A running stream.
pub(crate) struct Session {
    pub(crate) stream: Stream,
    pub(crate) identity: ServerIdentity,
    pub(crate) publication_oid: u32,
    pub(crate) backend: Backend,
    pub(crate) gap: Option<Gap>,
    /// Goes on as the monitor's connection.
    pub(crate) sql: Client,
    pub(crate) target: Target,
    /// Where it starts.
    pub(crate) start: Lsn,
    pub(crate) backoff: Backoff,
}

/// Tries until there is a session. Before the first one, an error that needs an operator ends it.
pub(crate) async fn connect(
    shared: Arc<Shared>,
    mut memory: Memory,
) -> Result<Session, SourceError> {
    announce(&shared, &memory);
    loop {
        if let Some(pause) = memory.pause.take() {
            tokio::select! {
                () = shared.stop.cancelled() => return Err(SourceError::Stopped),
                () = tokio::time::sleep(pause) => {}
            }
        }
        let error = match attempt(&shared, &memory).await {
            Ok(mut session) => {
                session.backoff = memory.backoff;
                return Ok(session);
            }
            Err(SourceError::Stopped) => return Err(SourceError::Stopped),
            Err(error) => error,
        };
        if error.retry() == Retry::Operator && !memory.connected_before {
            return Err(error);
        }
        let pause = pause(&error, &mut memory.backoff);
        report(&shared, &memory, &error, pause);
        memory.pause = Some(pause);
        memory.last_error = Some(error);
    }
}

fn announce(shared: &Shared, memory: &Memory) {
    let last = memory.last_error.as_ref();
    shared.set_state(match last {
        Some(error) if error.retry() == Retry::Operator => StreamState::Blocked {
            error: error.to_string(),
        },
        _ => StreamState::Connecting {
            attempt: memory.backoff.tries(),
            last_error: last.map(ToString::to_string),
        },
    });
}

async fn attempt(shared: &Shared, memory: &Memory) -> Result<Session, SourceError> {
    let target = shared.database.target(memory.backoff.tries());
    let stopped = async {
        shared.stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    let attempt = Attempt {
        shared,
        memory,
        target,
    };
    tokio::select! {
        biased;
        result = attempt.run() => result,
        () = stopped => Err(SourceError::Stopped),
    }
}

fn pause(error: &SourceError, backoff: &mut Backoff) -> Duration {
    let pause = backoff.next(backoff::random());
    match error {
        SourceError::SlotInUse { .. } => pause.min(STAND_BY),
        // A server that restarts is back at any moment: clients wait for it.
        error if error.retry() == Retry::Soon => pause.min(SOON),
        _ => pause,
    }
}

/// The same error again is not worth another loud line.
fn report(shared: &Shared, memory: &Memory, error: &SourceError, pause: Duration) {
    let attempt = memory.backoff.tries();
    let text = error.to_string();
    let repeated = memory
        .last_error
        .as_ref()
        .is_some_and(|last| last.to_string() == text);
    let pause_ms = pause.as_millis();
    match error.retry() {
        _ if repeated => {
            tracing::debug!(attempt, pause_ms, error = %text, "still no replication stream")
        }
        Retry::Soon => tracing::warn!(attempt, pause_ms, error = %text, "no replication stream"),
        Retry::Operator => {
            tracing::error!(error = %text, "no replication stream until this is mended")
        }
    }
    shared.set_state(match error {
        SourceError::SlotInUse {
            pid, application, ..
        } => StreamState::WaitingForSlot {
            pid: *pid,
            application: application.clone(),
        },
        _ if error.retry() == Retry::Operator => StreamState::Blocked { error: text },
        _ => StreamState::Connecting {
            attempt,
            last_error: Some(text),
        },
    });
}

struct Attempt<'a> {
    shared: &'a Shared,
    memory: &'a Memory,
    target: Target,
}

/// How the slot was found or made ready.
enum Ready {
    /// All before this has been acknowledged.
    Existing { confirmed: Lsn },
    /// It has to be created, on the streaming session.
    Missing(Option<GapReason>),
}

impl Attempt<'_> {
    async fn run(self) -> Result<Session, SourceError> {
        let config = &self.shared.config;
        let sql = self.target.connect(&config.application_name).await?;
        let facts = Facts::read(&sql, config).await?;
        if let Some(finding) = facts.obstacles(config).into_iter().next() {
            return Err(finding.into());
        }
        let ready = self.prepare_slot(&sql, &facts).await?;
        let (start, reason) = self.place(&facts, &ready);
        let (mut opening, identity) =
            Opening::login(&self.target, config, config.slot.name(), start).await?;
        if identity.system != facts.system {
            return Err(SourceError::Protocol(
                "two servers answer at this address".into(),
            ));
        }
        let reason = reason.or_else(|| gap::promoted(&self.memory.known, &identity));
        if facts.encoding == "SQL_ASCII" {
            // Nobody knows what its bytes mean: asked for UTF-8, Postgres would end the stream at
            // the first row that is not, again and again. Let them come as they are.
            opening.query("SET client_encoding = 'SQL_ASCII'").await?;
        }
        let backend = own_backend(&mut opening).await?;
        let mut resumes_at = start;
        if let Ready::Missing(_) = ready {
            resumes_at = self.create_slot(&mut opening, &sql, backend.pid).await?;
        }
        Ok(Session {
            stream: self.start(opening, &sql).await?,
            identity,
            publication_oid: facts
                .publication
                .as_ref()
                .map_or(0, |publication| publication.oid),
            backend,
            gap: reason.map(|reason| Gap {
                reason,
                after: self.memory.known.acknowledged,
                resumes_at,
            }),
            sql,
            target: self.target,
            start: resumes_at,
            backoff: Backoff::default(),
        })
    }

    /// Finds the slot usable, or makes the way free to create it.
    async fn prepare_slot(&self, sql: &Client, facts: &Facts) -> Result<Ready, SourceError> {
        let name = self.shared.config.slot.name();
        let Some(slot) = &facts.slot else {
            return Ok(Ready::Missing(self.reason_for_new_slot()));
        };
        if let Some(reader) = &slot.reader {
            self.free_from_our_last_backend(sql, reader).await?;
            return Err(self.in_use(reader));
        }
        if slot.is_lost() {
            if self.shared.config.lost_slot == LostSlot::Wait {
                return Err(slot_lost(slot, name).into());
            }
            tracing::error!(slot = %name, finding = %slot_lost(slot, name), "creating the lost slot anew");
            slot::drop_slot(sql, name).await?;
            return Ok(Ready::Missing(Some(GapReason::SlotLost)));
        }
        if self.memory.publication_too_young {
            let to = slot::skip_to_end(sql, name).await?;
            tracing::error!(slot = %name, %to, "skipped changes older than the publication");
            return Ok(Ready::Existing { confirmed: to });
        }
        Ok(Ready::Existing {
            confirmed: slot.confirmed,
        })
    }

    /// None: nothing can have been missed, because there was nothing before.
    fn reason_for_new_slot(&self) -> Option<GapReason> {
        let known = &self.memory.known;
        if self.shared.config.slot.is_temporary() {
            let resumed = self.memory.connected_before || known.acknowledged > Lsn::ZERO;
            return resumed.then_some(GapReason::TemporarySlot);
        }
        let had_one = self.memory.connected_before || known.acknowledged > Lsn::ZERO;
        had_one.then_some(GapReason::SlotMissing)
    }

    /// Where to start, and whether something is missing before it.
    fn place(&self, facts: &Facts, ready: &Ready) -> (Lsn, Option<GapReason>) {
        let confirmed = match ready {
            Ready::Missing(reason) => return (Lsn::ZERO, *reason),
            Ready::Existing { confirmed } => *confirmed,
        };
        if self.memory.publication_too_young {
            return (confirmed, Some(GapReason::PublicationRecreated));
        }
        let known = &self.memory.known;
        let found = Found {
            system: facts.system.clone(),
            publication_oid: facts
                .publication
                .as_ref()
                .map_or(0, |publication| publication.oid),
            flushed: facts.flushed,
            confirmed,
        };
        match gap::judge(known, &found) {
            // our LSN means nothing there
            Some(GapReason::OtherServer) => (confirmed, Some(GapReason::OtherServer)),
            // the server takes the later of the two; after a crash the slot may have gone back
            reason => (confirmed.max(known.acknowledged), reason),
        }
    }

    /// A walsender of our own whose connection was cut lives until it notices. We know it to be ours
    /// by pid and start; nobody else's is ever ended.
    async fn free_from_our_last_backend(
        &self,
        sql: &Client,
        reader: &Reader,
    ) -> Result<(), SourceError> {
        let ours = self
            .memory
            .last_backend
            .as_ref()
            .is_some_and(|last| last.pid == reader.pid && last.started == reader.started);
        if ours {
            tracing::info!(pid = reader.pid, "ending our own stale walsender");
            sql.execute("SELECT pg_catalog.pg_terminate_backend($1)", &[&reader.pid])
                .await?;
        }
        Ok(())
    }

    fn in_use(&self, reader: &Reader) -> SourceError {
        SourceError::SlotInUse {
            slot: self.shared.config.slot.name().to_string(),
            pid: reader.pid,
            application: reader.application.clone(),
        }
    }

    /// Creates the slot on the streaming session. Postgres first waits for every transaction that is
    /// open; meanwhile says which.
    async fn create_slot(
        &self,
        opening: &mut Opening,
        sql: &Client,
        pid: i32,
    ) -> Result<Lsn, SourceError> {
        let kind = &self.shared.config.slot;
        let temporary = if kind.is_temporary() {
            " TEMPORARY"
        } else {
            ""
        };
        // the older form of the option is understood by all versions
        let command = format!(
            "CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput NOEXPORT_SNAPSHOT",
            kind.name()
        );
        let created = {
            let mut creating = std::pin::pin!(opening.query(&command));
            tokio::select! {
                rows = &mut creating => rows,
                never = self.watch_creation(sql, pid) => match never {},
                () = self.shared.stop.cancelled() => {
                    // It waits for locks and would not notice that we are gone. In one message: nobody
                    // waits long for the answer, and a server that is slow does it all the same.
                    let terminate = format!("SELECT pg_catalog.pg_terminate_backend({pid})");
                    sql.batch_execute(&terminate).await?;
                    Err(SourceError::Stopped)
                }
            }
        };
        let rows = match created {
            Err(error) if error.code() == Some("42710") => return self.lost_the_race(sql).await,
            other => other?,
        };
        let point = rows
            .first()
            .and_then(|row| text(row.get(1)?.as_ref()))
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| SourceError::Protocol("the new slot's position".into()))?;
        tracing::info!(slot = %kind.name(), position = %point, "created the slot");
        Ok(point)
    }

    /// Somebody created it between our look and our command.
    async fn lost_the_race(&self, sql: &Client) -> Result<Lsn, SourceError> {
        let slot = Slot::read(sql, self.shared.config.slot.name()).await?;
        let reader = slot.and_then(|slot| slot.reader).unwrap_or_default();
        Err(self.in_use(&reader))
    }

    /// Every ten seconds, the first after a short while: for whom Postgres waits.
    async fn watch_creation(&self, sql: &Client, pid: i32) -> Infallible {
        let since = Instant::now();
        let mut pause = Duration::from_millis(200);
        loop {
            tokio::time::sleep(pause).await;
            let row = sql
                .query_one("SELECT pg_catalog.pg_blocking_pids($1)", &[&pid])
                .await;
            let blocked_by: Vec<i32> = row.and_then(|row| row.try_get(0)).unwrap_or_default();
            self.shared.set_state(StreamState::CreatingSlot {
                since,
                blocked_by: blocked_by.clone(),
            });
            let seconds = since.elapsed().as_secs();
            tracing::info!(seconds, waiting_for = ?blocked_by, "creating the slot: waiting for open transactions to end");
            pause = BLOCKER_INTERVAL;
        }
    }

    async fn start(&self, opening: Opening, sql: &Client) -> Result<Stream, SourceError> {
        match opening.start(self.shared.config.connect_timeout).await {
            Err(error) if error.code() == Some("55006") => {
                let slot = Slot::read(sql, self.shared.config.slot.name()).await?;
                let reader = slot.and_then(|slot| slot.reader).unwrap_or_default();
                Err(self.in_use(&reader))
            }
            other => other,
        }
    }
}

async fn own_backend(opening: &mut Opening) -> Result<Backend, SourceError> {
    let rows = opening
        .query(
            "SELECT pid, backend_start::text FROM pg_catalog.pg_stat_activity
              WHERE pid = pg_catalog.pg_backend_pid()",
        )
        .await?;
    let field = |index: usize| rows.first().and_then(|row| text(row.get(index)?.as_ref()));
    match (field(0).and_then(|pid| pid.parse().ok()), field(1)) {
        (Some(pid), Some(started)) => Ok(Backend {
            pid,
            started: started.into(),
        }),
        _ => Err(SourceError::Protocol("the session's process id".into())),
    }
}

fn text(value: Option<&Bytes>) -> Option<&str> {
    std::str::from_utf8(value?).ok()
}
