//! The transaction of one reading.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use postgres_types::Type;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use walcast_change::{ColumnSet, Row, Shape};
use walcast_pgoutput::Lsn;

use crate::lane::{ASSERTION, Lane};
use crate::literal::text;
use crate::reader::pool::Seat;
use crate::reader::rows::{BadLine, Rows};
use crate::reader::table::Table;
use crate::reader::{ReadError, ReadLimits};
use crate::snapshot::PgSnapshot;
use crate::{CheckConfig, Viewer};

/// What is to be read.
pub(crate) struct Job {
    pub(crate) viewer: Viewer,
    pub(crate) shape: Arc<Shape>,
    pub(crate) columns: Option<ColumnSet>,
    pub(crate) filter: Option<String>,
    pub(crate) limits: ReadLimits,
    pub(crate) deadline: Instant,
}

/// Where a reading stands in the stream, and what its rows have.
pub(crate) struct Opened {
    pub(crate) snapshot: PgSnapshot,
    pub(crate) lsn: Lsn,
    pub(crate) columns: Arc<ColumnSet>,
}

/// What comes of a reading after it was opened. [`Piece::Rows`] until one of the others.
pub(crate) enum Piece {
    Rows(Vec<Row>),
    End,
    Failed(ReadError),
}

type Opening = oneshot::Sender<Result<Opened, ReadError>>;

/// Rows and bytes of a chunk: the first that is reached ends it.
const CHUNK_ROWS_MAX: usize = 1000;
const CHUNK_BYTES_MAX: usize = 256 * 1024;

/// As the walsender's session has them, so that values print alike.
const PRINTING: &str = "SET LOCAL datestyle = 'ISO,MDY'; SET LOCAL intervalstyle = 'postgres';
    SET LOCAL timezone = 'UTC'; SET LOCAL bytea_output = 'hex'; SET LOCAL extra_float_digits = 1;
    SET LOCAL lc_monetary = 'C'; SET LOCAL xmlbinary = 'base64'; SET LOCAL row_security = on";

/// Role and claims, and the place in the WAL; the snapshot has been taken before.
const POSITION: &str = "
  SELECT current_user OPERATOR(pg_catalog.=) $1::pg_catalog.name,
         pg_catalog.pg_current_snapshot()::pg_catalog.text,
         pg_catalog.pg_current_wal_insert_lsn()::pg_catalog.text,
         pg_catalog.hashtextextended(pg_catalog.current_setting('request.jwt.claims', true), 0),
         pg_catalog.current_setting('wal_block_size')::pg_catalog.int8,
         pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))";

/// Whether the table and its parts have the name and the files that they had for the snapshot: what
/// the query finds is as of the snapshot, what the functions find is of now, and the lock that COPY
/// took keeps it. A rewritten table looks empty to older snapshots.
///
/// Source: the Postgres manual, "Caveats" of "Concurrency Control".
const UNCHANGED: &str = "
  WITH RECURSIVE part(oid) AS (
    SELECT $1::pg_catalog.oid
     UNION
    SELECT i.inhrelid FROM pg_catalog.pg_inherits i, part p WHERE i.inhparent OPERATOR(pg_catalog.=) p.oid)
  SELECT pg_catalog.bool_and(c.relfilenode OPERATOR(pg_catalog.=) coalesce(pg_catalog.pg_relation_filenode(c.oid), 0::pg_catalog.oid))
     AND pg_catalog.bool_or(c.oid OPERATOR(pg_catalog.=) $1 AND c.oid OPERATOR(pg_catalog.=)
           pg_catalog.to_regclass(pg_catalog.format('%I.%I', n.nspname, c.relname))::pg_catalog.oid)
    FROM part p JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.oid
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace";

