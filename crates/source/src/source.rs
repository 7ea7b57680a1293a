//! The stream as the pipeline sees it: events in order, whatever happens to the connection.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use walcast_pgoutput::{Lsn, Message};

use crate::connect::{self, Memory, Session, Shared};
use crate::database::Database;
use crate::gap::Known;
use crate::monitor::Monitor;
use crate::stream::{Received, Stream};
use crate::{Gap, GapReason, Progress, ServerIdentity, SourceConfig, SourceError, StreamState};

/// What comes from the source, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    Message(Message),
    /// A keepalive outside a transaction: once all before it has been dealt with, this LSN may be
    /// acknowledged.
    Idle(Lsn),
    /// The connection is a new one. A transaction whose `Commit` has not come is to be forgotten: it
    /// is sent again from its `Begin`, and so are finished ones that were not acknowledged.
    Restarted,
    /// The stream goes on, but not exactly where it stopped. After [`Event::Restarted`], if both.
    Gap(Gap),
}

/// One replication stream that reconnects by itself.
pub struct Source {
    shared: Arc<Shared>,
    memory: Memory,
    link: Link,
    waiting: VecDeque<Event>,
    /// The highest LSN that may be acknowledged: of what has been delivered.
    delivered: Lsn,
    started_at: Lsn,
}

enum Link {
    Down,
    Connecting(JoinHandle<Result<Session, SourceError>>),
    Up(Up),
    /// An error that ends the source for good.
    Ended(SourceError),
}

struct Up {
    stream: Stream,
    monitor: Monitor,
    since: Instant,
    last_heard: Instant,
    /// Something came since `last_heard` was set; saves reading the clock for every message.
    heard: bool,
}

impl Source {
    /// Checks, connects and starts to stream; waits as long as what is wrong may pass by itself.
    ///
    /// Errors: what needs an operator, with its remedy; [`SourceError::Stopped`].
    pub async fn open(
        config: SourceConfig,
        stop: CancellationToken,
    ) -> Result<Source, SourceError> {
        let mut source = Source::prepare(config, stop)?;
        source.connected().await?;
        Ok(source)
    }

    /// Without connecting yet: the first [`next`](Source::next) does, and [`state`](Source::state)
    /// can be watched meanwhile. Errors: an unusable URL.
    pub fn prepare(config: SourceConfig, stop: CancellationToken) -> Result<Source, SourceError> {
        let database = Database::parse(&config.database_url)?;
        let acknowledged = config.resume_from.unwrap_or(Lsn::ZERO);
        let (state, _) = watch::channel(StreamState::Connecting {
            attempt: 0,
            last_error: None,
        });
        let progress = Arc::new(Progress::default());
        progress.set_acknowledged(acknowledged);
        let identity = config.resume_server.clone();
        Ok(Source {
            shared: Arc::new(Shared {
                config,
                database,
                state,
                progress,
                stop: stop.child_token(),
            }),
            memory: Memory {
                known: Known {
                    acknowledged,
                    identity,
                    ..Known::default()
                },
                ..Memory::default()
            },
            link: Link::Down,
            waiting: VecDeque::new(),
            delivered: acknowledged,
            started_at: acknowledged,
        })
    }

