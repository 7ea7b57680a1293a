//! What commits is seen in the catalogue a moment before other sessions are told to forget what they
//! know of it. Rules that are read in this moment must not stay.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;
use walcast_change::Change;
use walcast_rls::{PostgresCheck, Viewer};

use crate::rig::{ALICE, NO, Rig, YES, ask, user};

const DOCS: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE SCHEMA bulk;
    CREATE TABLE docs (id int PRIMARY KEY, n int); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE docs REPLICA IDENTITY FULL; GRANT SELECT ON docs TO authenticated;
    CREATE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n = 1';
    CREATE POLICY p ON docs USING (app.is_one(n))";

/// The policy calls the function itself, whatever its name is. Who has made many tables takes some
/// milliseconds from being visible to telling others.
const RENAMED: &str = "BEGIN;
    DO $$ BEGIN FOR n IN 1..1500 LOOP EXECUTE format('CREATE TABLE bulk.t%s_{R} (a int)', n); END LOOP; END $$;
    ALTER FUNCTION app.is_one(int) RENAME TO was_{R};
    CREATE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n <> 1'";

/// And as it was.
const BACK: &str =
    "DROP FUNCTION app.is_one(int); ALTER FUNCTION app.was_{R}(int) RENAME TO is_one";

const ROUNDS_MAX: usize = 40;
/// Others may have been told already, or all of it at once.
const MET: usize = 6;
/// It may stand still with a lock in its hand that others need, and then all of them do.
const STILL: Duration = Duration::from_secs(5);

#[tokio::test]
async fn rules_that_are_read_in_this_moment_do_not_stay() -> Result<()> {
    let mut rig = Rig::new(DOCS).await?;
    let changes = [
        rig.change("INSERT INTO docs VALUES (1, 1)").await?,
        rig.change("INSERT INTO docs VALUES (2, 2)").await?,
    ];
    let viewers = [user(ALICE, "")];
    let mut met = 0;
    for round in 0..ROUNDS_MAX {
        let fill = |sql: &str| sql.replace("{R}", &round.to_string());
        let mut check = rig.check().await?;
        assert_eq!(ask(&mut check, &changes, &viewers).await, [[YES], [NO]]);
        let during = during(&rig, &fill(RENAMED), &mut check, &changes, &viewers).await?;
        let seen = ask(&mut check, &changes, &viewers).await;
        assert_eq!(seen, [[YES], [NO]], "after round {round}");
        if let Some(seen) = during {
            // Or it is not judged.
            assert_eq!(seen[1], [NO], "in round {round}");
            met += 1;
        }
        if met >= MET {
            return Ok(());
        }
        rig.run(&fill(BACK)).await?;
    }
    bail!("the moment was not met in {ROUNDS_MAX} rounds")
}

/// Commits, and asks while Postgres stands still between the two; `None`, where it did not.
async fn during(
    rig: &Rig,
    sql: &str,
    check: &mut PostgresCheck,
    changes: &[Change],
    viewers: &[Viewer],
) -> Result<Option<Vec<Vec<Option<bool>>>>> {
    let watcher = rig.postgres.connect("postgres", &rig.database).await?;
    let alterer = rig.postgres.connect("postgres", &rig.database).await?;
    let oid: u32 = one(&watcher, "SELECT 'app.is_one'::regproc::oid").await?;
    let sql_name = "SELECT proname::text FROM pg_proc WHERE oid = $1";
    let name = watcher.prepare(sql_name).await?;
    let backend: i32 = one(&alterer, "SELECT pg_backend_pid()").await?;
    alterer.batch_execute(sql).await?;
    // The session stays, and so its process.
    let committed = tokio::spawn(async move { (alterer.batch_execute("COMMIT").await, alterer) });
    loop {
        let row = watcher.query_one(&name, &[&oid]).await?;
        if row.try_get::<_, &str>(0)? != "is_one" {
            break;
        }
    }
    let stopped = Stopped::new(backend)?;
    let found = timeout(STILL, async {
        let sql = format!(
            "SELECT count(*) > 0 FROM pg_locks WHERE pid = {backend} AND locktype = 'transactionid'"
        );
        let met: bool = one(&watcher, &sql).await?;
        anyhow::Ok(match met {
            true => Some(ask(check, changes, viewers).await),
            false => None,
        })
    });
    let found = found.await;
    drop(stopped);
    committed.await?.0?;
    found.unwrap_or(Ok(None))
}

async fn one<T>(client: &tokio_postgres::Client, sql: &str) -> Result<T>
where
    T: for<'a> postgres_types::FromSql<'a>,
{
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// A process that stands still until this is dropped.
struct Stopped(i32);

impl Stopped {
    fn new(pid: i32) -> Result<Stopped> {
        signal("-STOP", pid)?;
        Ok(Stopped(pid))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = signal("-CONT", self.0);
    }
}

fn signal(signal: &str, pid: i32) -> Result<()> {
    let status = Command::new("kill")
        .args([signal, &pid.to_string()])
        .status();
    ensure!(status.context("kill")?.success(), "kill {signal} {pid}");
    Ok(())
}