/// Reads until the end, an error, the deadline, or nobody wants it any more; then frees the seat.
pub(crate) async fn run(job: Job, mut seat: Seat, opening: Opening, pieces: mpsc::Sender<Piece>) {
    let mut opening = Some(opening);
    let outcome = tokio::select! {
        biased;
        () = pieces.closed() => None,
        outcome = timeout_at(job.deadline, job.read(&mut seat, &mut opening, &pieces)) => {
            Some(outcome.unwrap_or(Err(ReadError::TimedOut)))
        }
    };
    // First the seat: who takes the rows may take its time.
    tokio::spawn(seat.leave(is_idle(&outcome)));
    match (outcome, opening) {
        (None, _) => {}
        (Some(Err(error)), Some(opening)) => drop(opening.send(Err(error))),
        (Some(Err(error)), None) => drop(pieces.send(Piece::Failed(error)).await),
        (Some(Ok(())), _) => drop(pieces.send(Piece::End).await),
    }
}

/// Whether the session has answered everything.
fn is_idle(outcome: &Option<Result<(), ReadError>>) -> bool {
    use ReadError::{Changed, Denied, Failed};
    matches!(
        outcome,
        Some(Ok(()) | Err(Denied(_) | Changed | Failed { .. }))
    )
}

/// A transaction that is ready to give rows.
struct Begun {
    opened: Opened,
    sql: String,
    guarded: bool,
}

impl Job {
    async fn read(
        &self,
        seat: &mut Seat,
        opening: &mut Option<Opening>,
        pieces: &mpsc::Sender<Piece>,
    ) -> Result<(), ReadError> {
        let (lane, config) = seat.session().await?;
        let begun = self.begin(lane, config).await?;
        let columns = &begun.opened.columns;
        let malformed = || ReadError::Unavailable("malformed answer".into());
        let mut rows =
            Rows::new(self.shape.clone(), columns, begun.guarded).ok_or_else(malformed)?;
        let mut lines = pin!(lane.client.copy_out(&begun.sql).await?);
        if let Some(opening) = opening.take() {
            let _ = opening.send(Ok(begun.opened));
        }
        let (mut total, mut bytes) = (0, 0);
        while let Some(line) = lines.next().await {
            rows.push(&line?).map_err(|bad| match bad {
                BadLine::Escaped => ReadError::Escaped,
                BadLine::Malformed => malformed(),
            })?;
            total += 1;
            self.within(total, bytes + rows.size_bytes() as u64)?;
            if rows.len() >= CHUNK_ROWS_MAX || rows.size_bytes() >= CHUNK_BYTES_MAX {
                bytes += rows.size_bytes() as u64;
                let _ = pieces.send(Piece::Rows(rows.take())).await;
            }
        }
        self.end(lane).await?;
        if rows.len() > 0 {
            let _ = pieces.send(Piece::Rows(rows.take())).await;
        }
        Ok(())
    }

    fn within(&self, rows: u64, bytes: u64) -> Result<(), ReadError> {
        let ReadLimits {
            rows_max,
            bytes_max,
            ..
        } = self.limits;
        match (rows > rows_max, bytes > bytes_max) {
            (true, _) => Err(ReadError::TooManyRows { rows_max }),
            (_, true) => Err(ReadError::TooManyBytes { bytes_max }),
            _ => Ok(()),
        }
    }

