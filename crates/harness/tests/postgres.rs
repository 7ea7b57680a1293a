//! The private Postgres: does it come up, go down, and vanish?

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use walcast_harness::{Postgres, StopMode, eventually};

const DEADLINE: Duration = Duration::from_secs(120);

async fn folder(postgres: &Postgres) -> Result<PathBuf> {
    let client = postgres.connect("postgres", "postgres").await?;
    let data: String = client.query_one("SHOW data_directory", &[]).await?.get(0);
    let parent = PathBuf::from(data);
    Ok(parent
        .parent()
        .context("a data folder's parent")?
        .to_path_buf())
}

#[tokio::test]
async fn is_reached_by_tcp_and_socket_and_takes_settings() -> Result<()> {
    let postgres = Postgres::start_with(&[("max_wal_senders", "7")]).await?;
    let database = postgres.create_database().await?;
    for url in [
        postgres.url("postgres", &database),
        postgres.socket_url("postgres", &database),
    ] {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        for (name, value) in [
            ("wal_level", "logical"),
            ("max_wal_senders", "7"),
            ("synchronous_commit", "on"),
        ] {
            let row = client.query_one(&format!("SHOW {name}"), &[]).await?;
            assert_eq!(row.get::<_, &str>(0), value, "{name} by {url}");
        }
    }
    assert!(postgres.port() < 32_768);
    Ok(())
}

#[tokio::test]
async fn committed_rows_survive_both_ways_of_stopping() -> Result<()> {
    let postgres = Postgres::start().await?;
    let client = postgres.connect("postgres", "postgres").await?;
    client.batch_execute("CREATE TABLE t (n int)").await?;
    for (count, mode) in [(1i64, StopMode::Fast), (2, StopMode::Immediate)] {
        let client = postgres.connect("postgres", "postgres").await?;
        client.execute("INSERT INTO t VALUES (1)", &[]).await?;
        postgres.stop(mode).await?;
        assert!(postgres.connect("postgres", "postgres").await.is_err());
        postgres.start_again().await?;
        let client = postgres.connect("postgres", "postgres").await?;
        let row = client.query_one("SELECT count(*) FROM t", &[]).await?;
        assert_eq!(row.get::<_, i64>(0), count, "after {mode:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_folder() -> Result<()> {
    let postgres = Postgres::start().await?;
    let folder = folder(&postgres).await?;
    assert!(folder.exists());
    drop(postgres);
    assert!(!folder.exists());
    Ok(())
}

#[tokio::test]
async fn the_cluster_of_a_killed_process_goes_too() -> Result<()> {
    // This test runs itself once more as a child that starts a cluster and then is killed.
    const ROLE: &str = "WALCAST_HARNESS_VICTIM";
    if let Some(file) = std::env::var_os(ROLE) {
        let folder = folder(Postgres::shared().await).await?;
        std::fs::write(file, folder.display().to_string())?;
        std::future::pending::<()>().await;
    }
    let notes = tempfile::tempdir()?;
    let note = notes.path().join("folder");
    let mut child = tokio::process::Command::new(std::env::current_exe()?)
        .args(["--exact", "the_cluster_of_a_killed_process_goes_too"])
        .env(ROLE, &note)
        .stdout(std::process::Stdio::null())
        .spawn()?;
    let folder = eventually(DEADLINE, async || {
        let text = std::fs::read_to_string(&note).ok()?;
        (!text.is_empty()).then(|| PathBuf::from(text))
    })
    .await
    .context("the child's cluster")?;
    assert!(folder.exists());
    child.kill().await?;
    eventually(DEADLINE, async || (!folder.exists()).then_some(()))
        .await
        .context("the folder goes")?;
    Ok(())
}
