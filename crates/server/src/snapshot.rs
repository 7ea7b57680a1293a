//! The rows that a subscriber may see, then its changes from exactly there.
//!
//! The rows are read as of one moment, after a place in the stream was noted. Then the subscription
//! is caught up from that place like one that comes back, except for the changes of transactions
//! that the snapshot saw: these are in the rows. So a snapshot may take long while the table is
//! busy, and nothing has to wait in memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep};
use tracing::info;
use walcast_change::{Position, Row, Shape};
use walcast_hub::{Pushed, Skip};
use walcast_protocol::{Code, Notice, Refusal, SnapshotRows, codec_of};
use walcast_rls::{ReadError, ReadLimits, Reading, TableReader, Viewer};

use crate::describe::Describe;
use crate::order::Attached;
use crate::recent::Recent;
use crate::replay::{Replay, Resume};
use crate::seldom::Seldom;
use crate::session::text_frame;
use crate::walker::{InHand, Said, dismiss};

/// What reads snapshots. One for all sessions.
pub(crate) struct Snapshots {
    pub(crate) reader: TableReader,
    pub(crate) describe: Mutex<Describe>,
    pub(crate) limits: ReadLimits,
    /// Everything up to here has been published.
    pub(crate) published: watch::Receiver<Position>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) replay: Replay,
}

/// A snapshot that was begun.
pub(crate) struct Snapshot {
    attached: Attached,
    reading: Reading,
    /// Whose rows they are: see [`Standing::judged`](walcast_hub::Standing::judged).
    turn: u64,
    /// What came up to here is in the rows.
    pub(crate) place: Position,
}

/// How long one that reads may take to empty its outbox.
const READER_PATIENCE: Duration = Duration::from_secs(30);
/// How long a transaction may be invisible that the stream has told of already.
const VISIBLE_PATIENCE: Duration = Duration::from_secs(5);

static REFUSED: Seldom = Seldom::new();

