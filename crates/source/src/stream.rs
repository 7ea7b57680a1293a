//! The replication connection. The only module that knows pgwire-replication.
//!
//! What it is used for: framing, login, TLS, the feedback timer. It parses `Begin`, `Commit` and
//! logical messages itself and hands over everything else as bytes. Traps of version 0.5.0 that are
//! met here:
//!
//! - What it has read ahead is bounded by a count of messages only: see [`ahead`].
//! - `recv` isn't cancel safe once its worker ends: it takes the worker's handle before awaiting it.
//!   A `recv` that was dropped in that moment loses the reason, and the next one says "already
//!   joined": that is [`SourceError::Closed`] here, and the checks before the next connection find
//!   the reason again.
//! - `is_transient` is wrong for a server that shuts down; the SQLSTATE at the end of the text counts.
//! - There is no deadline on connecting, nor on a peer that has fallen silent. The first is ours
//!   ([`Opening::login`]). For the second the session asks Postgres to request a reply after half of
//!   `wal_sender_timeout`; so that it does, we must not report on our own while idle, or its timer
//!   starts anew each time and a quiet database is really silent: `idle_wakeup_interval` is longer.
//! - A position acknowledged just before `stop` isn't sent any more: see [`Stream::close`].

mod ahead;
mod settings;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pgwire_replication::{PgWireError, ReplicationClient, ReplicationMetrics};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use walcast_pgoutput::{Lsn, Message};

use self::ahead::Ahead;
use self::settings::settings;
use crate::database::Target;
use crate::gap::ServerIdentity;
use crate::{Finding, SlotName, SourceConfig, SourceError};

/// A row of a query's answer, in text form.
pub(crate) type AnswerRow = Vec<Option<Bytes>>;

/// What arrives, in the order in which it was sent.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// A keepalive outside a transaction.
    Idle(Lsn),
    /// A keepalive that says no more than that the server is there.
    Alive,
}

/// A replication session that is logged in and doesn't stream yet.
pub(crate) struct Opening {
    client: ReplicationClient,
    reported: Arc<Notify>,
    ahead_bytes_max: usize,
}

/// A replication session that streams.
pub(crate) struct Stream {
    ahead: Ahead,
    metrics: Arc<ReplicationMetrics>,
    /// Signalled each time the server has been told a position.
    reported: Arc<Notify>,
}

impl Opening {
    /// Connects and logs in.
    pub(crate) async fn login(
        target: &Target,
        config: &SourceConfig,
        slot: &SlotName,
        start: Lsn,
    ) -> Result<(Opening, ServerIdentity), SourceError> {
        let reported = Arc::new(Notify::new());
        let settings = settings(target, config, slot, start, Arc::clone(&reported));
        let deadline =
            Deadline::after(config.connect_timeout, "opening the replication connection");
        let mut client = deadline
            .hold(ReplicationClient::connect_gated(settings))
            .await
            .map_err(told_of_poolers)?;
        let system = deadline
            .hold(client.identify_system())
            .await
            .map_err(told_of_poolers)?;
        let identity = ServerIdentity {
            system: system.system_id,
            timeline: system.timeline,
        };
        let opening = Opening {
            client,
            reported,
            ahead_bytes_max: config.ahead_bytes_max,
        };
        Ok((opening, identity))
    }

    /// Runs a replication command or SQL.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<AnswerRow>, SourceError> {
        Ok(self.client.simple_query(sql).await?)
    }

    /// Starts to stream; when it returns, the slot is ours.
    pub(crate) async fn start(mut self, timeout: Duration) -> Result<Stream, SourceError> {
        let deadline = Deadline::after(timeout, "starting the stream");
        deadline.hold(self.client.start()).await?;
        deadline.hold(self.client.wait_started()).await?;
        Ok(Stream {
            metrics: self.client.metrics(),
            reported: self.reported,
            ahead: Ahead::of(self.client, self.ahead_bytes_max),
        })
    }
}

/// Poolers answer SQL and refuse this: `unsupported startup parameter: replication`.
fn told_of_poolers(error: SourceError) -> SourceError {
    match error {
        SourceError::Server { code, text } if code == "08P01" => Finding::error(
            "replication_refused",
            format!("the server takes no replication connection: {text}"),
            "a connection pooler answers at this address: give the database's own (without \
             -pooler in the host's name; often port 5432 instead of 6432 or 6543)",
        )
        .into(),
        other => other,
    }
}

impl Stream {
    /// The next message. Ends with an error; call it no more after that. Cancel safe.
    pub(crate) async fn recv(&mut self) -> Result<Received, SourceError> {
        self.ahead.recv().await
    }

    /// The next message if it is here already. Doesn't take part in tokio's fairness: the caller
    /// bounds how many it takes without awaiting.
    pub(crate) fn try_recv(&mut self) -> Option<Result<Received, SourceError>> {
        self.ahead.try_recv()
    }

    /// Everything that ends at or before `lsn` has been dealt with. Sent within a second.
    pub(crate) fn acknowledge(&self, lsn: Lsn) {
        self.ahead.acknowledge(lsn);
    }

    /// What the server has been told so far.
    pub(crate) fn confirmed(&self) -> Lsn {
        Lsn(self.metrics.last_applied_lsn().0)
    }

    /// Ends the session in order, after the last acknowledgement has been sent; waits no longer than
    /// `patience` for either.
    pub(crate) async fn close(self, acknowledged: Lsn, patience: Duration) {
        let end = Instant::now() + patience;
        while self.confirmed() < acknowledged && !self.ahead.has_ended() {
            if timeout_at(end, self.reported.notified()).await.is_err() {
                break;
            }
        }
        self.ahead.close(end).await;
    }
}

impl From<PgWireError> for SourceError {
    fn from(error: PgWireError) -> Self {
        match error {
            PgWireError::Io(error) => SourceError::Io(error.to_string()),
            PgWireError::Server(text) => SourceError::from_server_text(&text),
            PgWireError::Auth(text) => SourceError::Login(text),
            PgWireError::Tls(text) => SourceError::Tls(text),
            PgWireError::MessageTooLarge {
                payload_bytes,
                limit_bytes,
            } => SourceError::MessageTooLarge {
                bytes: payload_bytes,
                limit_bytes,
            },
            PgWireError::Internal(text) if text.contains("already joined") => SourceError::Closed,
            other => SourceError::Protocol(other.to_string()),
        }
    }
}

/// A point in time, and what is being waited for until then.
struct Deadline {
    end: Instant,
    seconds: u64,
    during: &'static str,
}

impl Deadline {
    fn after(timeout: Duration, during: &'static str) -> Deadline {
        Deadline {
            end: Instant::now() + timeout,
            seconds: timeout.as_secs(),
            during,
        }
    }

    async fn hold<T>(
        &self,
        work: impl Future<Output = Result<T, PgWireError>>,
    ) -> Result<T, SourceError> {
        match timeout_at(self.end, work).await {
            Ok(result) => Ok(result?),
            Err(_) => Err(SourceError::Timeout {
                during: self.during,
                seconds: self.seconds,
            }),
        }
    }
}
