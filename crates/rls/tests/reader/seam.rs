//! A snapshot and the changes that it does not have make the table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use futures_util::future::{join_all, try_join_all};
use tokio_postgres::Client;
use walcast_change::{Change, Row};
use walcast_pgoutput::{Lsn, Xid};
use walcast_rls::PgSnapshot;

use crate::desk::{Desk, Texts, rest, texts};
use crate::rig::viewer;

type State = BTreeMap<i64, i64>;

struct Taken {
    snapshot: PgSnapshot,
    lsn: Lsn,
    rows: State,
}

const SNAPSHOTS: usize = 500;

/// Transactions of all kinds: small and large, nested, rolled back, committed asynchronously.
async fn write(client: Client, nth: usize, stop: Arc<AtomicBool>) -> Result<()> {
    let at_once = ["on", "off", "local"][nth % 3];
    client
        .batch_execute(&format!("SET synchronous_commit = {at_once}"))
        .await?;
    let mut round = nth * 7919;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let (one, other) = ((round * 31) % 150, (round * 17 + nth) % 150);
        let end = if round.is_multiple_of(11) {
            "ROLLBACK"
        } else {
            "COMMIT"
        };
        let sql = format!(
            "BEGIN; INSERT INTO busy VALUES ({one}, {round}) ON CONFLICT (id) DO UPDATE SET n = excluded.n;
             SAVEPOINT s; DELETE FROM busy WHERE id = {other}; {} SAVEPOINT s;
             UPDATE busy SET n = n + 1 WHERE id % 50 = {}; {end}",
            if round.is_multiple_of(3) { "ROLLBACK TO" } else { "RELEASE" },
            round % 50,
        );
        if client.batch_execute(&sql).await.is_err() {
            client.batch_execute("ROLLBACK").await?; // a deadlock with another writer
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_and_what_it_does_not_see_make_the_table() -> Result<()> {
    let mut desk = Desk::new(
        "CREATE TABLE busy (id int PRIMARY KEY, n int); GRANT SELECT ON busy TO PUBLIC;
         ALTER TABLE busy REPLICA IDENTITY FULL; ALTER TABLE busy ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON busy USING (true)",
    )
    .await?;
    let shape = desk.shape("INSERT INTO busy VALUES (-1, 0)").await?;
    let anon = viewer("anon", "{}");
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for nth in 0..4 {
        let client = desk.rig.postgres.connect("postgres", &desk.rig.database);
        writers.push(tokio::spawn(write(client.await?, nth, stop.clone())));
    }
    let take = async || -> Result<Vec<Taken>> {
        let mut taken = Vec::new();
        for _ in 0..SNAPSHOTS / 4 {
            let reading = desk.open(&anon, &shape).await?;
            let (snapshot, lsn) = (reading.snapshot().clone(), reading.lsn());
            let rows = rest(reading)
                .await?
                .iter()
                .map(|row| entry(&texts(row)))
                .collect();
            taken.push(Taken {
                snapshot,
                lsn,
                rows,
            });
        }
        Ok(taken)
    };
    let taken = try_join_all((0..4).map(|_| take())).await;
    stop.store(true, Ordering::Relaxed);
    for writer in join_all(writers).await {
        writer??;
    }
    let taken: Vec<_> = taken?.into_iter().flatten().collect();
    // A commit that waits for the disk brings those to it that did not.
    let client = desk.rig.postgres.connect("postgres", &desk.rig.database);
    client
        .await?
        .batch_execute("CREATE TABLE flushed ()")
        .await?;
    let changes: Vec<Step> = desk.rig.changes().await?.iter().map(step).collect();
    let start = State::from([(-1, 0)]);
    let whole = replay(start.clone(), changes.iter());
    let rows = desk.select(&anon, "* FROM busy").await?;
    assert_eq!(whole, rows.iter().map(entry).collect());
    let mut unseen = 0;
    for taken in taken {
        let seen = |step: &&Step| taken.snapshot.sees(step.xid);
        let behind = changes
            .iter()
            .filter(seen)
            .find(|step| step.lsn >= taken.lsn);
        assert!(behind.is_none(), "seen, but committed behind the position");
        let before = replay(start.clone(), changes.iter().filter(seen));
        assert_eq!(
            taken.rows, before,
            "the rows are the changes that the snapshot sees"
        );
        let rest = || changes.iter().filter(|step| !seen(step));
        unseen += rest().filter(|step| step.lsn < taken.lsn).count();
        assert_eq!(replay(taken.rows.clone(), rest()), whole);
    }
    println!(
        "{SNAPSHOTS} snapshots, {} changes; {unseen} times a change before the position was not seen",
        changes.len()
    );
    assert!(changes.len() > SNAPSHOTS, "the table was not busy");
    Ok(())
}

/// A change, read once.
struct Step {
    xid: Xid,
    lsn: Lsn,
    old: Option<i64>,
    new: Option<(i64, i64)>,
}

fn step(change: &Change) -> Step {
    let entry = |row: &Row| entry(&texts(row));
    Step {
        xid: change.xid,
        lsn: change.cursor.commit_lsn,
        old: change.old().map(|row| entry(row).0),
        new: change.new().map(entry),
    }
}

fn entry(row: &Texts) -> (i64, i64) {
    let number = |at: usize| row[at].as_ref().and_then(|text| text.parse().ok());
    number(0).zip(number(1)).expect("two numbers")
}

fn replay<'c>(mut state: State, steps: impl Iterator<Item = &'c Step>) -> State {
    for step in steps {
        if let Some(old) = step.old {
            state.remove(&old);
        }
        state.extend(step.new);
    }
    state
}
