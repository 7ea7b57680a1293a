//! A client that writes down everything it hears, and comes back with its last cursor whenever its
//! connection ends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use crate::book::{Rows, apply};
use crate::socket::Socket;
use crate::subscriber::{Desk, Subscriber};
use crate::transcript::{Connection, Heard, Segment, Transcript, cursor};

/// How long a handshake and an acknowledgement may take before the client tries again.
const ANSWER: Duration = Duration::from_secs(20);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(100);
/// A connection on which nothing at all arrives for so long is given up. Nothing does while Postgres
/// restarts, and some scenarios assert that nobody connected anew.
const SILENCE: Duration = Duration::from_secs(300);
/// How many reasons of ended connections are kept.
const ENDS_MAX: usize = 1000;

/// How a client gets at what is there already when it begins anew.
#[derive(Clone)]
pub enum Beginning {
    /// By a `SELECT` as its role, after the acknowledgement.
    Select(Arc<Desk>),
    /// It asks the server: `snapshot: true`.
    Snapshot,
    /// The table is known to be empty, or its state is of no interest.
    Nothing,
}

/// Where, who and how.
#[derive(Clone)]
pub struct Recording {
    /// `ws://…/realtime`
    pub url: String,
    pub subscriber: Subscriber,
    /// Of the server's tokens.
    pub secret: String,
    pub beginning: Beginning,
    /// Comes back with its last cursor; otherwise begins anew each time.
    pub resumes: bool,
}

/// What can be waited for.
#[derive(Clone, Debug, Default)]
pub struct Heed {
    /// Subscriptions that were acknowledged.
    pub acknowledged: usize,
    /// How often it began anew, the first time counted.
    pub began: usize,
    pub connected: bool,
    pub events: usize,
    /// Events of the subscription at hand.
    pub fresh: usize,
    /// The marks that were received: ids of rows that everybody may see.
    pub marks: HashSet<i64>,
}

/// A recording client. Stopped when dropped.
pub struct Recorder {
    pub subscriber: Subscriber,
    heed: watch::Receiver<Heed>,
    pause: watch::Sender<bool>,
    stop: CancellationToken,
    task: JoinHandle<Transcript>,
}

impl Recorder {
    /// Begins; does not wait for the first acknowledgement.
    pub fn start(recording: Recording) -> Result<Recorder> {
        let subscriber = recording.subscriber;
        let token = subscriber.token(&recording.secret)?;
        let (tell, heed) = watch::channel(Heed::default());
        let (pause, paused) = watch::channel(false);
        let stop = CancellationToken::new();
        let tape = Tape {
            address: format!("{}?token={token}", recording.url),
            recording,
            since: None,
            transcript: Transcript::default(),
            tell,
            paused,
        };
        let task = tokio::spawn(tape.run(stop.clone()));
        Ok(Recorder {
            subscriber,
            heed,
            pause,
            stop,
            task,
        })
    }

    /// Waits until `wanted` holds.
    pub async fn heeds(&self, wanted: impl FnMut(&Heed) -> bool, deadline: Duration) -> Result<()> {
        let mut heed = self.heed.clone();
        // The guard must be gone before the channel is looked at again: a waiting writer is between.
        let waited = timeout(deadline, heed.wait_for(wanted))
            .await
            .map(|found| found.map(drop));
        waited.with_context(|| format!("{:?} stands at {:?}", self.subscriber, self.now()))??;
        Ok(())
    }

    /// Waits for its next subscription to be acknowledged, or the first.
    pub async fn subscribed(&self, deadline: Duration) -> Result<()> {
        self.heeds(|heed| heed.connected, deadline).await
    }

    /// Where it stands.
    pub fn now(&self) -> Heed {
        self.heed.borrow().clone()
    }

    /// Stops reading, or goes on; the connection stays open.
    pub fn stall(&self, stalled: bool) {
        self.pause.send_replace(stalled);
    }

    /// Ends it and returns what it wrote down.
    pub async fn finish(self) -> Result<Transcript> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

/// The recorder's own side.
struct Tape {
    recording: Recording,
    address: String,
    /// The last position heard, word for word.
    since: Option<String>,
    transcript: Transcript,
    tell: watch::Sender<Heed>,
    paused: watch::Receiver<bool>,
}

/// Why a connection is left.
enum Left {
    /// It ended, or is no good: come back with the cursor.
    Ended(String),
    /// What was missed can't be had: begin anew.
    Gap(String),
}

impl From<anyhow::Error> for Left {
    fn from(error: anyhow::Error) -> Left {
        Left::Ended(format!("{error:#}"))
    }
}

impl Tape {
    async fn run(mut self, stop: CancellationToken) -> Transcript {
        while let Some(left) = stop.run_until_cancelled(self.connection()).await {
            self.tell.send_modify(|heed| heed.connected = false);
            match left {
                Left::Gap(reason) => {
                    self.since = None;
                    self.transcript.gaps.push(reason);
                }
                Left::Ended(reason) => {
                    if !self.recording.resumes && self.since.take().is_some() {
                        self.transcript.gaps.push("does not resume".into());
                    }
                    if self.transcript.ends.len() < ENDS_MAX {
                        self.transcript.ends.push(reason);
                    }
                    sleep(PAUSE).await;
                }
            }
        }
        self.transcript
    }

    /// One connection, from its handshake to its end.
    async fn connection(&mut self) -> Left {
        match self.follow().await {
            Ok(never) => match never {},
            Err(left) => left,
        }
    }

