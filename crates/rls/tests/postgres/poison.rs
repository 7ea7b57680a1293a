//! Policies that misbehave: denied, and nobody else notices.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use walcast_rls::{CheckConfig, PostgresCheck, RowCheck};

use crate::rig::{ALICE, ASKED, BOB, NO, Rig, YES, ask, batch, table, user, viewer};

const TABLES: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE TABLE app.good (id int PRIMARY KEY, who text); ALTER TABLE app.good ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON app.good USING (who = current_user);
    CREATE TABLE app.bad (id int PRIMARY KEY, secret text); ALTER TABLE app.bad ENABLE ROW LEVEL SECURITY;
    GRANT SELECT ON app.good, app.bad TO PUBLIC;
    CREATE FUNCTION app.poison(id int, secret text) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END';
    CREATE FUNCTION app.stop() RETURNS bool LANGUAGE sql SECURITY DEFINER AS 'SELECT pg_terminate_backend(pg_backend_pid())';
    CREATE POLICY p ON app.bad TO authenticated USING (app.poison(id, secret));";

async fn with_poison(body: &str) -> Result<(Rig, PostgresCheck)> {
    poisoned(body, Rig::config).await
}

async fn poisoned(body: &str, config: fn(&Rig) -> CheckConfig) -> Result<(Rig, PostgresCheck)> {
    let rig = Rig::new(TABLES).await?;
    rig.run(&format!(
        "CREATE OR REPLACE FUNCTION app.poison(id int, secret text) RETURNS bool LANGUAGE plpgsql AS $f$ BEGIN {body}; RETURN true; END $f$"
    ))
    .await?;
    let check = PostgresCheck::connect(config(&rig)).await?;
    Ok((rig, check))
}

/// The poisoned row is denied; the good one in the same batch is judged as always, before and after.
async fn denied(body: &str, kind: &str) -> Result<()> {
    let config = match kind {
        "timeout" => Rig::impatient,
        _ => Rig::config,
    };
    let (mut rig, mut check) = poisoned(body, config).await?;
    rig.run("INSERT INTO app.good VALUES (1, 'anon')").await?;
    rig.run("INSERT INTO app.bad VALUES (1, 'x')").await?;
    rig.run("INSERT INTO app.good VALUES (2, 'authenticated')")
        .await?;
    let changes = rig.changes().await?;
    let viewers = [viewer("anon", "{}"), user(ALICE, ""), user(BOB, "")];
    let mut asked = 0;
    for round in 0..3 {
        let seen = ask(&mut check, &changes, &viewers).await;
        assert_eq!(
            seen,
            [vec![YES, NO, NO], vec![NO, NO, NO], vec![NO, YES, YES]],
            "{body}, round {round}"
        );
        // One that never ends is asked for each viewer, once more for both; not in each round.
        if round == 0 {
            asked = rig.asked();
            assert!(asked <= 4, "{body}: asked {asked} times");
        }
    }
    let counts = check.counters().read();
    assert!(
        counts.errors.contains_key(kind),
        "{body}: {:?}",
        counts.errors
    );
    assert_eq!(rig.asked(), asked, "{body}: asked again");
    Ok(())
}

#[tokio::test]
async fn resetting_the_role() -> Result<()> {
    denied("RESET ROLE", "escape").await?;
    denied("PERFORM set_config('role', 'none', true)", "escape").await?;
    denied(
        "PERFORM set_config('role', 'service_role', false)",
        "escape",
    )
    .await
}

#[tokio::test]
async fn changing_the_claims() -> Result<()> {
    denied(
        "PERFORM set_config('request.jwt.claims', '{\"sub\": \"x\"}', false)",
        "escape",
    )
    .await
}

#[tokio::test]
async fn sleeping() -> Result<()> {
    for endless in ["PERFORM pg_sleep(60)", "LOOP END LOOP"] {
        denied(&format!("{ASKED} {endless}"), "timeout").await?;
    }
    Ok(())
}

#[tokio::test]
async fn ending_the_session() -> Result<()> {
    denied("PERFORM app.stop()", "connection").await
}

#[tokio::test]
async fn dropping_prepared_statements() -> Result<()> {
    // What the check stands on is gone afterwards, not before: the verdict itself may be right.
    let (mut rig, mut check) = with_poison("EXECUTE 'DEALLOCATE ALL'").await?;
    rig.run("INSERT INTO app.bad VALUES (1, 'x')").await?;
    rig.run("INSERT INTO app.good VALUES (1, 'anon')").await?;
    let changes = rig.changes().await?;
    for _ in 0..3 {
        let seen = ask(
            &mut check,
            &changes,
            &[viewer("anon", "{}"), user(ALICE, "")],
        )
        .await;
        assert_eq!(seen.last(), Some(&vec![YES, NO]));
    }
    Ok(())
}

#[tokio::test]
async fn recursion_and_errors() -> Result<()> {
    denied("PERFORM app.poison(id, secret)", "54").await?;
    denied("RAISE EXCEPTION 'never: %', secret", "P0").await?;
    denied("PERFORM secret::int", "22").await
}

