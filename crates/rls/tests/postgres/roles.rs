//! Which roles are judged for.

use anyhow::Result;
use walcast_rls::{CheckConfig, PostgresCheck};

use crate::rig::{NO, Rig, YES, ask, viewer};

const OPEN: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE TABLE app.open (id int PRIMARY KEY); GRANT SELECT ON app.open TO PUBLIC;
    CREATE TABLE app.shut (id int PRIMARY KEY); GRANT SELECT ON app.shut TO PUBLIC; ALTER TABLE app.shut ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON app.shut TO anon USING (true);";

#[tokio::test]
async fn dangerous_roles_see_nothing() -> Result<()> {
    let mut rig = Rig::new(OPEN).await?;
    let mut check = rig.check().await?;
    rig.run("INSERT INTO app.open VALUES (1)").await?;
    rig.run("INSERT INTO app.shut VALUES (1)").await?;
    let changes = rig.changes().await?;
    let long = "r".repeat(65_536);
    let names = [
        "none",
        "NONE",
        "",
        " ",
        "postgres",
        "boss",
        "copier",
        "bypasser",
        "checker",
        "stranger",
        "pg_read_all_data",
        "pg_monitor",
        "no such role",
        "anon\"; DROP TABLE app.open; --",
        "anon\0",
        "аnon",
        "public",
        "PUBLIC",
        &long,
        "Anon",
        "anon ",
    ];
    let viewers: Vec<_> = names.iter().map(|name| viewer(name, "{}")).collect();
    for row in ask(&mut check, &changes, &viewers).await {
        for (name, seen) in names.iter().zip(row) {
            assert_eq!(seen, NO, "{name:.20}");
        }
    }
    let seen = ask(
        &mut check,
        &changes,
        &[
            viewer("anon", "{}"),
            viewer("editor", "{}"),
            viewer("service_role", "{}"),
        ],
    )
    .await;
    assert_eq!(seen, [vec![YES, YES, YES], vec![YES, NO, YES]]);
    assert!(check.counters().read().refused >= 42);
    Ok(())
}

#[tokio::test]
async fn the_allowed_list_narrows() -> Result<()> {
    let mut rig = Rig::new(OPEN).await?;
    let config = CheckConfig {
        allowed_roles: Some(vec!["anon".into()]),
        bypass_roles: Vec::new(),
        ..rig.config()
    };
    let mut check = PostgresCheck::connect(config).await?;
    let change = [rig.change("INSERT INTO app.open VALUES (1)").await?];
    let viewers = [
        viewer("anon", "{}"),
        viewer("editor", "{}"),
        viewer("service_role", "{}"),
    ];
    assert_eq!(
        ask(&mut check, &change, &viewers).await,
        [vec![YES, NO, NO]]
    );
    Ok(())
}

/// On a developer's machine the login is often the superuser.
#[tokio::test]
async fn a_superuser_as_login_judges_the_same() -> Result<()> {
    let mut rig = Rig::new(OPEN).await?;
    let mut check = PostgresCheck::connect(CheckConfig {
        connector: rig.connector_as("postgres"),
        ..rig.config()
    })
    .await?;
    let change = [rig.change("INSERT INTO app.shut VALUES (1)").await?];
    let viewers = [
        viewer("anon", "{}"),
        viewer("editor", "{}"),
        viewer("postgres", "{}"),
        viewer("boss", "{}"),
        viewer("service_role", "{}"),
    ];
    assert_eq!(
        ask(&mut check, &change, &viewers).await,
        [vec![YES, NO, NO, NO, YES]]
    );
    Ok(())
}

#[tokio::test]
async fn claims_that_are_no_json_see_nothing() -> Result<()> {
    let mut rig = Rig::new(OPEN).await?;
    let mut check = rig.check().await?;
    let change = [rig.change("INSERT INTO app.shut VALUES (1)").await?];
    let viewers = [
        viewer("anon", "{"),
        viewer("anon", "{\"a\": \"\0\"}"),
        viewer("anon", ""),
        viewer("anon", "{}"),
    ];
    assert_eq!(
        ask(&mut check, &change, &viewers).await,
        [vec![NO, NO, YES, YES]]
    );
    Ok(())
}
