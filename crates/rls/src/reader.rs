//! The rows of a table as they are now, for one viewer: what its SELECT would give, as of one moment.
//!
//! A reading is one transaction of its viewer: `REPEATABLE READ READ ONLY`, the role and the claims
//! set as for a check, and one `COPY (SELECT …) TO STDOUT` over the table itself, so Postgres applies
//! the policies and privileges. Values print as in the replication stream: the settings that decide
//! about it are the same.
//!
//! How it fits the stream: [`Reading::snapshot`] tells of each transaction whether its changes are in
//! the rows, and [`Reading::lsn`] lies behind the commit of each that is. So a change that commits at
//! or after `lsn`, or whose transaction the snapshot does not see, comes after these rows; any other is
//! in them. What is in the WAL counts, not what is flushed: a transaction that commits asynchronously
//! is visible before it is written out, and `pg_current_wal_lsn()` would lie before its commit.
//!
//! A function that a policy calls can change who the statement runs as. Where policies apply, each row
//! brings along whether role and claims were in force when it had passed them, and the reading ends
//! with [`ReadError::Escaped`] before the first row for which they were not; the same is asked once
//! more at the end. Afterwards the session is cleared (`DISCARD ALL`) or replaced.
//!
//! Flow: `pool` (who may read now) → `work` (the transaction, in a task of its own) → `table` (what is
//! asked) → `rows` (COPY's lines as rows) → [`Reading`].

mod error;
mod pool;
mod rows;
mod table;
mod work;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use walcast_change::{ColumnSet, Row, Shape};
use walcast_pgoutput::Lsn;

pub use error::ReadError;

use crate::reader::pool::Pool;
use crate::reader::work::{Job, Opened, Piece};
use crate::snapshot::PgSnapshot;
use crate::{CheckConfig, Viewer, role};

/// Reads tables on behalf of viewers. Cheap to clone; the clones share the sessions and the bounds.
#[derive(Clone)]
pub struct TableReader {
    pool: Arc<Pool>,
}

/// How many may read.
#[derive(Clone, Copy, Debug)]
pub struct ReaderBounds {
    /// Readings at the same time, each in a session of its own.
    pub readings_max: usize,
    /// Who else may wait for one of these. More are refused.
    pub waiting_max: usize,
}

impl Default for ReaderBounds {
    fn default() -> ReaderBounds {
        ReaderBounds {
            readings_max: 4,
            waiting_max: 1000,
        }
    }
}

/// How much one reading may give.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    pub rows_max: u64,
    /// Of the values as Postgres prints them, with five bytes more for each.
    pub bytes_max: u64,
    /// From the call to the last row, with the time spent waiting for a session or for the reader of
    /// the rows: an open snapshot keeps Postgres from cleaning up.
    pub time_max: Duration,
}

/// Chunks that are read ahead of who takes them.
const CHUNKS_AHEAD: usize = 2;

impl TableReader {
    /// Sessions are opened when they are needed, by `config.connector`. Of `config` count as well:
    /// the roles, the `search_path`, and `lock_timeout`.
    pub fn new(config: CheckConfig, bounds: ReaderBounds) -> TableReader {
        TableReader {
            pool: Arc::new(Pool::new(config, bounds)),
        }
    }

    /// Begins to read the table that `shape` describes (by its OID, so also when it was renamed).
    /// Returns when Postgres has sent the first rows; dropped before that, everything is cancelled.
    ///
    /// `columns`: positions in the shape; `None` means all. Those of the key are always given, those
    /// that the role may not SELECT never: they are [`Cell::Missing`](walcast_change::Cell).
    /// `where_sql`: an SQL condition on the table's columns, which the caller makes and quotes; the
    /// operators in it stand with their schema (`OPERATOR(pg_catalog.=)`), for the application's
    /// `search_path` is in force. The role needs SELECT on the columns in it.
    ///
    /// Whether the table is published is not asked here: [`Access::table`](crate::Access::table).
    pub async fn read(
        &self,
        viewer: &Viewer,
        shape: &Arc<Shape>,
        columns: Option<&ColumnSet>,
        where_sql: Option<&str>,
        limits: ReadLimits,
    ) -> Result<Reading, ReadError> {
        let config = self.pool.config();
        role::check_name(&viewer.role, config)
            .map_err(|refusal| ReadError::Denied(crate::Denial::Role(refusal)))?;
        let deadline = Instant::now() + limits.time_max;
        let seat = self.pool.seat(deadline).await?;
        let (opened, opening) = oneshot::channel();
        let (pieces, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let job = Job {
            viewer: viewer.clone(),
            shape: shape.clone(),
            columns: columns.cloned(),
            filter: where_sql.map(str::to_owned),
            limits,
            deadline,
        };
        tokio::spawn(work::run(job, seat, opened, pieces));
        let opened = opening.await.map_err(|_| ReadError::gone())??;
        Ok(Reading {
            opened,
            chunks,
            ended: false,
        })
    }
}

/// The rows of one [`TableReader::read`]. Dropped before its end, its statement is cancelled.
pub struct Reading {
    opened: Opened,
    chunks: mpsc::Receiver<Piece>,
    ended: bool,
}

impl Reading {
    /// Which transactions' changes are in the rows.
    pub fn snapshot(&self) -> &PgSnapshot {
        &self.opened.snapshot
    }

    /// Every transaction that the snapshot sees has a commit LSN before this one.
    pub fn lsn(&self) -> Lsn {
        self.opened.lsn
    }

    /// Positions in the shape of the columns that the rows have.
    pub fn columns(&self) -> &Arc<ColumnSet> {
        &self.opened.columns
    }

    /// The next rows, in no order: some, at most 1,000 or about 256 KiB (one row may be larger).
    /// They share one buffer. `None`: these were all. An error takes back nothing of what was given
    /// before, but the rows are not complete then.
    pub async fn next_chunk(&mut self) -> Result<Option<Vec<Row>>, ReadError> {
        if self.ended {
            return Ok(None);
        }
        match self.chunks.recv().await {
            Some(Piece::Rows(rows)) => Ok(Some(rows)),
            Some(Piece::End) => {
                self.ended = true;
                Ok(None)
            }
            Some(Piece::Failed(error)) => Err(error),
            None => Err(ReadError::gone()),
        }
    }
}
