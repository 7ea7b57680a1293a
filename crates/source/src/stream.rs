//! The replication connection. The only file that knows pgwire-replication.
//!
//! What it is used for: framing, login, TLS, the feedback timer. It parses `Begin`, `Commit` and
//! logical messages itself and hands over everything else as bytes. Traps of version 0.5.0 that are
//! met here:
//!
//! - `recv` isn't cancel safe once its worker ends: it takes the worker's handle before awaiting it.
//!   A `recv` that was dropped in that moment loses the reason, and the next one says "already
//!   joined": that is [`SourceError::Closed`] here, and the checks before the next connection find
//!   the reason again.
//! - `is_transient` is wrong for a server that shuts down; the SQLSTATE at the end of the text counts.
//! - There is no deadline on connecting, nor on a peer that has fallen silent. The first is ours
//!   ([`Stream::open`]). For the second the session asks Postgres to request a reply after half of
//!   `wal_sender_timeout`; so that it does, we must not report on our own while idle, or its timer
//!   starts anew each time and a quiet database is really silent: `idle_wakeup_interval` is longer.
//! - A position acknowledged just before `stop` isn't sent any more: see [`Stream::close`].

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use pgwire_replication::{
    FeedbackObserver, Lsn as WireLsn, PgWireError, ReplicationClient, ReplicationConfig,
    ReplicationEvent, SslMode, TlsConfig,
};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use walcast_pgoutput::{Begin, Commit, Logical, Lsn, Message, PgTime, Xid};

use crate::database::Target;
use crate::gap::ServerIdentity;
use crate::tls::TlsMode;
use crate::{SlotName, SourceConfig, SourceError};

/// How soon an acknowledgement is sent on after the one before it, and how often while the consumer
/// is behind.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// A row of a query's answer, in text form.
pub(crate) type AnswerRow = Vec<Option<Bytes>>;

/// What arrives, in the order in which it was sent.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// A keepalive outside a transaction.
    Idle(Lsn),
}

/// A replication session: logged in, and after [`start`](Stream::start) streaming.
pub(crate) struct Stream {
    client: ReplicationClient,
    /// Signalled each time the server has been told a position.
    reported: Arc<Notify>,
    in_transaction: bool,
}

impl Stream {
    /// Connects and logs in; streams nothing yet.
    pub(crate) async fn open(
        target: &Target,
        config: &SourceConfig,
        slot: &SlotName,
        start: Lsn,
    ) -> Result<(Stream, ServerIdentity), SourceError> {
        let reported = Arc::new(Notify::new());
        let settings = settings(target, config, slot, start, Arc::clone(&reported));
        let deadline =
            Deadline::after(config.connect_timeout, "opening the replication connection");
        let client = deadline
            .hold(ReplicationClient::connect_gated(settings))
            .await?;
        let mut stream = Stream {
            client,
            reported,
            in_transaction: false,
        };
        let system = deadline.hold(stream.client.identify_system()).await?;
        let identity = ServerIdentity {
            system: system.system_id,
            timeline: system.timeline,
        };
        Ok((stream, identity))
    }

    /// Runs a replication command or SQL on a session that doesn't stream yet.
    pub(crate) async fn query(&mut self, sql: &str) -> Result<Vec<AnswerRow>, SourceError> {
        Ok(self.client.simple_query(sql).await?)
    }

    /// Starts to stream; when it returns, the slot is ours.
    pub(crate) async fn start(&mut self, timeout: Duration) -> Result<(), SourceError> {
        let deadline = Deadline::after(timeout, "starting the stream");
        deadline.hold(self.client.start()).await?;
        deadline.hold(self.client.wait_started()).await
    }

    /// The next message. Ends with an error; call it no more after that. Cancel safe, but for the
    /// reason of an error (see the head of this file).
    pub(crate) async fn recv(&mut self) -> Result<Received, SourceError> {
        loop {
            let event = self.client.recv().await?.ok_or(SourceError::Closed)?;
            if let Some(received) = self.map(event)? {
                return Ok(received);
            }
        }
    }