    async fn follow(&mut self) -> Result<std::convert::Infallible, Left> {
        let mut socket = timeout(ANSWER, Socket::connect(&self.address))
            .await
            .context("no handshake")
            .and_then(|connected| connected)?;
        let mut ask = json!({ "type": "subscribe", "channel": "table:ledger" });
        let snapshot = matches!(self.recording.beginning, Beginning::Snapshot);
        match &self.since {
            Some(since) => ask["since"] = since.as_str().into(),
            None if snapshot => ask["snapshot"] = true.into(),
            None => {}
        }
        socket.send_json(&ask).await?;
        let answer = hear(&mut socket, ANSWER).await?;
        self.acknowledged(&answer)?;
        if self.since.is_none() {
            self.begin(&mut socket, &answer, snapshot).await?;
        }
        self.tell.send_modify(|heed| {
            heed.connected = true;
            heed.acknowledged += 1;
            heed.fresh = 0;
        });
        loop {
            // Whoever holds the other end may be gone, which unstalls.
            let _ = self.paused.wait_for(|paused| !paused).await;
            let heard = hear(&mut socket, SILENCE).await?;
            self.take(&heard)?;
        }
    }

    fn acknowledged(&mut self, answer: &Heard) -> Result<(), Left> {
        let resumed = self.since.is_some();
        match (answer.kind.as_str(), answer.code.as_str()) {
            ("ack", _) if resumed && !answer.recovered => {
                return Err(Left::Gap("not recovered".into()));
            }
            ("ack", _) => {}
            (_, "CURSOR_TOO_OLD" | "EPOCH_CHANGED") => {
                return Err(Left::Gap(answer.code.clone()));
            }
            _ => return Err(Left::Ended(format!("not acknowledged: {answer:?}"))),
        }
        self.transcript.connections.push(Connection {
            acknowledged: Instant::now(),
            resumed,
            first_event: None,
            caught_up: None,
        });
        Ok(())
    }

    async fn begin(
        &mut self,
        socket: &mut Socket,
        ack: &Heard,
        snapshot: bool,
    ) -> Result<(), Left> {
        let (rows, from) = match &self.recording.beginning {
            Beginning::Nothing => (Rows::new(), ack.cursor.clone()),
            Beginning::Select(desk) => {
                let rows = desk.rows(self.recording.subscriber, SILENCE).await?;
                (rows, ack.cursor.clone())
            }
            Beginning::Snapshot if snapshot => self.read_snapshot(socket).await?,
            Beginning::Snapshot => (Rows::new(), ack.cursor.clone()),
        };
        self.transcript.segments.push(Segment {
            from: cursor(&from)?,
            rows,
            is_snapshot: snapshot,
            events: Vec::new(),
        });
        self.since = Some(from);
        self.tell.send_modify(|heed| heed.began += 1);
        Ok(())
    }

    /// The rows, with the changes that came since they were read: up to the last message's place.
    async fn read_snapshot(&mut self, socket: &mut Socket) -> Result<(Rows, String), Left> {
        let mut rows = Rows::new();
        let mut last = None;
        loop {
            let heard = hear(socket, SILENCE).await?;
            match (heard.kind.as_str(), heard.event.as_str()) {
                ("snapshot", _) if last.is_none() => {
                    let records = heard.payload.records.iter();
                    rows.extend(records.filter_map(|row| Some((row.id, row.version?))));
                }
                ("broadcast", _) => {
                    let received = heard.payload.received()?;
                    if last.replace(received.cursor) >= Some(received.cursor) || received.torn {
                        let wrong = format!("within a snapshot: {received:?}");
                        self.transcript.gaps.push(wrong); // no scenario of snapshots has a right to one
                    }
                    apply(&received.view, &mut rows);
                }
                ("system", "snapshot_complete") => return Ok((rows, heard.cursor)),
                _ => return Err(Left::Ended(format!("no snapshot: {heard:?}"))),
            }
        }
    }

    fn take(&mut self, heard: &Heard) -> Result<(), Left> {
        match (heard.kind.as_str(), heard.event.as_str()) {
            ("broadcast", _) => self.write_down(heard)?,
            ("system", "gap") => return Err(Left::Gap(heard.reason.clone())),
            ("system", "caught_up") => {
                if let Some(connection) = self.transcript.connections.last_mut() {
                    connection.caught_up = Some(Instant::now());
                }
            }
            ("error", _) => return Err(Left::Ended(format!("{heard:?}"))),
            _ => {}
        }
        Ok(())
    }

    fn write_down(&mut self, heard: &Heard) -> Result<(), Left> {
        let received = heard.payload.received()?;
        self.since = Some(heard.payload.cursor.clone());
        if let Some(connection) = self.transcript.connections.last_mut() {
            connection.first_event.get_or_insert_with(Instant::now);
        }
        if let Some(segment) = self.transcript.segments.last_mut() {
            segment.events.push(received);
        }
        self.tell.send_modify(|heed| {
            heed.events += 1;
            heed.fresh += 1;
            if received.view.id < 0 {
                heed.marks.insert(received.view.id);
            }
        });
        Ok(())
    }
}

/// The next message of the protocol. Errors: anything else, with a close's code and reason.
async fn hear(socket: &mut Socket, deadline: Duration) -> Result<Heard> {
    match socket.next(deadline).await? {
        Message::Text(text) => {
            serde_json::from_str(&text).with_context(|| format!("not understood: {text}"))
        }
        Message::Close(Some(frame)) => anyhow::bail!("close {}: {}", frame.code, frame.reason),
        other => anyhow::bail!("not a text frame: {other:?}"),
    }
}
