//! A change of policies, grants or memberships counts from the next batch on.

use std::time::Duration;

use anyhow::Result;
use walcast_rls::{CheckConfig, PostgresCheck, RowCheck};

use crate::rig::{ALICE, NO, Rig, YES, ask, user, viewer};

const DOCS: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE TABLE app.members (who uuid, team int); ALTER TABLE app.members REPLICA IDENTITY FULL; GRANT SELECT ON app.members TO PUBLIC;
    CREATE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n = 1';
    CREATE TABLE app.docs (id int PRIMARY KEY, team int, body text); ALTER TABLE app.docs ENABLE ROW LEVEL SECURITY;
    GRANT SELECT ON app.docs TO PUBLIC;
    CREATE POLICY p ON app.docs USING (app.is_one(team));";

#[tokio::test]
async fn ddl_takes_effect_at_once() -> Result<()> {
    let mut rig = Rig::new(DOCS).await?;
    let mut check = rig.check().await?;
    let viewers = [
        user(ALICE, ""),
        viewer("editor", "{}"),
        viewer("senior", "{}"),
    ];
    let change = [rig
        .change("INSERT INTO app.docs VALUES (1, 1, 'x')")
        .await?];
    let steps: &[(&str, [Option<bool>; 3])] = &[
        ("SELECT 1", [YES, YES, YES]),
        ("DROP POLICY p ON app.docs", [NO, NO, NO]),
        (
            "CREATE POLICY p ON app.docs TO editor USING (true)",
            [NO, YES, YES],
        ),
        ("REVOKE editor FROM senior", [NO, YES, NO]),
        ("GRANT editor TO senior", [NO, YES, YES]),
        ("ALTER ROLE senior NOINHERIT", [NO, YES, NO]),
        ("ALTER ROLE senior INHERIT", [NO, YES, YES]),
        ("ALTER POLICY p ON app.docs USING (team = 2)", [NO, NO, NO]),
        (
            "ALTER POLICY p ON app.docs TO PUBLIC USING (EXISTS (SELECT FROM app.members WHERE team = docs.team AND who = auth.uid()))",
            [NO, NO, NO],
        ),
        (
            "INSERT INTO app.members VALUES ('00000000-0000-0000-0000-00000000000a', 1)",
            [YES, NO, NO],
        ),
        (
            "ALTER TABLE app.members RENAME COLUMN who TO whom",
            [YES, NO, NO],
        ),
        ("ALTER TABLE app.members RENAME TO people", [YES, NO, NO]),
        (
            "ALTER TABLE app.people ENABLE ROW LEVEL SECURITY",
            [NO, NO, NO],
        ),
        (
            "CREATE POLICY m ON app.people USING (whom = auth.uid())",
            [YES, NO, NO],
        ),
        ("REVOKE SELECT ON app.people FROM PUBLIC", [NO, NO, NO]),
        (
            "GRANT SELECT ON app.people TO PUBLIC; ALTER SCHEMA app RENAME TO app2",
            [YES, NO, NO],
        ),
        (
            "ALTER SCHEMA app2 RENAME TO app; DELETE FROM app.people",
            [NO, NO, NO],
        ),
        (
            "ALTER POLICY p ON app.docs USING (app.is_one(team))",
            [YES, YES, YES],
        ),
        (
            "CREATE OR REPLACE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n = 2'",
            [NO, NO, NO],
        ),
        (
            "CREATE OR REPLACE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT true'",
            [YES, YES, YES],
        ),
        (
            "CREATE POLICY r ON app.docs AS RESTRICTIVE TO editor USING (false)",
            [YES, NO, NO],
        ),
        (
            "ALTER TABLE app.docs DISABLE ROW LEVEL SECURITY",
            [YES, YES, YES],
        ),
        (
            "ALTER TABLE app.docs ENABLE ROW LEVEL SECURITY; DROP POLICY r ON app.docs; REVOKE SELECT ON app.docs FROM PUBLIC",
            [NO, NO, NO],
        ),
        (
            "GRANT SELECT (body) ON app.docs TO authenticated; GRANT SELECT (id) ON app.docs TO editor",
            [NO, YES, YES],
        ),
        (
            "REVOKE SELECT (id) ON app.docs FROM editor; REVOKE SELECT (body) ON app.docs FROM authenticated",
            [NO, NO, NO],
        ),
        (
            "GRANT SELECT ON app.docs TO PUBLIC; REVOKE USAGE ON SCHEMA app FROM PUBLIC; GRANT USAGE ON SCHEMA app TO editor",
            [NO, YES, YES],
        ),
        (
            "GRANT USAGE ON SCHEMA app TO PUBLIC; ALTER TABLE app.docs RENAME COLUMN team TO crew",
            [YES, YES, YES],
        ),
    ];
    let mut without_policies = false;
    for (sql, expected) in steps {
        rig.run(sql).await?;
        if without_policies {
            check.invalidate(); // as the pipeline does when the stream describes the table anew
        }
        without_policies = sql.contains("DISABLE");
        let seen = ask(&mut check, &change, &viewers).await;
        assert_eq!(seen, [expected.to_vec()], "after {sql}");
    }
    let reloads = check.counters().read().reloads;
    assert!(reloads > 10, "{reloads} reloads: something else noticed");
    Ok(())
}