    /// The next message if it is here already. Doesn't take part in tokio's fairness: the caller
    /// bounds how many it takes without awaiting.
    pub(crate) fn try_recv(&mut self) -> Option<Result<Received, SourceError>> {
        loop {
            if !self.client.is_running() {
                return None; // its reason is for `recv`, which may wait for it
            }
            let event = match poll_once(self.client.recv())? {
                Ok(Some(event)) => event,
                Ok(None) => return Some(Err(SourceError::Closed)),
                Err(error) => return Some(Err(error.into())),
            };
            match self.map(event) {
                Ok(Some(received)) => return Some(Ok(received)),
                Ok(None) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Everything that ends at or before `lsn` has been dealt with. Sent within a second.
    pub(crate) fn acknowledge(&self, lsn: Lsn) {
        self.client.update_applied_lsn(WireLsn(lsn.0));
    }

    /// What the server has been told so far.
    pub(crate) fn confirmed(&self) -> Lsn {
        Lsn(self.client.metrics().last_applied_lsn().0)
    }

    /// Ends the session in order, after the last acknowledgement has been sent; waits no longer than
    /// `patience` for either.
    pub(crate) async fn close(mut self, acknowledged: Lsn, patience: Duration) {
        let end = Instant::now() + patience;
        while self.confirmed() < acknowledged && self.client.is_running() {
            if timeout_at(end, self.reported.notified()).await.is_err() {
                break;
            }
        }
        if timeout_at(end, self.client.shutdown()).await.is_err() {
            self.client.abort();
        }
    }

    fn map(&mut self, event: ReplicationEvent) -> Result<Option<Received>, SourceError> {
        let message = match event {
            ReplicationEvent::XLogData { data, .. } => walcast_pgoutput::decode(data)?,
            ReplicationEvent::Begin {
                final_lsn,
                xid,
                commit_time_micros,
            } => {
                self.in_transaction = true;
                Message::Begin(Begin {
                    final_lsn: Lsn(final_lsn.0),
                    commit_time: PgTime(commit_time_micros),
                    xid: Xid(xid),
                })
            }
            ReplicationEvent::Commit {
                lsn,
                end_lsn,
                commit_time_micros,
            } => {
                self.in_transaction = false;
                Message::Commit(Commit {
                    flags: 0,
                    commit_lsn: Lsn(lsn.0),
                    end_lsn: Lsn(end_lsn.0),
                    commit_time: PgTime(commit_time_micros),
                })
            }
            ReplicationEvent::Message {
                transactional,
                lsn,
                prefix,
                content,
            } => Message::Logical(Logical {
                transactional,
                lsn: Lsn(lsn.0),
                prefix: Bytes::from(prefix),
                content,
            }),
            ReplicationEvent::KeepAlive { wal_end, .. } => {
                let idle = !self.in_transaction && wal_end.0 > 0;
                return Ok(idle.then_some(Received::Idle(Lsn(wal_end.0))));
            }
            _ => return Ok(None),
        };
        Ok(Some(Received::Message(message)))
    }
}

fn settings(
    target: &Target,
    config: &SourceConfig,
    slot: &SlotName,
    start: Lsn,
    reported: Arc<Notify>,
) -> ReplicationConfig {
    let publication = format!("\"{}\"", config.publication.replace('"', "\"\"")); // else folded
    ReplicationConfig::new(
        &target.host,
        &target.user,
        &target.password,
        &target.database,
        slot.as_str(),
        publication,
    )
    .with_port(target.port)
    .with_tls(tls(target))
    .with_start_lsn(WireLsn(start.0))
    .with_status_interval(STATUS_INTERVAL)
    .with_wakeup_interval(config.silence_max.saturating_mul(2))
    .with_buffer_size(config.buffer_events_max.max(1))
    .with_max_message_size(config.message_bytes_max)
    .with_application_name(&config.application_name)
    .with_options(session_options(target, config.silence_max))
    // a permit is kept when nobody waits, so that `close` misses none
    .with_feedback_observer(FeedbackObserver::new(move |_| reported.notify_one()))
}

/// Settings of the walsender's session. The first line fixes how values are printed: whatever the
/// role's or the database's settings say, a row's text means the same (names of `reg…` types are
/// qualified, for `search_path` is empty). The last ones let Postgres
/// find out soon that we are gone, and give the slot back.
fn session_options(target: &Target, silence_max: Duration) -> String {
    let own = target.options.as_deref().unwrap_or_default();
    let silence_ms = silence_max.as_millis().clamp(1000, 3_600_000);
    format!(
        "{own} -c datestyle=ISO,MDY -c intervalstyle=postgres -c timezone=UTC -c bytea_output=hex \
         -c extra_float_digits=1 -c lc_monetary=C -c xmlbinary=base64 -c search_path= \
         -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
         -c default_transaction_read_only=off \
         -c wal_sender_timeout={silence_ms} -c tcp_keepalives_idle=10 \
         -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    )
}

fn tls(target: &Target) -> TlsConfig {
    let mut tls = TlsConfig::disabled();
    tls.mode = match target.tls.mode {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require => SslMode::Require,
        TlsMode::VerifyCa => SslMode::VerifyCa,
        TlsMode::VerifyFull => SslMode::VerifyFull,
    };
    tls.ca_pem_path.clone_from(&target.tls.root);
    tls.sni_hostname = Some(target.server_name.clone());
    if let Some((certificate, key)) = &target.tls.client {
        tls.client_cert_pem_path = Some(certificate.clone());
        tls.client_key_pem_path = Some(key.clone());
    }
    tls
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

fn poll_once<F: Future>(future: F) -> Option<F::Output> {
    let future = pin!(tokio::task::unconstrained(future));
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