#[tokio::test]
async fn nothing_of_a_viewer_is_left_for_the_next() -> Result<()> {
    let (mut rig, mut check) = with_poison(
        "PERFORM set_config('search_path', 'evil', false), set_config('statement_timeout', '0', false), set_config('app.left', 'x', false),
         set_config('row_security', 'off', false), pg_advisory_lock(42), set_config('TimeZone', 'Asia/Tokyo', false),
           set_config('lock_timeout', '0', false), set_config('DateStyle', 'German', false), set_config('request.jwt.claim.sub', 'x', false), pg_advisory_lock_shared(43), pg_advisory_xact_lock(44);
         CREATE TEMP TABLE IF NOT EXISTS good AS SELECT 1 AS id; LISTEN poison",
    )
    .await?;
    rig.run("CREATE TABLE app.seen (id int PRIMARY KEY); GRANT SELECT ON app.seen TO PUBLIC; ALTER TABLE app.seen ENABLE ROW LEVEL SECURITY").await?;
    rig.run(
        "CREATE POLICY p ON app.seen USING (current_setting('app.left', true) IS NOT DISTINCT FROM '' OR current_setting('app.left', true) IS NULL);
         CREATE POLICY q ON app.seen AS RESTRICTIVE USING (current_setting('statement_timeout') = '20s' AND current_setting('row_security') = 'on'
           AND current_setting('TimeZone') = 'UTC' AND current_setting('search_path') NOT LIKE '%evil%' AND to_regclass('pg_temp.good') IS NULL
           AND current_setting('lock_timeout') = '250ms' AND current_setting('DateStyle') = 'ISO, MDY' AND current_setting('request.jwt.claim.sub') = auth.uid()::text
           AND current_user = 'authenticated' AND session_user = 'checker'
           AND NOT EXISTS (SELECT FROM pg_listening_channels())
           AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()))",
    )
    .await?;
    rig.run("INSERT INTO app.bad VALUES (1, 'x')").await?;
    rig.run("INSERT INTO app.seen VALUES (1)").await?;
    let changes = rig.changes().await?;
    let mut check_one = PostgresCheck::connect(CheckConfig {
        connections: 1,
        ..rig.config()
    })
    .await?;
    for _ in 0..3 {
        let seen = ask(&mut check_one, &changes, &[user(ALICE, ""), user(BOB, "")]).await;
        assert_eq!(seen, [vec![YES, YES], vec![YES, YES]]);
        ask(&mut check, &changes, &[user(ALICE, "")]).await;
    }
    let locks = rig
        .admin
        .query(
            "SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid IN (42, 43, 44)",
            &[],
        )
        .await?;
    assert!(
        locks.is_empty(),
        "a policy's advisory lock outlived its check"
    );
    Ok(())
}

#[tokio::test]
async fn an_error_on_one_row_hides_that_row_only() -> Result<()> {
    let (mut rig, mut check) =
        with_poison("IF id % 17 = 3 THEN RAISE EXCEPTION 'no: %', secret; END IF").await?;
    rig.run("INSERT INTO app.bad SELECT n, 'secret ' || n FROM generate_series(1, 60) n")
        .await?;
    let changes = rig.changes().await?;
    let seen = ask(&mut check, &changes, &[user(ALICE, ""), user(BOB, "")]).await;
    let expected: Vec<_> = (1..=60).map(|id| vec![Some(id % 17 != 3); 2]).collect();
    assert_eq!(seen, expected);
    assert_eq!(check.counters().read().errors.get("P0"), Some(&8));
    Ok(())
}

#[tokio::test]
async fn a_viewer_that_takes_too_long_costs_no_other_anything() -> Result<()> {
    let body = format!("IF auth.uid() = '{ALICE}' THEN {ASKED} PERFORM pg_sleep(60); END IF");
    let (mut rig, mut check) = poisoned(&body, Rig::impatient).await?;
    rig.run("INSERT INTO app.bad SELECT n, 'x' FROM generate_series(1, 20) n")
        .await?;
    let changes = rig.changes().await?;
    let mut viewers = vec![user(ALICE, "")];
    viewers.extend((0..50).map(|n| user(BOB, &format!(r#""n": {n}"#))));
    let seen = ask(&mut check, &changes, &viewers).await;
    for row in &seen {
        assert_eq!(row.first(), Some(&NO));
        assert!(row.iter().skip(1).all(|seen| *seen == YES), "{row:?}");
    }
    let asked = rig.asked();
    assert!((1..=2).contains(&asked), "asked {asked} times");
    let again = batch(&changes, &viewers);
    let answers = check.check(&again).await;
    assert_eq!(table(&again, &answers), seen);
    assert_eq!(rig.asked(), asked, "asked again");
    Ok(())
}

/// What `tracing` and `log` are given at the default level.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0
            .lock()
            .expect("no panic while writing")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_row_value_and_no_claim_is_in_a_log() -> Result<()> {
    let written = Written::default();
    let writer = written.clone();
    // For all tests of this process: a subscriber of one thread misses what others registered first.
    // `tokio_postgres` writes the server's notices at level INFO; the server's filter leaves them out.
    tracing_subscriber::fmt()
        .with_env_filter("info,tokio_postgres=warn")
        .with_writer(move || writer.clone())
        .try_init()
        .expect("no other test sets one");
    let (mut rig, mut check) = with_poison("RAISE WARNING 'warned %', secret; RAISE EXCEPTION 'raised %', secret USING DETAIL = secret").await?;
    rig.run("INSERT INTO app.bad VALUES (1, 'tok-12345')")
        .await?;
    let changes = rig.changes().await?;
    let alice = [user(ALICE, r#""email": "a@example.org""#)];
    // Failures are logged once a second at most, and other tests have theirs: ask until it is there.
    let logged = walcast_harness::eventually(Duration::from_secs(90), async || {
        ask(&mut check, &changes, &alice).await;
        let bytes = written.0.lock().expect("no panic while writing").clone();
        let log = String::from_utf8_lossy(&bytes).into_owned();
        (log.contains("P0001") && log.contains("app.bad")).then_some(log)
    });
    let log = logged.await?;
    assert!(
        !log.contains("tok-12345") && !log.contains("a@example.org") && !log.contains(ALICE),
        "{log}"
    );
    Ok(())
}
