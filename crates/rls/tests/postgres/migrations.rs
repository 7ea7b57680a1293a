//! The helpers that our own migrations make are understood like those that others write.

use anyhow::Result;
use walcast_rls::{RowCheck, explain};

use crate::rig::{ALICE, BOB, NO, Rig, YES, ask, user};

/// As an administrator finds them after `walcast migrate`, in place of the rig's.
const MIGRATIONS: [&str; 6] = [
    include_str!("../../../../migrations/0001_schema.sql"),
    include_str!("../../../../migrations/0002_names.sql"),
    include_str!("../../../../migrations/0003_identity.sql"),
    include_str!("../../../../migrations/0004_enable.sql"),
    include_str!("../../../../migrations/0005_view.sql"),
    include_str!("../../../../migrations/0006_setup.sql"),
];

async fn rig(tables: &str) -> Result<Rig> {
    let all = MIGRATIONS.join(";\n");
    let sql = format!(
        "DROP SCHEMA auth CASCADE; {all}; SELECT * FROM realtime.walcast_setup_auth(); {tables}"
    );
    Rig::new(&sql).await
}

#[tokio::test]
async fn policies_with_our_own_helpers_need_no_statement() -> Result<()> {
    let mut rig = rig("CREATE TABLE todos (id int PRIMARY KEY, owner uuid, tenant text, mail text);
         GRANT SELECT ON todos TO PUBLIC; ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON todos TO authenticated USING (owner = (SELECT auth.uid()) AND tenant = auth.jwt() ->> 'tenant'
           AND auth.role() = 'authenticated' AND mail = auth.email())")
    .await?;
    let found = explain(&rig.config(), "public", "todos", Some("authenticated")).await?;
    let tiers: Vec<&str> = found.iter().map(|one| one.tier).collect();
    assert_eq!(tiers, ["index"], "{found:?}");
    let viewers = [
        user(ALICE, r#""tenant": "a", "email": "a@b""#),
        user(ALICE, r#""tenant": "b", "email": "a@b""#),
        user(BOB, r#""tenant": "a", "email": "a@b""#),
        user(ALICE, ""),
    ];
    let change = rig
        .change(&format!(
            "INSERT INTO todos VALUES (1, '{ALICE}', 'a', 'a@b')"
        ))
        .await?;
    let mut check = rig.check().await?;
    let answers = ask(&mut check, &[change], &viewers).await;
    assert_eq!(answers, [[YES, NO, NO, NO]]);
    let counts = check.counters().read();
    assert_eq!(
        (counts.index.visible, counts.index.hidden),
        (1, 3),
        "{counts:?}"
    );
    Ok(())
}

/// What a body bound at its making does counts, not what it is called; and its change is noticed.
#[tokio::test]
async fn bound_bodies_are_read() -> Result<()> {
    let mut rig = rig("CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
         CREATE TABLE app.members (who uuid, team int);
         CREATE FUNCTION app.me() RETURNS uuid LANGUAGE sql STABLE BEGIN ATOMIC SELECT auth.uid(); END;
         CREATE FUNCTION app.team() RETURNS int LANGUAGE sql STABLE SECURITY DEFINER RETURN (SELECT team FROM app.members WHERE who = auth.uid());
         CREATE FUNCTION app.always() RETURNS uuid LANGUAGE sql IMMUTABLE RETURN (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid;
         CREATE TABLE a (id int PRIMARY KEY, owner uuid); CREATE TABLE b (id int PRIMARY KEY, team int); CREATE TABLE c (id int PRIMARY KEY, owner uuid);
         GRANT SELECT ON a, b, c TO PUBLIC;
         ALTER TABLE a ENABLE ROW LEVEL SECURITY; ALTER TABLE b ENABLE ROW LEVEL SECURITY; ALTER TABLE c ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON a USING (owner = app.me()); CREATE POLICY p ON b USING (team = app.team()); CREATE POLICY p ON c USING (owner = app.always())")
    .await?;
    for (table, tier) in [("a", "index"), ("b", "image"), ("c", "image")] {
        let found = explain(&rig.config(), "public", table, Some("authenticated")).await?;
        assert_eq!(
            found.first().map(|one| one.tier),
            Some(tier),
            "{table}: {found:?}"
        );
    }
    let mut check = rig.check().await?;
    let viewers = [user(ALICE, ""), user(BOB, "")];
    for (number, viewer) in viewers.iter().enumerate() {
        check.watch(number as u32, viewer, "public", Some("a"));
    }
    let change = rig
        .change(&format!("INSERT INTO a VALUES (1, '{ALICE}')"))
        .await?;
    assert_eq!(
        ask(&mut check, std::slice::from_ref(&change), &viewers).await,
        [[YES, NO]]
    );
    rig.run(&format!(
        "CREATE OR REPLACE FUNCTION app.me() RETURNS uuid LANGUAGE sql STABLE RETURN '{ALICE}'::uuid"
    ))
    .await?;
    assert_eq!(ask(&mut check, &[change], &viewers).await, [[YES, YES]]);
    Ok(())
}