impl Snapshots {
    /// Begins to read.
    pub(crate) async fn open(&self, attached: Attached) -> Result<Snapshot, Refusal> {
        let channel = attached.spec.channel.clone();
        let failed = |code, text: &str| Refusal::new(code, text).on(&*channel);
        let target = &attached.spec.target;
        let Some(table) = &target.table else {
            let text = "a snapshot needs one table; schema.* has many";
            return Err(failed(Code::SnapshotFailed, text));
        };
        if !self.replay.is_kept() {
            let text =
                "this server keeps no log of changes (setting log_dir), so it has no snapshots";
            return Err(failed(Code::SnapshotFailed, text));
        }
        let described = async {
            self.describe
                .lock()
                .await
                .table(&target.schema, table)
                .await
        };
        let shape = described.await.ok_or_else(|| {
            let text = "the table can't be read at the moment; try again";
            failed(Code::SnapshotFailed, text)
        })?;
        let (viewer, turn) = attached.member.standing.judged();
        let end = Instant::now() + VISIBLE_PATIENCE;
        let mut pause = Duration::from_millis(1);
        loop {
            // In this order: what is published is among the recent ones.
            let place = *self.published.borrow();
            if let Some(recent) = self.recent.xids() {
                let reading = self.read(&attached, &viewer, &shape).await;
                let reading = reading.map_err(|error| refusal(&error, &attached))?;
                let seen = reading.snapshot();
                self.recent.forget(seen);
                if recent.into_iter().all(|xid| seen.sees(xid)) {
                    return Ok(Snapshot {
                        attached,
                        reading,
                        turn,
                        place,
                    });
                }
            }
            if Instant::now() > end {
                let text = "a transaction is not visible yet, perhaps because of a synchronous standby; try again";
                return Err(failed(Code::SnapshotFailed, text));
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    async fn read(
        &self,
        attached: &Attached,
        viewer: &Viewer,
        shape: &Arc<Shape>,
    ) -> Result<Reading, ReadError> {
        let filter = attached.spec.filter.as_ref();
        let condition = filter.map(|filter| {
            let column = |name: &Arc<str>| Some(shape.columns.get(shape.column(name)?)?.type_oid);
            let types: Option<Vec<u32>> = filter.columns().map(column).collect();
            types.map(|types| filter.to_sql(&types))
        });
        let asked = attached.spec.columns.as_ref().map(|names| {
            let named = names.iter().filter_map(|name| shape.column(name));
            named.chain(shape.key.iter()).collect()
        });
        let condition = condition.flatten();
        let asked = asked.as_ref();
        self.reader
            .read(viewer, shape, asked, condition.as_deref(), self.limits)
            .await
    }

    /// Sends all rows, then has the subscription caught up. If that fails, it is told so, and has
    /// not begun.
    pub(crate) async fn send(self: Arc<Self>, mut snapshot: Snapshot) {
        let InHand(attached) = &InHand(snapshot.attached.clone());
        let done = match self.rows(&mut snapshot).await {
            Ok(rows) => self.go_live(snapshot, rows).await,
            Err(refusal) => Err(refusal),
        };
        if let Err(refusal) = done
            && !attached.has_ended()
        {
            dismiss(attached, &refusal);
        }
    }

    async fn rows(&self, snapshot: &mut Snapshot) -> Result<u64, Refusal> {
        let mut sent = 0;
        loop {
            let chunk = snapshot.reading.next_chunk().await;
            let Some(mut rows) = chunk.map_err(|error| refusal(&error, &snapshot.attached))? else {
                return Ok(sent);
            };
            if let Some(filter) = &snapshot.attached.spec.filter {
                // Postgres was asked for what its SQL can say of the filter.
                rows.retain(|row| filter.selects(row) == Some(true));
            }
            if rows.is_empty() {
                continue;
            }
            sent += rows.len() as u64;
            self.hand_over(snapshot, &rows, sent).await?;
        }
    }

    async fn hand_over(&self, snapshot: &Snapshot, rows: &[Row], sent: u64) -> Result<(), Refusal> {
        let Attached {
            id, spec, member, ..
        } = &snapshot.attached;
        let message = SnapshotRows {
            channel: &spec.channel,
            id: *id,
            rows,
            format: spec.format,
            columns: snapshot.reading.columns(),
            sent,
        };
        let frame = text_frame(|out| codec_of(spec.format).snapshot(&message, out));
        let outbox = &member.outbox;
        // To end this task takes a moment, in which nobody else is to be sent these rows.
        let pushed = member
            .standing
            .in_turn(snapshot.turn, || outbox.push(frame));
        match pushed {
            Some(Pushed::Queued) => {}
            Some(Pushed::Crowded) => outbox.relieved(READER_PATIENCE).await,
            Some(Pushed::Closed) | None => {
                let text = "the subscription has ended";
                return Err(Refusal::new(Code::SnapshotFailed, text));
            }
        }
        Ok(())
    }

    async fn go_live(&self, snapshot: Snapshot, rows: u64) -> Result<(), Refusal> {
        let Snapshot {
            attached,
            reading,
            place,
            ..
        } = snapshot;
        let seen = reading.snapshot().clone();
        let had = Skip::seen(reading.lsn(), move |xid| seen.sees(xid));
        // Its session in Postgres is free for the next one.
        drop(reading);
        let (id, spec) = (attached.id, attached.spec.clone());
        let caught_up: Said = Box::new(move |position| {
            let notice = Notice::SnapshotComplete {
                channel: &spec.channel,
                id,
                rows,
                position,
            };
            text_frame(|out| codec_of(spec.format).notice(&notice, out))
        });
        let resume = Resume {
            attached,
            since: place,
            had: Some(had),
            acknowledge: None,
            caught_up: Some(caught_up),
        };
        self.replay.resume(resume).await
    }
}

fn refusal(error: &ReadError, attached: &Attached) -> Refusal {
    if let Some(left_out) = REFUSED.due() {
        info!(
            connection = attached.connection.0,
            subscription = attached.id.0,
            reason = %error.reason(),
            left_out,
            "no snapshot"
        );
    }
    let code = match error.is_too_large() {
        true => Code::SnapshotTooLarge,
        false => Code::SnapshotFailed,
    };
    Refusal::new(code, error.to_string()).on(&*attached.spec.channel)
}
