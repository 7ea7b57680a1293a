//! What commits is seen in the catalogue a moment before other sessions are told to forget what they
//! know of it. Rules that are read in this moment must not stay.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;
use walcast_change::Change;
use walcast_rls::{PostgresCheck, Viewer};

use crate::rig::{ALICE, NO, Rig, YES, ask, user};

const DOCS: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; CREATE SCHEMA bulk;
    CREATE TABLE docs (id int PRIMARY KEY, n int, owner text, team text); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
    ALTER TABLE docs REPLICA IDENTITY FULL; GRANT SELECT ON docs TO authenticated;";

/// Who has made many tables takes some milliseconds from being visible to telling others.
const MANY: &str = "BEGIN;
    DO $$ BEGIN FOR n IN 1..1500 LOOP EXECUTE format('CREATE TABLE bulk.t%s_{R} (a int)', n); END LOOP; END $$;";

/// Policies call functions themselves, whatever their names are: by what is renamed nothing changes.
struct Case {
    policy: &'static str,
    ddl: &'static str,
    back: &'static str,
}

/// Judged by its text.
const ANOTHER: Case = Case {
    policy: "CREATE FUNCTION app.one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n = 1'; CREATE POLICY p ON docs USING (app.one(n))",
    ddl: "ALTER FUNCTION app.one(int) RENAME TO was; CREATE FUNCTION app.one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n <> 1'",
    back: "DROP FUNCTION app.one(int); ALTER FUNCTION app.was(int) RENAME TO one",
};

/// Taken apart.
const PLACES: Case = Case {
    policy: "CREATE FUNCTION app.one() RETURNS text LANGUAGE sql STABLE RETURN auth.jwt() ->> 'sub';
             CREATE FUNCTION app.two() RETURNS text LANGUAGE sql STABLE RETURN auth.jwt() ->> 'team';
             CREATE POLICY p ON docs USING (owner = app.one() AND team = app.two())",
    ddl: SWAP,
    back: SWAP,
};
const SWAP: &str = "ALTER FUNCTION app.one() RENAME TO was; ALTER FUNCTION app.two() RENAME TO one; ALTER FUNCTION app.was() RENAME TO two";

const ROUNDS_MAX: usize = 30;
/// A busy machine seldom meets it: once is to do then.
const ENOUGH: usize = 12;
/// Others may have been told already, or all of it at once.
const MET: usize = 4;
/// It may stand still with a lock in its hand that others need, and then all of them do.
const STILL: Duration = Duration::from_secs(2);

#[tokio::test]
async fn another_function_has_the_name() -> Result<()> {
    each_round(ANOTHER).await
}

#[tokio::test]
async fn functions_change_places() -> Result<()> {
    each_round(PLACES).await
}

async fn each_round(case: Case) -> Result<()> {
    let mut rig = Rig::new(&format!("{DOCS} {}", case.policy)).await?;
    let insert = "INSERT INTO docs VALUES";
    let changes = [
        rig.change(&format!("{insert} (1, 1, '{ALICE}', 't')"))
            .await?,
        rig.change(&format!("{insert} (2, 2, 't', '{ALICE}')"))
            .await?,
    ];
    let viewers = [user(ALICE, r#""team": "t""#)];
    let mut met = 0;
    for round in 0..ROUNDS_MAX {
        let mut check = rig.check().await?;
        assert_eq!(ask(&mut check, &changes, &viewers).await, [[YES], [NO]]);
        let ddl = format!("{} {}", MANY.replace("{R}", &round.to_string()), case.ddl);
        let during = during(&rig, &ddl, &mut check, &changes, &viewers).await?;
        let seen = ask(&mut check, &changes, &viewers).await;
        assert_eq!(seen, [[YES], [NO]], "after round {round}");
        if let Some(seen) = during {
            // Or it is not judged.
            assert_eq!(seen[1], [NO], "in round {round}");
            met += 1;
        }
        if met >= MET || met > 0 && round >= ENOUGH {
            return Ok(());
        }
        rig.run(case.back).await?;
    }
    // A machine that is never in it can't be made to be; `settled`'s own table does not depend on it.
    eprintln!("the moment was met {met} times in {ROUNDS_MAX} rounds: not tested any further");
    Ok(())
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
    let oid: u32 = one(&watcher, "SELECT 'app.one'::regproc::oid").await?;
    let sql_name = "SELECT proname::text FROM pg_proc WHERE oid = $1";
    let name = watcher.prepare(sql_name).await?;
    let backend: i32 = one(&alterer, "SELECT pg_backend_pid()").await?;
    alterer.batch_execute(sql).await?;
    // The session stays, and so its process.
    let committed = tokio::spawn(async move { (alterer.batch_execute("COMMIT").await, alterer) });
    loop {
        let row = watcher.query_one(&name, &[&oid]).await?;
        if row.try_get::<_, &str>(0)? != "one" {
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
