//! Tables that change meanwhile, policies that misbehave, and what they leave behind.

use anyhow::Result;
use walcast_rls::{Denial, ReadError, ReaderBounds};

use crate::desk::{Desk, rest};
use crate::rig::{ALICE, user, viewer};

const ONE: ReaderBounds = ReaderBounds {
    readings_max: 1,
    waiting_max: 9,
};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, body text); GRANT SELECT ON t TO PUBLIC; INSERT INTO t VALUES (1, 'a'), (2, 'b');
    CREATE TABLE other (id int PRIMARY KEY, body text); GRANT SELECT ON other TO PUBLIC; INSERT INTO other VALUES (9, 'z');";

/// What becomes of a reading that took its snapshot before `change` and its lock after it.
async fn overtaken(change: &str) -> Result<Result<usize, ReadError>> {
    let mut desk = Desk::bounded(TABLE, ONE).await?;
    let other = desk.shape("INSERT INTO other VALUES (10, 'y')").await?;
    let shape = desk.shape("INSERT INTO t VALUES (3, 'c')").await?;
    let anon = viewer("anon", "{}");
    desk.rig
        .run("BEGIN; LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        .await?;
    let read = async {
        let reading = desk.open(&anon, &shape).await?;
        Ok(rest(reading).await?.len())
    };
    let overtake = async {
        desk.until("wait_event_type = 'Lock'").await?;
        desk.rig.run(&format!("{change}; COMMIT")).await
    };
    let (found, overtaken) = tokio::join!(read, overtake);
    overtaken?;
    desk.until_nothing_runs().await?;
    let found_after = rest(desk.open(&anon, &other).await?).await?;
    assert_eq!(found_after.len(), 2, "after {change}");
    Ok(found)
}

#[tokio::test]
async fn a_table_that_is_changed_meanwhile() -> Result<()> {
    for change in [
        "TRUNCATE t",
        "ALTER TABLE t ALTER COLUMN id TYPE bigint",
        "ALTER TABLE t ADD COLUMN made timestamptz DEFAULT clock_timestamp()",
        "DROP TABLE t",
        "ALTER TABLE t RENAME TO old",
        "ALTER TABLE t RENAME TO old; ALTER TABLE other RENAME TO t",
        "ALTER TABLE t DROP COLUMN body",
    ] {
        let found = overtaken(change).await?;
        assert!(
            matches!(found, Err(ReadError::Changed)),
            "{change}: {found:?}"
        );
    }
    let found = overtaken("REVOKE SELECT ON t FROM PUBLIC").await?;
    assert!(matches!(found, Err(ReadError::Denied(Denial::Privilege))));
    let found = overtaken("ALTER TABLE t ENABLE ROW LEVEL SECURITY").await?;
    assert!(matches!(found, Ok(0)), "{found:?}");
    assert!(matches!(
        overtaken("INSERT INTO t VALUES (4, 'd')").await?,
        Ok(3)
    ));
    Ok(())
}

const POLICIES: &str = "
    CREATE TABLE bad (id int PRIMARY KEY); ALTER TABLE bad ENABLE ROW LEVEL SECURITY; GRANT SELECT ON bad TO PUBLIC;
    INSERT INTO bad SELECT generate_series(1, 5000);
    CREATE FUNCTION stop() RETURNS bool LANGUAGE sql SECURITY DEFINER AS 'SELECT pg_terminate_backend(pg_backend_pid())';
    CREATE TABLE seen (id int PRIMARY KEY); ALTER TABLE seen ENABLE ROW LEVEL SECURITY; GRANT SELECT ON seen TO PUBLIC;
    CREATE POLICY p ON seen USING (coalesce(current_setting('app.left', true), '') = '' AND current_setting('statement_timeout') <> '0'
      AND current_setting('row_security') = 'on' AND current_setting('TimeZone') = 'UTC' AND current_setting('search_path') NOT LIKE '%evil%'
      AND current_setting('transaction_isolation') = 'repeatable read' AND current_setting('transaction_read_only') = 'on'
      AND current_user = 'anon' AND session_user = 'checker' AND current_setting('lock_timeout') <> '0'
      AND NOT EXISTS (SELECT FROM pg_listening_channels())
      AND NOT EXISTS (SELECT FROM pg_prepared_statements WHERE from_sql)
      AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()));";

