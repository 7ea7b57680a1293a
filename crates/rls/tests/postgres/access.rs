//! May a viewer subscribe?

use anyhow::Result;
use walcast_rls::{Access, AccessError, Denial};

use crate::rig::{Rig, viewer};

const TABLES: &str = r#"
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO anon, editor; CREATE SCHEMA empty; GRANT USAGE ON SCHEMA empty TO PUBLIC;
    CREATE TABLE app.docs (id int PRIMARY KEY, secret text, body varchar(9)); GRANT SELECT (id, body) ON app.docs TO anon;
    GRANT SELECT (body) ON app.docs TO editor; GRANT SELECT ON app.docs TO auditor;
    CREATE TABLE app."Odd "" name" ("Id" int); GRANT SELECT ON app."Odd "" name" TO anon;
    CREATE VIEW app.view AS SELECT 1; GRANT SELECT ON app.view TO anon;"#;

/// Role, schema, table, filter columns; their types.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    Result<&'static [u32], Denial>,
);

#[tokio::test]
async fn who_may_subscribe_to_what() -> Result<()> {
    let rig = Rig::new(TABLES).await?;
    rig.run("CREATE UNLOGGED TABLE app.plain (id int); GRANT SELECT ON app.plain TO anon")
        .await?;
    let access = Access::connect(rig.config(), "realtime").await?;
    let cases: &[Case] = &[
        ("anon", "app", "docs", &[], Ok(&[])),
        ("anon", "app", "docs", &["id", "body"], Ok(&[23, 1043])),
        (
            "anon",
            "app",
            "docs",
            &["secret"],
            Err(Denial::FilterColumn),
        ),
        (
            "anon",
            "app",
            "docs",
            &["none such"],
            Err(Denial::FilterColumn),
        ),
        ("anon", "app", "docs", &["ctid"], Err(Denial::FilterColumn)),
        ("anon", "app", "Odd \" name", &["Id"], Ok(&[23])),
        ("editor", "app", "docs", &[], Err(Denial::Key)),
        ("auditor", "app", "docs", &[], Err(Denial::Schema)),
        ("anon", "app", "view", &[], Err(Denial::Missing)),
        ("anon", "app", "none", &[], Err(Denial::Missing)),
        ("anon", "app", "do\0cs", &[], Err(Denial::Missing)),
        ("anon", "app", "plain", &[], Err(Denial::NotPublished)),
        ("anon", "nowhere", "docs", &[], Err(Denial::Missing)),
        ("anon", "realtime", "messages", &[], Err(Denial::Messages)),
        (
            "anon",
            "pg_catalog",
            "pg_class",
            &[],
            Err(Denial::NotPublished),
        ),
    ];
    for (role, schema, table, columns, expected) in cases {
        let found = access
            .table(&viewer(role, "{}"), schema, table, columns)
            .await;
        let found = match found {
            Ok(types) => Ok(types),
            Err(AccessError::Denied(denial)) => Err(denial),
            Err(error) => anyhow::bail!("{error}"),
        };
        assert_eq!(
            found.as_deref().map_err(Clone::clone),
            expected.clone(),
            "{role} {schema}.{table} {columns:?}"
        );
    }
    for role in [
        "none",
        "postgres",
        "boss",
        "copier",
        "checker",
        "stranger",
        "",
        "pg_monitor",
    ] {
        let found = access.table(&viewer(role, "{}"), "app", "docs", &[]).await;
        assert!(
            matches!(found, Err(AccessError::Denied(Denial::Role(_)))),
            "{role}: {found:?}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn one_answer_for_all_denials() -> Result<()> {
    let rig = Rig::new(TABLES).await?;
    let access = Access::connect(rig.config(), "realtime").await?;
    let mut texts = Vec::new();
    for (role, table, column) in [
        ("anon", "none", "id"),
        ("auditor", "docs", "id"),
        ("anon", "docs", "secret"),
        ("none", "docs", "id"),
    ] {
        let error = access
            .table(&viewer(role, "{}"), "app", table, &[column])
            .await
            .expect_err("denied");
        assert!(error.is_final());
        texts.push((error.to_string(), error.reason()));
    }
    assert!(
        texts
            .windows(2)
            .all(|pair| pair[0].0 == pair[1].0 && pair[0].1 != pair[1].1),
        "{texts:?}"
    );
    Ok(())
}

#[tokio::test]
async fn whole_schemas() -> Result<()> {
    let rig = Rig::new(TABLES).await?;
    let access = Access::connect(rig.config(), "realtime").await?;
    let (anon, editor) = (viewer("anon", "{}"), viewer("editor", "{}"));
    assert_eq!(access.tables(&anon, "app").await?, ["Odd \" name", "docs"]);
    assert!(access.schema(&anon, "app").await.is_ok());
    for (viewer, schema) in [
        (&editor, "app"),
        (&anon, "empty"),
        (&anon, "nowhere"),
        (&anon, "a\0"),
    ] {
        assert!(
            matches!(
                access.schema(viewer, schema).await,
                Err(AccessError::Denied(_))
            ),
            "{viewer:?} {schema}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_lost_session_is_opened_anew() -> Result<()> {
    let rig = Rig::new(TABLES).await?;
    let access = Access::connect(rig.config(), "realtime").await?;
    let sql = "SELECT count(pg_terminate_backend(pid, 60000)) FROM pg_stat_activity WHERE usename = 'checker' AND datname = current_database()";
    let ended: i64 = rig.admin.query_one(sql, &[]).await?.get(0);
    assert_eq!(ended, 1);
    assert!(
        access
            .clone()
            .table(&viewer("anon", "{}"), "app", "docs", &[])
            .await
            .is_ok()
    );
    Ok(())
}