/// Policies name types, and the values of enums, which may be given other names.
#[tokio::test]
async fn names_of_types_change() -> Result<()> {
    let mut rig = Rig::new(
        "CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE DOMAIN short AS varchar(3); CREATE DOMAIN long AS varchar(9);
         CREATE COLLATION loose (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
         CREATE COLLATION strict (provider = icu, locale = 'und');
         CREATE TABLE docs (id int PRIMARY KEY, mood mood, team text); ALTER TABLE docs ENABLE ROW LEVEL SECURITY; GRANT SELECT ON docs TO PUBLIC;
         CREATE POLICY p ON docs USING (true)",
    )
    .await?;
    let mut check = rig.check().await?;
    let change = [rig
        .change("INSERT INTO docs VALUES (1, NULL, 'abc')")
        .await?];
    let viewer = user(ALICE, r#""team": "abcdef""#);
    for sql in [
        "SELECT 1",
        "ALTER POLICY p ON docs USING (coalesce(mood, 'sad') = 'sad')",
        "ALTER TYPE mood RENAME VALUE 'sad' TO 'bad'",
        "ALTER TYPE mood RENAME VALUE 'glad' TO 'sad'",
        "ALTER TYPE mood RENAME TO feeling; CREATE TYPE mood AS ENUM ('bad')",
        "ALTER POLICY p ON docs USING (team::text = (auth.jwt() ->> 'team')::short::text)",
        "ALTER DOMAIN short RENAME TO was; ALTER DOMAIN long RENAME TO short; ALTER DOMAIN was RENAME TO long",
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC; ALTER DOMAIN long SET SCHEMA app",
        "ALTER POLICY p ON docs USING (team = 'ABC' COLLATE loose)",
        "ALTER COLLATION loose RENAME TO was; ALTER COLLATION strict RENAME TO loose; ALTER COLLATION was RENAME TO strict",
    ] {
        rig.run(sql).await?;
        let expected = rig.finds(&viewer, "docs", "id = 1").await;
        let seen = ask(&mut check, &change, std::slice::from_ref(&viewer)).await;
        assert_eq!(seen, [[Some(expected)]], "after {sql}");
        assert!(expected, "nothing is shown by {sql}");
    }
    Ok(())
}

#[tokio::test]
async fn without_policies_the_stated_bound_holds() -> Result<()> {
    let mut rig = Rig::new(DOCS).await?;
    let bound = Duration::from_millis(200);
    let mut check = PostgresCheck::connect(CheckConfig {
        staleness_max: bound,
        ..rig.config()
    })
    .await?;
    rig.run("ALTER TABLE app.docs DISABLE ROW LEVEL SECURITY")
        .await?;
    let change = [rig
        .change("INSERT INTO app.docs VALUES (1, 1, 'x')")
        .await?];
    let viewers = [viewer("editor", "{}")];
    assert_eq!(ask(&mut check, &change, &viewers).await, [vec![YES]]);
    for (sql, seen) in [
        ("REVOKE SELECT ON app.docs FROM PUBLIC", NO),
        ("GRANT SELECT ON app.docs TO PUBLIC", YES),
    ] {
        rig.run(sql).await?;
        // What is asked after the bound is answered by the new rules, however long the answer takes.
        tokio::time::sleep(bound).await;
        assert_eq!(
            ask(&mut check, &change, &viewers).await,
            [vec![seen]],
            "after {sql}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_of_postgres_denies_nothing() -> Result<()> {
    let rig = Rig::new(DOCS).await?;
    let mut rig = rig;
    let mut check = rig.check().await?;
    let change = [rig
        .change("INSERT INTO app.docs VALUES (1, 1, 'x')")
        .await?];
    let viewers = [user(ALICE, ""), viewer("editor", "{}")];
    assert_eq!(ask(&mut check, &change, &viewers).await, [vec![YES, YES]]);
    // What a restart does to the sessions, without ending those of the other tests.
    let sql = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE usename = 'checker' AND datname = current_database()";
    let ended: i64 = rig.admin.query_one(sql, &[]).await?.get(0);
    assert!(ended > 0);
    assert_eq!(ask(&mut check, &change, &viewers).await, [vec![YES, YES]]);
    assert_eq!(check.counters().read().errors.len(), 0);
    Ok(())
}
