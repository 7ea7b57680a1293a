//! The rows are those of a SELECT as the role.

use anyhow::Result;
use walcast_rls::{CheckConfig, Denial, ReadError, ReaderBounds, Refusal, TableReader, Viewer};

use crate::desk::{Desk, GENEROUS};
use crate::rig::{ALICE, BOB, user, viewer};

const TABLES: &str = r#"
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO anon, authenticated, service_role;
    CREATE TABLE app.teams (team int, who uuid); GRANT SELECT ON app.teams TO PUBLIC;
    INSERT INTO app.teams VALUES (1, '00000000-0000-0000-0000-00000000000a'), (2, '00000000-0000-0000-0000-00000000000b');
    CREATE TABLE app.docs (id int PRIMARY KEY, owner uuid, team int, body text);
    ALTER TABLE app.docs ENABLE ROW LEVEL SECURITY; GRANT SELECT ON app.docs TO PUBLIC;
    CREATE POLICY p ON app.docs TO authenticated USING (owner = auth.uid()
      OR EXISTS (SELECT FROM app.teams t WHERE t.team = docs.team AND t.who = auth.uid()));
    CREATE POLICY q ON app.docs AS RESTRICTIVE USING (body IS DISTINCT FROM 'never');
    INSERT INTO app.docs SELECT n, ('00000000-0000-0000-0000-00000000000' || substr('abc', 1 + n % 3, 1))::uuid, n % 5,
      CASE n % 7 WHEN 0 THEN 'never' WHEN 1 THEN NULL WHEN 2 THEN E'\t\n\r\b\f\v\\N\\' WHEN 3 THEN '' ELSE 'é "' || n END
      FROM generate_series(1, 5000) n;"#;

#[tokio::test]
async fn policies_columns_and_filters() -> Result<()> {
    let mut desk = Desk::new(TABLES).await?;
    let shape = desk
        .shape("INSERT INTO app.docs VALUES (0, NULL, 1, 'x')")
        .await?;
    let viewers = [
        user(ALICE, ""),
        user(BOB, ""),
        user("00000000-0000-0000-0000-00000000000d", ""),
        viewer("anon", "{}"),
        viewer("anon", ""),
        viewer("service_role", "{}"),
    ];
    let mut sizes = Vec::new();
    for viewer in &viewers {
        let expected = desk.select(viewer, "* FROM app.docs").await?;
        assert_eq!(desk.read(viewer, &shape, None, None).await?, expected);
        sizes.push(expected.len());
        for filter in [
            "team OPERATOR(pg_catalog.=) 3",
            "body ~~ '%\\%' -- a comment",
            "false",
        ] {
            let what = format!("* FROM app.docs WHERE {filter}");
            let expected = desk.select(viewer, &what).await?;
            let found = desk.read(viewer, &shape, None, Some(filter)).await?;
            assert_eq!(found, expected, "{filter}");
        }
        let columns = [3].into_iter().collect();
        let found = desk.read(viewer, &shape, Some(&columns), None).await?;
        let what = "id, '?', '?', body FROM app.docs";
        assert_eq!(found, desk.select(viewer, what).await?, "the key as well");
    }
    // 4,287 rows pass the restrictive policy.
    assert!(
        sizes[..2].iter().all(|size| (1500..4000).contains(size)),
        "{sizes:?}"
    );
    assert_eq!(sizes[2..], [0, 0, 0, 5001]);
    Ok(())
}

#[tokio::test]
async fn only_columns_that_the_role_may_select() -> Result<()> {
    let mut desk = Desk::new(
        "CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO anon, authenticated;
         CREATE TABLE app.part (id int PRIMARY KEY, open text, secret text, gone int);
         ALTER TABLE app.part DROP COLUMN gone;
         GRANT SELECT (id, open) ON app.part TO anon; GRANT SELECT (open) ON app.part TO authenticated;
         INSERT INTO app.part VALUES (1, 'a', 's')",
    )
    .await?;
    let shape = desk
        .shape("INSERT INTO app.part VALUES (2, NULL, 's')")
        .await?;
    let anon = viewer("anon", "{}");
    let found = desk.read(&anon, &shape, None, None).await?;
    let what = "id, open, '?' FROM app.part";
    assert_eq!(found, desk.select(&anon, what).await?);
    let denied = |error| matches!(error, Err(ReadError::Denied(_)));
    let by_secret = Some("secret = 's'");
    assert!(denied(desk.read(&anon, &shape, None, by_secret).await));
    let keyless = desk.read(&user(ALICE, ""), &shape, None, None).await;
    assert!(matches!(keyless, Err(ReadError::Denied(Denial::Key))));
    for round in 0..3 {
        let again = desk.read(&anon, &shape, None, None).await?;
        assert_eq!(again, found, "after denials, {round}");
    }
    desk.rig
        .run("REVOKE SELECT (id, open) ON app.part FROM anon")
        .await?;
    assert!(denied(desk.read(&anon, &shape, None, None).await));
    Ok(())
}

