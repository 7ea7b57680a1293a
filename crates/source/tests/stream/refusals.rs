//! What keeps a source from starting, and that it says what to do.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use tokio_util::sync::CancellationToken;
use walcast_harness::{Postgres, StopMode};
use walcast_source::{Retry, Source, SourceConfig, SourceError, StreamState};

use crate::fixture::{DEADLINE, Fixture, Reader, shared};
use crate::proxy::Proxy;

async fn refusal(config: SourceConfig) -> Result<SourceError> {
    let opening = Source::open(config, CancellationToken::new());
    match tokio::time::timeout(DEADLINE, opening).await? {
        Ok(_) => anyhow::bail!("it was opened"),
        Err(error) => Ok(error),
    }
}

/// Refused with this finding, and a remedy that contains `remedy`.
async fn refused(config: SourceConfig, code: &str, remedy: &str) -> Result<()> {
    let error = refusal(config).await?;
    ensure!(error.retry() == Retry::Operator, "{error}");
    ensure!(error.kind() == code, "{}: {error}", error.kind());
    ensure!(error.to_string().contains(remedy), "{error}");
    Ok(())
}

/// Refused with the server's own SQLSTATE.
async fn refused_by_server(config: SourceConfig, code: &str) -> Result<()> {
    let error = refusal(config).await?;
    ensure!(
        error.retry() == Retry::Operator && error.code() == Some(code),
        "{error}"
    );
    Ok(())
}

#[tokio::test]
async fn what_only_an_operator_can_mend() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let role = format!("{}_plain", fixture.database);
    fixture.run(&format!("CREATE ROLE {role} LOGIN")).await?;
    let url = |user: &str, database: &str| fixture.postgres.url(user, database);
    let with = |change: &dyn Fn(&mut SourceConfig)| {
        let mut config = fixture.config();
        change(&mut config);
        config
    };

    refused(
        with(&|c| c.publication = "Other".into()),
        "publication_missing",
        "CREATE PUBLICATION \"Other\"",
    )
    .await?;
    let plain = url(&role, &fixture.database);
    refused(
        with(&|c| c.database_url = plain.clone()),
        "no_replication_right",
        &format!("ALTER ROLE {role} REPLICATION"),
    )
    .await?;
    let tls = format!("{}?sslmode=require", url("postgres", &fixture.database));
    refused(with(&|c| c.database_url = tls.clone()), "tls", "").await?;
    refused(
        with(&|c| c.database_url = "nonsense".into()),
        "configuration",
        "",
    )
    .await?;
    let nowhere = url("postgres", "no_such_database");
    refused_by_server(with(&|c| c.database_url = nowhere.clone()), "3D000").await?;
    let nobody = url("no_such_role", &fixture.database);
    refused_by_server(with(&|c| c.database_url = nobody.clone()), "28000").await?;

    let slot = fixture.slot();
    fixture
        .run(&format!(
            "SELECT pg_create_physical_replication_slot('{slot}')"
        ))
        .await?;
    refused(fixture.config(), "slot_other_plugin", "another slot name").await?;
    fixture
        .run(&format!("SELECT pg_drop_replication_slot('{slot}')"))
        .await?;
    let other = Fixture::new(fixture.postgres).await?;
    other
        .run(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        ))
        .await?;
    refused(fixture.config(), "slot_other_database", "another slot name").await
}

#[tokio::test]
async fn a_connection_pooler() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let pooler = Proxy::pooler(fixture.postgres.port()).await?;
    let mut config = fixture.config();
    config.database_url = format!(
        "postgres://postgres@127.0.0.1:{}/{}?sslmode=disable",
        pooler.port, fixture.database
    );
    let found = walcast_source::examine(&config).await;
    ensure!(
        found
            .first()
            .is_some_and(|finding| finding.code == "replication_refused"),
        "{found:?}"
    );
    refused(config, "replication_refused", "give the database's own").await
}

#[tokio::test]
async fn a_wal_level_that_is_too_low() -> Result<()> {
    let postgres = Postgres::start_with(&[("wal_level", "replica")]).await?;
    let fixture = Fixture::new(&postgres).await?;
    refused(
        fixture.config(),
        "wal_level",
        "ALTER SYSTEM SET wal_level = 'logical'",
    )
    .await
}

#[tokio::test]
async fn passwords() -> Result<()> {
    let hba = std::env::temp_dir().join(format!("walcast-hba-{}", std::process::id()));
    std::fs::write(
        &hba,
        "local all all trust\nhost all locked all scram-sha-256\nhost all all all trust\n",
    )?;
    std::fs::set_permissions(&hba, std::fs::Permissions::from_mode(0o644))?;
    let postgres = Postgres::start_with(&[("hba_file", &hba.display().to_string())]).await?;
    std::fs::remove_file(&hba)?;
    let fixture = Fixture::new(&postgres).await?;
    fixture
        .run("CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'open sesame'")
        .await?;
    let config = |password: &str| {
        let mut config = fixture.config();
        let (port, database) = (postgres.port(), &fixture.database);
        config.database_url = format!("postgres://locked{password}@127.0.0.1:{port}/{database}");
        config
    };
    refused_by_server(config(":wrong"), "28P01").await?;
    refused(config(""), "login", "password").await?;
    let mut reader = Reader::open(config(":open%20sesame")).await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await
}

#[tokio::test]
async fn a_server_that_is_not_up_yet_is_waited_for() -> Result<()> {
    let postgres = Postgres::start().await?;
    let fixture = Fixture::new(&postgres).await?;
    postgres.stop(StopMode::Fast).await.ok();
    postgres.stop(StopMode::Immediate).await.ok();
    let mut reader = Reader::of(Source::prepare(fixture.config(), CancellationToken::new())?);
    reader
        .until_state(|state| matches!(state, StreamState::Connecting { attempt: 1.., .. }))
        .await?;
    postgres.start_again().await?;
    reader.until_state(StreamState::is_ready).await?;
    Ok(())
}

#[tokio::test]
async fn all_slots_taken_is_waited_for() -> Result<()> {
    let postgres = Postgres::start_with(&[("max_replication_slots", "1")]).await?;
    let fixture = Fixture::new(&postgres).await?;
    fixture
        .run("SELECT pg_create_physical_replication_slot('other')")
        .await?;
    let mut reader = Reader::of(Source::prepare(fixture.config(), CancellationToken::new())?);
    reader
        .until_state(|state| state.describe().contains("max_replication_slots"))
        .await?;
    fixture
        .run("SELECT pg_drop_replication_slot('other')")
        .await?;
    reader.until_state(StreamState::is_ready).await?;
    Ok(())
}

#[tokio::test]
async fn stopping_while_nothing_answers() -> Result<()> {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await?; // accepts, says nothing
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.database_url = format!("postgres://u@127.0.0.1:{}/x", silent.local_addr()?.port());
    let stop = CancellationToken::new();
    config.connect_timeout = 10 * DEADLINE; // so that nothing but the token ends it
    let mut source = Source::prepare(config, stop.clone())?;
    let mut next = std::pin::pin!(source.next());
    let _connection = tokio::select! {
        ended = &mut next => anyhow::bail!("ended by itself: {ended:?}"),
        accepted = silent.accept() => accepted?,
    };
    stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, next)
        .await
        .context("not stopped")?;
    ensure!(matches!(ended, Err(SourceError::Stopped)), "{ended:?}");
    Ok(())
}
