//! The rows that a subscriber may see, then its changes from exactly there.
//!
//! The subscription becomes live first, behind a closed gate; then the rows are read, as of one
//! moment. A change that waits at the gate is in the rows already if their snapshot sees its
//! transaction, and follows otherwise.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tracing::info;
use walcast_change::{Cursor, Position, Row, Shape};
use walcast_hub::{Pushed, Skip};
use walcast_protocol::{Code, Notice, Refusal, SnapshotRows, codec_of};
use walcast_rls::{ReadError, ReadLimits, Reading, TableReader};

use crate::describe::Describe;
use crate::order::{Attached, Order, Orders};
use crate::session::text_frame;

/// What reads snapshots. One for all sessions.
pub(crate) struct Snapshots {
    pub(crate) reader: TableReader,
    pub(crate) describe: Mutex<Describe>,
    pub(crate) limits: ReadLimits,
    /// Everything up to here has been published.
    pub(crate) published: watch::Receiver<Position>,
    pub(crate) orders: Orders,
}

/// A snapshot that was begun.
pub(crate) struct Snapshot {
    attached: Attached,
    reading: Reading,
}

/// How long one that reads may take to empty its outbox.
const READER_PATIENCE: Duration = Duration::from_secs(30);
/// How long the stream is waited for to come where the rows were read, so that the position at the
/// end of the snapshot is behind all that is in it.
const STREAM_PATIENCE: Duration = Duration::from_secs(1);

impl Snapshots {
    /// Begins to read, for a subscription that is live behind a closed gate.
    pub(crate) async fn open(&self, attached: Attached) -> Result<Snapshot, Refusal> {
        let channel = attached.spec.channel.clone();
        let failed = |code, text: &str| Refusal::new(code, text).on(&*channel);
        let target = &attached.spec.target;
        let Some(table) = &target.table else {
            let text = "a snapshot needs one table; schema.* has many";
            return Err(failed(Code::SnapshotFailed, text));
        };
        let described = async { self.describe.lock().await.table(&target.schema, table).await };
        let shape = described.await.ok_or_else(|| {
            let text = "the table can't be read at the moment; try again";
            failed(Code::SnapshotFailed, text)
        })?;
        let reading = self.read(&attached, &shape).await;
        let reading = reading.map_err(|error| refusal(&error, &attached))?;
        Ok(Snapshot {
            attached,
            reading,
        })
    }

    async fn read(&self, attached: &Attached, shape: &Arc<Shape>) -> Result<Reading, ReadError> {
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
        let (viewer, limits) = (&attached.viewer, self.limits);
        self.reader
            .read(viewer, shape, asked.as_ref(), condition.as_deref(), limits)
            .await
    }

    /// Sends all rows, then opens the gate. If that fails, the subscription ends and is told so.
    pub(crate) async fn send(self: Arc<Self>, mut snapshot: Snapshot) {
        match self.rows(&mut snapshot).await {
            Ok(rows) => self.go_live(snapshot, rows).await,
            Err(refusal) => {
                let Attached {
                    id, spec, outbox, ..
                } = snapshot.attached;
                outbox.push(text_frame(|out| {
                    codec_of(spec.format).refusal(&refusal, out);
                }));
                let (done, _) = tokio::sync::oneshot::channel();
                let _ = self.orders.send(Order::Unsubscribe(id, done)).await;
            }
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

    async fn hand_over(
        &self,
        snapshot: &Snapshot,
        rows: &[Row],
        sent: u64,
    ) -> Result<(), Refusal> {
        let Attached {
            id, spec, outbox, ..
        } = &snapshot.attached;
        let message = SnapshotRows {
            channel: &spec.channel,
            id: *id,
            rows,
            columns: snapshot.reading.columns(),
            sent,
        };
        let frame = text_frame(|out| codec_of(spec.format).snapshot(&message, out));
        match outbox.push(frame) {
            Pushed::Queued => {}
            Pushed::Crowded => outbox.relieved(READER_PATIENCE).await,
            Pushed::Closed => {
                let text = "the connection has ended";
                return Err(Refusal::new(Code::SnapshotFailed, text));
            }
        }
        Ok(())
    }

    async fn go_live(&self, snapshot: Snapshot, rows: u64) {
        let (lsn, seen) = (snapshot.reading.lsn(), snapshot.reading.snapshot().clone());
        let mut published = self.published.clone();
        let come = published.wait_for(|position| position.cursor.commit_lsn >= lsn);
        let _ = timeout(STREAM_PATIENCE, come).await;
        let place = *published.borrow();
        let Attached {
            id,
            spec,
            outbox,
            gate,
            ..
        } = snapshot.attached;
        let mark = |last: Option<Cursor>| {
            let notice = Notice::SnapshotComplete {
                channel: &spec.channel,
                id,
                rows,
                position: Position {
                    cursor: place.cursor.max(last.unwrap_or_default()),
                    ..place
                },
            };
            text_frame(|out| codec_of(spec.format).notice(&notice, out))
        };
        let skip = Skip {
            until: lsn,
            has: Box::new(move |_, xid| seen.sees(xid)),
        };
        if let Some(gate) = gate {
            gate.open(Some(skip), mark, &outbox);
        }
    }
}

fn refusal(error: &ReadError, attached: &Attached) -> Refusal {
    info!(
        connection = attached.connection.0,
        subscription = attached.id.0,
        reason = %error.reason(),
        "no snapshot"
    );
    let code = match error.is_too_large() {
        true => Code::SnapshotTooLarge,
        false => Code::SnapshotFailed,
    };
    Refusal::new(code, error.to_string()).on(&*attached.spec.channel)
}