#[tokio::test]
async fn roots_children_and_odd_names() -> Result<()> {
    let mut desk = Desk::new(
        r#"CREATE SCHEMA "A ""b"; GRANT USAGE ON SCHEMA "A ""b" TO PUBLIC;
         CREATE TABLE "A ""b"."Tä"";--" (id int PRIMARY KEY, "select" text, "a""b'\" text, "current_user" text, "ünï code" int);
         CREATE TABLE "A ""b".root (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
         CREATE TABLE "A ""b".root_1 PARTITION OF "A ""b".root FOR VALUES IN (1);
         CREATE TABLE "A ""b".root_2 PARTITION OF "A ""b".root FOR VALUES IN (2) PARTITION BY LIST (id);
         CREATE TABLE "A ""b".root_2_d PARTITION OF "A ""b".root_2 DEFAULT;
         ALTER TABLE "A ""b".root ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON "A ""b".root USING (id <> 13);
         CREATE TABLE "A ""b".parent (id int PRIMARY KEY); CREATE TABLE "A ""b".child (more int) INHERITS ("A ""b".parent);
         INSERT INTO "A ""b".child VALUES (7, 7);
         GRANT SELECT ON ALL TABLES IN SCHEMA "A ""b" TO PUBLIC;
         INSERT INTO "A ""b".root SELECT n, 1 + n % 2 FROM generate_series(1, 100) n"#,
    )
    .await?;
    let anon = viewer("anon", r#"{"name": "O'Neil \\ \" é"}"#);
    for (table, insert) in [
        (r#""A ""b"."Tä"";--""#, "VALUES (1, 'x', E'\\\\', 'y', 3)"),
        (r#""A ""b".root"#, "VALUES (1000, 2)"),
        (r#""A ""b".parent"#, "VALUES (1)"),
    ] {
        let shape = desk.shape(&format!("INSERT INTO {table} {insert}")).await?;
        let found = desk.read(&anon, &shape, None, None).await?;
        let expected = desk.select(&anon, &format!("* FROM {table}")).await?;
        assert_eq!(found, expected, "{table}");
        assert!(!found.is_empty(), "{table}");
    }
    Ok(())
}

#[tokio::test]
async fn refused_roles() -> Result<()> {
    let mut desk = Desk::new(
        "CREATE TABLE open (id int PRIMARY KEY); GRANT SELECT ON open TO PUBLIC; INSERT INTO open VALUES (1)",
    )
    .await?;
    let shape = desk.shape("INSERT INTO open VALUES (2)").await?;
    for (role, refusal) in [
        ("none", Refusal::Reserved),
        ("", Refusal::Reserved),
        ("PUBLIC", Refusal::Reserved),
        ("pg_read_all_data", Refusal::Reserved),
        ("postgres", Refusal::Superuser),
        ("boss", Refusal::Superuser),
        ("copier", Refusal::Replication),
        ("bypasser", Refusal::Bypass),
        ("checker", Refusal::Login),
        ("stranger", Refusal::NotGranted),
    ] {
        let found = desk.read(&viewer(role, "{}"), &shape, None, None).await;
        match found {
            Err(ReadError::Denied(Denial::Role(found))) => assert_eq!(found, refusal, "{role}"),
            other => panic!("{role}: {other:?}"),
        }
    }
    let nobody = desk.read(&viewer("nobody", "{}"), &shape, None, None).await;
    assert!(matches!(nobody, Err(ReadError::Denied(Denial::Missing))));
    let found = desk.read(&viewer("anon", "{}"), &shape, None, None).await?;
    assert_eq!(found.len(), 2);
    for claims in ["{", "{\"a\": \"\0\"}"] {
        let found = desk.read(&viewer("anon", claims), &shape, None, None).await;
        assert!(found.is_err(), "{claims:?}");
    }
    // On a developer's machine the login is often the superuser.
    let reader = TableReader::new(
        CheckConfig {
            connector: desk.rig.connector_as("postgres"),
            ..desk.rig.config()
        },
        ReaderBounds::default(),
    );
    let read = async |role| {
        let viewer: Viewer = viewer(role, "{}");
        reader.read(&viewer, &shape, None, None, GENEROUS).await
    };
    assert!(read("anon").await.is_ok() && read("boss").await.is_err());
    Ok(())
}
