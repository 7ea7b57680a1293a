//! What `examine` finds in a real database.

use anyhow::{Result, ensure};
use walcast_harness::Postgres;
use walcast_source::{Severity, SourceConfig, examine};

use crate::fixture::{Fixture, shared};

async fn codes(config: &SourceConfig, at_least: Severity) -> Vec<&'static str> {
    let findings = examine(config).await;
    findings
        .iter()
        .filter(|finding| finding.severity >= at_least)
        .map(|finding| finding.code)
        .collect()
}

#[tokio::test]
async fn a_good_database() -> Result<()> {
    let postgres = Postgres::start_with(&[("max_slot_wal_keep_size", "10GB")]).await?;
    let fixture = Fixture::new(&postgres).await?;
    fixture
        .run("ALTER TABLE item REPLICA IDENTITY FULL; ALTER TABLE item ENABLE ROW LEVEL SECURITY")
        .await?;
    let found = codes(&fixture.config(), Severity::Info).await;
    ensure!(found == ["slot_missing"], "{found:?}");
    let _reader = fixture.open().await?;
    let found = codes(&fixture.config(), Severity::Info).await;
    ensure!(found == ["slot_in_use"], "{found:?}");
    Ok(())
}

#[tokio::test]
async fn tables_and_publication() -> Result<()> {
    let fixture = Fixture::without_publication(shared().await).await?;
    let found = codes(&fixture.config(), Severity::Error).await;
    ensure!(found == ["publication_missing"], "{found:?}");
    fixture
        .run("CREATE PUBLICATION realtime WITH (publish = 'insert, update')")
        .await?;
    let found = codes(&fixture.config(), Severity::Warning).await;
    let expected = [
        "publication_empty",
        "publication_operations",
        "publication_not_via_root",
        "wal_unlimited",
    ];
    ensure!(found == expected, "{found:?}");
    fixture
        .run(
            "CREATE TABLE keyless (n int); CREATE TABLE \"Odd\" (n int, m int);
             ALTER TABLE \"Odd\" REPLICA IDENTITY FULL;
             CREATE TABLE parted (id int) PARTITION BY RANGE (id);
             CREATE TABLE part_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
             ALTER PUBLICATION realtime SET (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);
             ALTER PUBLICATION realtime SET TABLE item, keyless, parted, \"Odd\" (n)",
        )
        .await?;
    let findings = examine(&fixture.config()).await;
    let texts: Vec<_> = findings.iter().map(ToString::to_string).collect();
    let has = |code: &str, table: &str| {
        findings
            .iter()
            .any(|finding| finding.code == code && finding.what.contains(table))
    };
    for (code, table) in [
        ("replica_identity_missing", "public.keyless"),
        ("replica_identity_missing", "public.part_1"),
        ("replica_identity_key", "public.item"),
        ("row_security_off", "public.parted"),
        ("publication_narrowed", "public.\"Odd\""),
    ] {
        ensure!(has(code, table), "no {code} of {table} in {texts:#?}");
    }
    ensure!(
        !has("row_security_off", "part_1") && !has("publication_narrowed", "item"),
        "{texts:#?}"
    );
    // the remedy is SQL that works
    for finding in findings
        .iter()
        .filter(|finding| finding.code == "replica_identity_missing")
    {
        let sql = finding.remedy.split(", or").next().unwrap_or_default();
        fixture.run(sql).await?;
    }
    let found = codes(&fixture.config(), Severity::Error).await;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}

#[tokio::test]
async fn a_database_that_does_not_answer() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.database_url = "postgres://u:secret@127.0.0.1:1/x".into();
    let findings = examine(&config).await;
    let [finding] = findings.as_slice() else {
        anyhow::bail!("{findings:?}");
    };
    ensure!(
        finding.code == "database_unreachable" && finding.remedy.contains("port"),
        "{finding}"
    );
    ensure!(!finding.to_string().contains("secret"));
    Ok(())
}