    /// The next event; reconnects inside. Cancel safe.
    ///
    /// Errors: before the first connection, what needs an operator; [`SourceError::Stopped`]. After
    /// an error it returns the same again.
    pub async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(event);
            }
            self.connected().await?;
            let Link::Up(up) = &mut self.link else {
                continue;
            };
            match up.receive(&self.shared).await {
                Ok(received) => {
                    if let Some(event) = self.deliver(received) {
                        return Ok(event);
                    }
                }
                Err(SourceError::Stopped) => return Err(SourceError::Stopped),
                Err(error) => self.disconnect(error),
            }
        }
    }

    /// The next event if it has arrived already: for batches. Bound them, it never yields to the
    /// runtime.
    pub fn try_next(&mut self) -> Option<Event> {
        if let Some(event) = self.waiting.pop_front() {
            return Some(event);
        }
        loop {
            let Link::Up(up) = &mut self.link else {
                return None;
            };
            let Some(received) = up.stream.try_recv() else {
                up.note_heard();
                return None;
            };
            match received {
                Ok(received) => {
                    up.heard = true;
                    if let Some(event) = self.deliver(received) {
                        return Some(event);
                    }
                }
                Err(error) => self.disconnect(error),
            }
        }
    }

    /// Everything that ends at or before `lsn` has been dealt with; Postgres may forget it. Only for
    /// a `Commit.end_lsn` or the LSN of an [`Event::Idle`]: see the crate's documentation. A lower
    /// one than before, or one beyond what was delivered, is not taken literally.
    pub fn acknowledge(&mut self, lsn: Lsn) {
        let lsn = lsn.min(self.delivered);
        if lsn <= self.memory.known.acknowledged {
            return;
        }
        self.memory.known.acknowledged = lsn;
        self.shared.progress.set_acknowledged(lsn);
        if let Link::Up(up) = &self.link {
            up.stream.acknowledge(lsn);
            self.shared.progress.set_confirmed(up.stream.confirmed());
        }
    }

    /// Gives the connection up and makes a new one, which sends again what was not acknowledged:
    /// what came made no sense.
    pub fn restart(&mut self, reason: impl std::fmt::Display) {
        self.disconnect(SourceError::Protocol(reason.to_string()));
    }

    /// Where the stream stands; for readiness and for people.
    pub fn state(&self) -> watch::Receiver<StreamState> {
        self.shared.state.subscribe()
    }

    /// Figures, to be read at any time.
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.shared.progress)
    }

    /// Where the present or last connection began to stream.
    pub fn started_at(&self) -> Lsn {
        self.started_at
    }

    /// The server of the present or last connection; with a [`Gap`] it may be another one.
    pub fn server(&self) -> Option<&ServerIdentity> {
        self.memory.known.identity.as_ref()
    }

    /// Ends the stream in order: the last acknowledgement reaches Postgres, if that takes no longer
    /// than three seconds.
    pub async fn close(mut self) {
        let acknowledged = self.memory.known.acknowledged;
        if let Link::Up(up) = std::mem::replace(&mut self.link, Link::Down) {
            drop(up.monitor);
            up.stream.close(acknowledged, Duration::from_secs(3)).await;
        }
    }

    /// Waits until there is a connection.
    async fn connected(&mut self) -> Result<(), SourceError> {
        loop {
            let result = match &mut self.link {
                Link::Up(_) => return Ok(()),
                Link::Ended(error) => return Err(error.clone()),
                Link::Down => {
                    let task = connect::connect(Arc::clone(&self.shared), self.memory.clone());
                    self.link = Link::Connecting(tokio::spawn(task));
                    continue;
                }
                // kept in `link` while it is awaited: dropping this future loses nothing
                Link::Connecting(task) => task.await,
            };
            match result {
                Ok(Ok(session)) => self.take(session),
                Ok(Err(error)) => self.end(error),
                Err(_) => self.end(SourceError::Stopped), // the runtime shuts down
            }
        }
    }

    fn take(&mut self, session: Session) {
        let shared = &self.shared;
        let memory = &mut self.memory;
        if memory.connected_before {
            self.waiting.push_back(Event::Restarted);
        }
        if let Some(gap) = session.gap {
            tracing::error!(
                reason = gap.reason.name(), after = %gap.after, resumes_at = %gap.resumes_at,
                "changes may be missing from the stream"
            );
            shared.progress.count_gap();
            if gap.reason != GapReason::PublicationRecreated || gap.resumes_at > self.delivered {
                // another order of LSNs, or a part that will never come: start from there
                self.delivered = gap.resumes_at;
                memory.known.acknowledged = gap.resumes_at;
                shared.progress.set_acknowledged(gap.resumes_at);
                shared.progress.set_received(gap.resumes_at);
            }
            self.waiting.push_back(Event::Gap(gap));
        }
        self.delivered = self.delivered.max(session.start);
        self.started_at = session.start;
        *memory = Memory {
            known: Known {
                acknowledged: memory.known.acknowledged,
                identity: Some(session.identity),
                publication_oid: Some(session.publication_oid),
            },
            connected_before: true,
            last_backend: Some(session.backend),
            backoff: session.backoff,
            ..Memory::default()
        };
        shared.progress.count_connection();
        let now = Instant::now();
        shared.set_state(StreamState::Streaming {
            since: now.into_std(),
            alarm: None,
        });
        tracing::info!(slot = %shared.config.slot.name(), start = %session.start, "replication stream started");
        self.link = Link::Up(Up {
            stream: session.stream,
            monitor: Monitor::start(
                Arc::clone(shared),
                session.sql,
                session.target,
                session.publication_oid,
            ),
            since: now,
            last_heard: now,
            heard: false,
        });
    }

    fn deliver(&mut self, received: Received) -> Option<Event> {
        match received {
            Received::Message(message) => {
                match &message {
                    Message::Commit(commit) => self.reached(commit.end_lsn),
                    Message::Begin(begin) => {
                        self.shared.progress.set_commit_time(begin.commit_time);
                    }
                    _ => {}
                }
                Some(Event::Message(message))
            }
            Received::Idle(lsn) => {
                self.reached(lsn);
                Some(Event::Idle(lsn))
            }
            Received::Alive => None,
        }
    }

    fn reached(&mut self, lsn: Lsn) {
        self.delivered = self.delivered.max(lsn);
        self.shared.progress.set_received(lsn);
    }

    fn disconnect(&mut self, error: SourceError) {
        let Link::Up(up) = std::mem::replace(&mut self.link, Link::Down) else {
            return;
        };
        let lived = up.since.elapsed();
        tracing::warn!(%error, seconds = lived.as_secs(), "replication stream ended");
        let publication = &self.shared.config.publication;
        self.memory.session_ended(error, lived, publication);
    }

    fn end(&mut self, error: SourceError) {
        self.shared.set_state(match &error {
            SourceError::Stopped => StreamState::Stopped,
            other => StreamState::Blocked {
                error: other.to_string(),
            },
        });
        self.link = Link::Ended(error);
    }
}

impl Up {
    /// Before the consumer turns to something that may take long, and after it.
    fn note_heard(&mut self) {
        if std::mem::take(&mut self.heard) {
            self.last_heard = Instant::now();
        }
    }

    async fn receive(&mut self, shared: &Shared) -> Result<Received, SourceError> {
        self.note_heard();
        let silence = shared.config.silence_max;
        let received = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return Err(SourceError::Stopped),
            received = self.stream.recv() => received?,
            error = self.monitor.broken() => return Err(error),
            () = tokio::time::sleep_until(self.last_heard + silence) => {
                return Err(SourceError::Timeout {
                    during: "listening to the server",
                    seconds: silence.as_secs(),
                });
            }
        };
        self.heard = true;
        Ok(received)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.shared.stop.cancel(); // a task that connects ends itself in order
        self.shared.set_state(StreamState::Stopped);
    }
}
