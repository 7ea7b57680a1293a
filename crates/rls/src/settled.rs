//! Whether what the catalogue says is what every session goes by.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Error};
use walcast_pgoutput::Xid;

use crate::snapshot::PgSnapshot;

/// What others are doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    /// Nobody is altering the table.
    pub(crate) table: bool,
    /// Everybody has been told of what can be seen.
    pub(crate) told: bool,
}

/// A commit can be seen in the catalogue a moment before other sessions are told to forget their copies
/// of it, and until then they may print a policy, or parse one, or a row, by what was there before.
/// Whoever has committed gives its locks back after they have been told, and its own number is one of
/// them: so who is seen to have ended and still holds that has not told everybody. That goes for
/// tables, and for functions and types, which nobody locks. Other databases have none of these.
///
/// Source: `CommitTransaction` in Postgres's own sources.
pub(crate) async fn settled(client: &Client, relation: u32) -> Result<Settled, Error> {
    let sql = "SELECT NOT EXISTS (
         SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database
          WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'relation' AND l.relation = $1
            AND l.mode = 'AccessExclusiveLock' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()),
         pg_catalog.pg_current_snapshot()::text,
         ARRAY(SELECT pg_catalog.string_agg(l.transactionid::text, ',') FROM pg_catalog.pg_locks l
                 LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
                WHERE l.locktype = 'transactionid' AND l.mode = 'ExclusiveLock' AND l.granted
                  AND (a.datname IS NULL OR a.datname = pg_catalog.current_database())
                GROUP BY l.virtualtransaction)";
    let row = client
        .query_typed_one(sql, &[(&relation, Type::OID)])
        .await?;
    let holders: Vec<String> = row.try_get(2)?;
    let snapshot = PgSnapshot::parse(row.try_get(1)?);
    Ok(Settled {
        table: row.try_get(0)?,
        told: snapshot.is_some_and(|snapshot| all_run(&snapshot, &holders)),
    })
}

/// `holders`: the numbers of each transaction and its subtransactions. A snapshot does not name the
/// latter, so they seem to have ended; but the transaction itself has not, while it runs.
fn all_run(snapshot: &PgSnapshot, holders: &[String]) -> bool {
    let runs = |numbers: &String| {
        let mut numbers = numbers.split(',').filter_map(|number| number.parse().ok());
        numbers.any(|number| !snapshot.sees(Xid(number)))
    };
    holders.iter().all(runs)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::{Context, Result};
    use walcast_harness::{Postgres, eventually};

    use super::*;

    /// What others do with the table, and whether it counts as settled then.
    #[tokio::test]
    async fn a_table_is_settled_unless_somebody_may_be_altering_it() -> Result<()> {
        let postgres = Postgres::shared().await;
        let database = postgres.create_database().await?;
        let own = postgres.connect("postgres", &database).await?;
        let other = postgres.connect("postgres", &database).await?;
        own.batch_execute("CREATE TABLE docs (a int, b int); CREATE TABLE others (a int)")
            .await?;
        let sql = "SELECT 'docs'::regclass::oid";
        let relation: u32 = own.query_one(sql, &[]).await?.try_get(0)?;
        for (sql, settled) in [
            ("SELECT 1", true),
            // Open, and then over: the lock goes after everybody has been told.
            ("BEGIN; ALTER TABLE docs RENAME a TO c", false),
            ("COMMIT", true),
            ("BEGIN; CREATE POLICY p ON docs", false),
            ("ROLLBACK", true),
            // Nobody can tell a lock for its own sake from one that goes with DDL.
            ("BEGIN; LOCK TABLE docs IN ACCESS EXCLUSIVE MODE", false),
            ("ROLLBACK", true),
            // Who reads and writes rows alters nothing.
            ("BEGIN; SELECT FROM docs; INSERT INTO docs VALUES (1)", true),
            ("LOCK TABLE docs IN EXCLUSIVE MODE", true),
            ("ROLLBACK; BEGIN; ALTER TABLE others ADD b int", true),
            // Those that are over as well, for themselves.
            (
                "SAVEPOINT a; INSERT INTO others VALUES (2); RELEASE a",
                true,
            ),
            ("SAVEPOINT b; INSERT INTO others VALUES (3)", true),
            ("ROLLBACK", true),
        ] {
            other.batch_execute(sql).await?;
            // Others commit as well, and are not settled for a moment.
            let found = eventually(Duration::from_secs(60), async || {
                let found = super::settled(&own, relation).await.ok()?;
                (found.told && found.table == settled).then_some(())
            });
            found.await.with_context(|| format!("after {sql}"))?;
        }
        own.batch_execute("BEGIN; ALTER TABLE docs ADD d int")
            .await?;
        assert!(
            super::settled(&own, relation).await?.table,
            "altered by itself"
        );
        own.batch_execute("ROLLBACK").await?;
        who_waits_alters_nothing_yet(&own, other, relation).await
    }

    #[test]
    fn who_has_ended_and_still_holds_its_number_has_not_told_everybody() {
        for (snapshot, holders, expected) in [
            ("10:20:", &[][..], true),
            ("10:20:12,15", &["12", "15", "20"], true),
            ("10:20:12,15", &["12", "14"], false),
            ("10:20:12,15", &["9"], false),
            ("10:20:12", &["12,13,14"], true), // with subtransactions
            ("10:20:12", &["13,14"], false),
            ("4294967306:4294967316:4294967308", &["12"], true), // the second time around
            ("4294967306:4294967316:4294967308", &["4294967290"], false),
        ] {
            let parsed = PgSnapshot::parse(snapshot).expect("a snapshot");
            let holders: Vec<String> = holders.iter().map(|text| (*text).to_owned()).collect();
            assert_eq!(
                all_run(&parsed, &holders),
                expected,
                "{snapshot} {holders:?}"
            );
        }
    }

    async fn who_waits_alters_nothing_yet(
        own: &Client,
        other: Client,
        relation: u32,
    ) -> Result<()> {
        own.batch_execute("BEGIN; SELECT FROM docs").await?;
        let altering =
            tokio::spawn(async move { other.batch_execute("ALTER TABLE docs ADD d int").await });
        let sql = "SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
                    WHERE l.relation = 'docs'::regclass AND NOT l.granted";
        eventually(Duration::from_secs(60), async || {
            let waiting = own.query(sql, &[]).await.ok()?;
            (!waiting.is_empty()).then_some(())
        })
        .await?;
        assert!(super::settled(own, relation).await?.table, "somebody waits");
        own.batch_execute("COMMIT").await?;
        altering.await??;
        assert!(
            super::settled(own, relation).await?.table,
            "nobody waits any more"
        );
        Ok(())
    }
}
