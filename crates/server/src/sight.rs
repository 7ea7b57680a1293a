//! Keeps an eye on which transactions of the stream other sessions see.
//!
//! A snapshot of a table is joined to the stream at a place, and must have seen every transaction
//! before it. While the server runs, [`Recent`] knows which these are. Not so after a restart:
//!
//! 1. A commit waits for its synchronous standby; its record is in the WAL, nobody sees its rows.
//! 2. It comes from the stream, is logged, delivered and acknowledged. Postgres won't send it again.
//! 3. The server starts anew. The stream stands behind this transaction.
//! 4. A snapshot is asked for. It does not see the transaction, and the stream goes on behind it: the
//!    rows would be missing for ever.
//!
//! So what the log has is looked through at the start for transactions that are not visible, and
//! until that is done snapshots wait. What committed before the oldest transaction of now began is
//! visible, so that mostly the end of the log is all that is read. Out of sight is a commit that has waited for its standby for
//! longer than the log is kept, or whose log was thrown away meanwhile.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use walcast_change::Cursor;
use walcast_log::{History, ReadError};
use walcast_pgoutput::Xid;
use walcast_rls::PgSnapshot;
use walcast_source::connect_sql;

use crate::recent::Recent;

/// Between two tries to ask Postgres.
const TRY_AGAIN: Duration = Duration::from_millis(500);
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two words about how far it is.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// A log that is damaged or cut off in many places is not looked through for ever.
const BEGINNINGS_MAX: usize = 64;

/// Completes `recent` from the log, as far as it goes now, then has it forget what has become
/// visible, until `stop`. `url`: where snapshots are read.
pub(crate) async fn keep_watch(
    recent: Arc<Recent>,
    history: History,
    url: String,
    stop: CancellationToken,
) {
    let end = history.written().borrow().cursor;
    let watching = async {
        let seen = look(&url).await;
        let looking = tokio::task::spawn_blocking(move || doubtful(&history, end, &seen));
        let Ok(doubtful) = looking.await else {
            return; // the runtime ends
        };
        if !doubtful.is_empty() {
            let transactions = doubtful.len();
            info!(
                transactions,
                "transactions of the log are not visible yet, perhaps because of a synchronous standby; snapshots wait for them"
            );
        }
        recent.complete(doubtful);
        loop {
            recent.many().await;
            recent.forget(&look(&url).await);
        }
    };
    stop.run_until_cancelled(watching).await;
}

/// The transactions up to `end` that `seen` does not see. Reads the log from the first segment on that
/// may have one: what is in it has committed since the oldest transaction of now began.
fn doubtful(history: &History, end: Cursor, seen: &PgSnapshot) -> Vec<Xid> {
    let mut doubtful = Vec::new();
    for _ in 0..BEGINNINGS_MAX {
        match read_through(history, end, seen, &mut doubtful) {
            // Everybody was told of a gap.
            Ok(()) | Err(ReadError::EpochChanged { .. }) => return doubtful,
            // Retention was faster, or a part is damaged and dropped: from what is left now.
            Err(error) => debug!(%error, "looking through the log anew"),
        }
    }
    warn!("the log can't be looked through for transactions that are not visible yet");
    doubtful
}

fn read_through(
    history: &History,
    end: Cursor,
    seen: &PgSnapshot,
    doubtful: &mut Vec<Xid>,
) -> Result<(), ReadError> {
    let mut reader = history.reader_since(seen.oldest());
    let mut last = None;
    let mut told = Instant::now();
    while reader.position().cursor < end {
        let at_end = reader.next_transactions(|xid| {
            let known = last.replace(xid) == Some(xid);
            if !known && !seen.sees(xid) && !doubtful.contains(&xid) {
                doubtful.push(xid);
            }
        })?;
        if at_end {
            break;
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            let at = reader.position();
            info!(%at, %end, "looking through the log for transactions that are not visible yet; snapshots wait");
        }
    }
    Ok(())
}

/// What is visible now. Tries until there is an answer. Not often enough asked to keep a session.
async fn look(url: &str) -> PgSnapshot {
    loop {
        if let Ok(Some(seen)) = timeout(ANSWER_PATIENCE, ask(url)).await {
            return seen;
        }
        debug!("postgres was not asked what is visible; trying again");
        sleep(TRY_AGAIN).await;
    }
}

async fn ask(url: &str) -> Option<PgSnapshot> {
    let client = connect_sql(url, "walcast sight").await.ok()?;
    let row = client.query_one(VISIBLE, &[]).await.ok()?;
    PgSnapshot::parse(row.try_get(0).ok()?)
}

const VISIBLE: &str = "select pg_catalog.pg_current_snapshot()::text";

#[cfg(test)]
mod tests {
    use walcast_change::{Change, Operation, Shape, Types};
    use walcast_log::{Identity, Log, LogConfig};
    use walcast_pgoutput::{Lsn, PgTime, Relation, RelationId, ReplicaIdentity};

    use super::*;

    fn cursor(lsn: u64) -> Cursor {
        Cursor {
            commit_lsn: Lsn(lsn),
            ordinal: 0,
        }
    }

    fn changes(xids: &[u32]) -> impl Iterator<Item = Change> {
        let relation = Relation {
            id: RelationId(1),
            schema: "public".into(),
            name: "t".into(),
            identity: ReplicaIdentity::Full,
            columns: Vec::new(),
        };
        let shape = Arc::new(Shape::new(&relation, None, &Types::default()));
        xids.iter().zip(1u64..).map(move |(xid, lsn)| Change {
            cursor: cursor(lsn * 10),
            commit_time: PgTime(0),
            xid: Xid(*xid),
            shape: shape.clone(),
            operation: Operation::Truncate,
        })
    }

    #[tokio::test]
    async fn what_the_log_has_and_nobody_sees_is_doubtful() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let identity = Identity {
            system: "1".into(),
            timeline: 1,
            slot: "s".into(),
            publication: "p".into(),
        };
        let config = LogConfig::new(folder.path());
        let (mut log, _) = Log::open(config, identity).expect("an empty folder");
        for change in changes(&[100, 104, 101, 105, 103, 106]) {
            let end = Lsn(change.cursor.commit_lsn.0 + 5);
            log.append(&change);
            log.commit(end);
        }
        log.sync().await.expect("a disk");
        let history = log.history();
        for (seen, end, expected) in [
            ("100:105:100,101", 60, vec![100, 101, 105, 106]),
            // 102 is open, and nothing of it was decoded.
            ("102:107:102", 60, vec![]),
            ("107:107:", 60, vec![]),
            // An earlier life's end; what comes behind it is known to who takes it from the stream.
            ("107:107:", 0, vec![]),
        ] {
            let seen = PgSnapshot::parse(seen).expect("a snapshot's text");
            let xids: Vec<u32> = doubtful(&history, cursor(end), &seen)
                .into_iter()
                .map(|xid| xid.0)
                .collect();
            assert_eq!(xids, expected, "{seen:?}");
        }
        log.close(Duration::from_secs(60)).await.expect("a disk");
    }
}