    /// The lock and the catalogue are those of now; everything else is as of the snapshot, which the
    /// first query takes.
    async fn begin(&self, lane: &Lane, config: &CheckConfig) -> Result<Begun, ReadError> {
        let left = self.deadline.duration_since(Instant::now());
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {};
             SET LOCAL lock_timeout = {}; {PRINTING}",
            left.as_millis().clamp(1, 86_400_000) + 1000, // should we not be there to end it
            config.lock_timeout.as_millis().max(1),
        );
        lane.client.batch_execute(&begin).await?;
        let role = &*self.viewer.role;
        let table = Table::find(&lane.client, self.shape.id.0, role, config).await?;
        let columns = table.readable(&self.shape, self.columns.as_ref())?;
        lane.enter(&self.viewer, "auto").await?;
        let (snapshot, lsn, claims) = self.position(lane).await?;
        let guard = format!(
            "CASE WHEN current_user OPERATOR(pg_catalog.=) {}::pg_catalog.name \
             AND pg_catalog.hashtextextended(pg_catalog.current_setting('request.jwt.claims', true), 0) \
             OPERATOR(pg_catalog.=) '{claims}'::pg_catalog.int8 THEN 1 END",
            text(role)
        );
        let guard = table.secured.then_some(guard.as_str());
        let filter = self.filter.as_deref();
        Ok(Begun {
            sql: table.copy_sql(&self.shape, &columns, filter, guard, &lane.search_path),
            guarded: table.secured,
            opened: Opened {
                snapshot,
                lsn,
                columns: Arc::new(columns),
            },
        })
    }

    /// With the hash of the claims.
    async fn position(&self, lane: &Lane) -> Result<(PgSnapshot, Lsn, i64), ReadError> {
        let role = &*self.viewer.role;
        let row = lane
            .client
            .query_typed_one(POSITION, &[(&role, Type::TEXT)])
            .await?;
        if !row.try_get::<_, bool>(0)? {
            return Err(ReadError::Escaped);
        }
        let unreadable = || ReadError::Unavailable("malformed answer".into());
        let snapshot = PgSnapshot::parse(row.try_get(1)?).ok_or_else(unreadable)?;
        let lsn: Lsn = row
            .try_get::<_, &str>(2)?
            .parse()
            .map_err(|_| unreadable())?;
        let (page, segment): (i64, i64) = (row.try_get(4)?, row.try_get(5)?);
        let lsn = before_header(lsn, page.unsigned_abs(), segment.unsigned_abs());
        Ok((snapshot, lsn, row.try_get(3)?))
    }

    /// Whether all of it counts; the transaction is over then.
    async fn end(&self, lane: &Lane) -> Result<(), ReadError> {
        // Not the prepared one: a policy's function may have run DEALLOCATE.
        let (role, claims) = (&*self.viewer.role, &*self.viewer.claims);
        let viewer: [(&(dyn postgres_types::ToSql + Sync), Type); 2] =
            [(&role, Type::TEXT), (&claims, Type::TEXT)];
        let stayed = lane.client.query_typed_one(ASSERTION, &viewer).await?;
        if stayed.try_get::<_, Option<bool>>(0)? != Some(true) {
            return Err(ReadError::Escaped);
        }
        let unchanged = lane
            .client
            .query_typed_one(UNCHANGED, &[(&self.shape.id.0, Type::OID)])
            .await?;
        if unchanged.try_get::<_, Option<bool>>(0)? != Some(true) {
            return Err(ReadError::Changed);
        }
        Ok(lane.client.batch_execute("ROLLBACK").await?)
    }
}

/// The end of what is in the WAL. Where that is the end of a page, Postgres names the place after the
/// next page's header instead, which a stream reaches only when something more is written.
///
/// Source: `XLogBytePosToRecPtr`; headers of 24 bytes, at the start of a segment 40.
fn before_header(lsn: Lsn, page: u64, segment: u64) -> Lsn {
    for (size, header) in [(segment, 40), (page, 24)] {
        if size > header && lsn.0 % size == header {
            return Lsn(lsn.0 - header);
        }
    }
    lsn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_after_a_header_is_the_page_before() {
        let (page, segment) = (8192, 16 << 20);
        for (lsn, expected) in [
            (0x2000_0028, 0x2000_0000),
            (0x2000_2018, 0x2000_2000),
            (0x2000_2028, 0x2000_2028),
            (0x2000_0018, 0x2000_0000),
            (0x2000_2020, 0x2000_2020),
            (0x2000_2000, 0x2000_2000),
        ] {
            assert_eq!(before_header(Lsn(lsn), page, segment), Lsn(expected));
        }
        assert_eq!(before_header(Lsn(24), 0, 0), Lsn(24));
    }
}