/// A reading of a table whose policy calls a function with this body; then another viewer's, in the
/// same session or the one that took its place, which finds nothing of it.
async fn poisoned(body: &str) -> Result<(usize, Option<ReadError>)> {
    let mut desk = Desk::bounded(POLICIES, ONE).await?;
    desk.rig
        .run(&format!(
            "CREATE FUNCTION poison(id int) RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN {body}; RETURN true; END $f$;
             CREATE POLICY p ON bad USING (poison(id))"
        ))
        .await?;
    let bad = desk.shape("INSERT INTO bad VALUES (0)").await?;
    let seen = desk.shape("INSERT INTO seen VALUES (1)").await?;
    let mut outcome = (0, None);
    for _ in 0..3 {
        outcome = (0, None);
        match desk.open(&user(ALICE, ""), &bad).await {
            Err(error) => outcome.1 = Some(error),
            Ok(mut reading) => loop {
                match reading.next_chunk().await {
                    Ok(Some(rows)) => outcome.0 += rows.len(),
                    Ok(None) => break,
                    Err(error) => {
                        outcome.1 = Some(error);
                        break;
                    }
                }
            },
        }
        let after = rest(desk.open(&viewer("anon", "{}"), &seen).await?).await?;
        assert_eq!(after.len(), 1, "something is left of {body}");
        // One that was given up is gone a moment later than who is connected to it knows.
        desk.until("true").await?;
    }
    Ok(outcome)
}

#[tokio::test]
async fn who_changes_the_role_or_the_claims_gets_no_further() -> Result<()> {
    for act in [
        "RESET ROLE",
        "PERFORM set_config('role', 'none', true)",
        "PERFORM set_config('role', 'service_role', false)",
        "PERFORM set_config('request.jwt.claims', '{\"sub\": \"x\"}', true)",
    ] {
        let (rows, error) = poisoned(act).await?;
        assert!(
            matches!(error, Some(ReadError::Escaped)),
            "{act}: {error:?}"
        );
        assert_eq!(rows, 0, "{act}");
        let (rows, error) = poisoned(&format!("IF id = 2500 THEN {act}; END IF")).await?;
        assert!(
            matches!(error, Some(ReadError::Escaped)),
            "{act}: {error:?}"
        );
        assert!(rows <= 2500, "{act}: {rows}");
    }
    Ok(())
}

#[tokio::test]
async fn policies_that_fail() -> Result<()> {
    let (_, error) = poisoned("RAISE EXCEPTION 'no: %', id").await?;
    assert!(
        matches!(&error, Some(ReadError::Failed { code }) if code == "P0001"),
        "{error:?}"
    );
    let (_, error) = poisoned("CREATE TEMP TABLE mine (id int)").await?;
    assert!(
        matches!(&error, Some(ReadError::Failed { code }) if code == "25006"),
        "{error:?}"
    );
    let (_, error) = poisoned("PERFORM stop()").await?;
    assert!(
        matches!(error, Some(ReadError::Unavailable(_))),
        "{error:?}"
    );
    let text = format!(
        "{error:?} {}",
        error.as_ref().map(ReadError::reason).unwrap_or_default()
    );
    assert!(!text.contains(ALICE) && !text.contains("bad"), "{text}");
    Ok(())
}

#[tokio::test]
async fn nothing_of_a_viewer_is_left_for_the_next() -> Result<()> {
    for act in [
        "PERFORM set_config('app.left', 'x', false), set_config('search_path', 'evil', false), set_config('statement_timeout', '0', false),
           set_config('lock_timeout', '0', false), set_config('row_security', 'off', false), set_config('TimeZone', 'Asia/Tokyo', false)",
        "PERFORM pg_advisory_lock(42), pg_advisory_lock(43, 44), pg_advisory_xact_lock(45)",
        "IF id = 1 THEN EXECUTE 'PREPARE leaked AS SELECT 1'; END IF",
        "EXECUTE 'LISTEN poison'",
        "IF id = 1 THEN EXECUTE 'DEALLOCATE ALL'; END IF",
    ] {
        let (rows, error) = poisoned(act).await?;
        assert!(error.is_none(), "{act}: {error:?}");
        assert_eq!(rows, 5001, "{act}");
    }
    Ok(())
}
