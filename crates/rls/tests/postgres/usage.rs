//! Schemas that policies name: the policy's author could see them, the subscriber need not.

use anyhow::Result;
use walcast_rls::{CheckConfig, PostgresCheck};

use crate::rig::{ALICE, BOB, NO, Rig, YES, ask, user};

const DOCS: &str = "
    CREATE SCHEMA hidden; CREATE FUNCTION hidden.me() RETURNS uuid LANGUAGE sql STABLE AS 'SELECT auth.uid()';
    CREATE TABLE hidden.members (doc int, who uuid); GRANT SELECT ON hidden.members TO PUBLIC;
    INSERT INTO hidden.members VALUES (1, '00000000-0000-0000-0000-00000000000a');
    CREATE TABLE docs (id int PRIMARY KEY, owner uuid); GRANT SELECT ON docs TO PUBLIC; ALTER TABLE docs ENABLE ROW LEVEL SECURITY;";

async fn verdict(
    policy: &str,
    more: &str,
    login: &str,
) -> Result<(Vec<Vec<Option<bool>>>, Vec<bool>)> {
    let mut rig = Rig::new(&format!(
        "{DOCS} CREATE POLICY p ON docs USING ({policy}); {more}"
    ))
    .await?;
    let mut check = PostgresCheck::connect(CheckConfig {
        connector: rig.connector_as(login),
        ..rig.config()
    })
    .await?;
    let change = [rig
        .change(&format!("INSERT INTO docs VALUES (1, '{ALICE}')"))
        .await?];
    let viewers = [user(ALICE, ""), user(BOB, "")];
    let mut direct = Vec::new();
    for viewer in &viewers {
        direct.push(rig.finds(viewer, "docs", "id = 1").await);
    }
    Ok((ask(&mut check, &change, &viewers).await, direct))
}

#[tokio::test]
async fn the_login_may_look_where_the_role_may_not() -> Result<()> {
    let usage = "GRANT USAGE ON SCHEMA hidden TO checker";
    for policy in [
        "owner = hidden.me()",
        "EXISTS (SELECT FROM hidden.members m WHERE m.doc = docs.id AND m.who = auth.uid())",
    ] {
        let (seen, direct) = verdict(policy, usage, "checker").await?;
        assert_eq!(direct, [true, false], "{policy}");
        assert_eq!(seen, [vec![YES, NO]], "{policy}");
    }
    Ok(())
}

#[tokio::test]
async fn the_role_may_look_where_the_login_may_not() -> Result<()> {
    let (seen, direct) = verdict(
        "owner = hidden.me()",
        "GRANT USAGE ON SCHEMA hidden TO authenticated",
        "checker",
    )
    .await?;
    assert_eq!((seen, direct), (vec![vec![YES, NO]], vec![true, false]));
    Ok(())
}

/// Two limits, both on the side of denial, and both with the same remedy: USAGE for the role.
#[tokio::test]
async fn denied_where_names_cannot_be_looked_up() -> Result<()> {
    let (seen, direct) = verdict("owner = hidden.me()", "", "checker").await?;
    assert_eq!((seen, direct), (vec![vec![NO, NO]], vec![true, false]));
    // With a policy on the other table, Postgres itself looks the names up again, as the role.
    let policy =
        "EXISTS (SELECT FROM hidden.members m WHERE m.doc = docs.id AND m.who = auth.uid())";
    let secured = "ALTER TABLE hidden.members ENABLE ROW LEVEL SECURITY; CREATE POLICY m ON hidden.members USING (true);";
    let (seen, direct) = verdict(
        policy,
        &format!("{secured} GRANT USAGE ON SCHEMA hidden TO checker"),
        "checker",
    )
    .await?;
    assert_eq!((seen, direct), (vec![vec![NO, NO]], vec![true, false]));
    let (seen, direct) = verdict(
        policy,
        &format!("{secured} GRANT USAGE ON SCHEMA hidden TO authenticated"),
        "checker",
    )
    .await?;
    assert_eq!((seen, direct), (vec![vec![YES, NO]], vec![true, false]));
    Ok(())
}
