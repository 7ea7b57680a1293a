//! The stream goes on by itself: what the subscriber of a living connection gets has no hole and
//! no repetition, whatever happens between Postgres and the server.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::Value;
use tokio_postgres::Client;
use walcast_harness::{Postgres, Proxy, Socket, StopMode, Weather, eventually};

use crate::stage::{ALICE, DEADLINE, Stage, token};

/// A cluster of its own, since it is going to be hurt.
async fn fragile_postgres() -> Result<&'static Postgres> {
    Ok(Box::leak(Box::new(Postgres::start().await?)))
}

/// Commits one row after the other and returns the last id that was committed for certain.
async fn insert(sql: &Client, ids: std::ops::Range<i32>) -> Result<()> {
    for id in ids {
        sql.execute("insert into notes values ($1, 'x')", &[&id])
            .await?;
    }
    Ok(())
}

/// The next events are the rows of `ids`, each once and in order.
async fn expect_ids(socket: &mut Socket, ids: std::ops::Range<i32>) -> Result<()> {
    for id in ids {
        let message = socket.next_json(DEADLINE).await?;
        assert_eq!(message["payload"]["record"]["id"], id, "{message}");
    }
    Ok(())
}

#[tokio::test]
async fn postgres_restarts_and_crashes() -> Result<()> {
    let postgres = fragile_postgres().await?;
    let stage = Stage::on(postgres, &[("slot_mode", "durable")]).await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    insert(&stage.sql, 0..10).await?;
    expect_ids(&mut socket, 0..10).await?;
    let mut next = 10;
    for mode in [StopMode::Fast, StopMode::Immediate, StopMode::Immediate] {
        postgres.restart(mode).await?;
        let sql = postgres.connect("postgres", &stage.database).await?;
        insert(&sql, next..next + 10).await?;
        expect_ids(&mut socket, next..next + 10).await?;
        next += 10;
    }
    stage.walcast.ready().await
}

#[tokio::test]
async fn the_network_between_is_cut_and_comes_back() -> Result<()> {
    let postgres = fragile_postgres().await?;
    let target: SocketAddr = ([127, 0, 0, 1], postgres.port()).into();
    let proxy = Proxy::start(target).await?;
    let through =
        |user: &str, database: &str| format!("postgres://{user}@{}/{database}", proxy.address());
    // The stage makes the database; a second process goes through the proxy.
    let mut stage = Stage::on(postgres, &[("slot_mode", "durable")]).await?;
    stage.walcast.terminate().await?;
    stage.set("database_url", &through("postgres", &stage.database));
    stage.set(
        "rls_database_url",
        &through("walcast_checks", &stage.database),
    );
    stage.start_again().await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    insert(&stage.sql, 0..10).await?;
    expect_ids(&mut socket, 0..10).await?;
    for round in 1..4 {
        proxy.set(Weather::Refusing);
        proxy.cut();
        let first = round * 10;
        insert(&stage.sql, first..first + 5).await?;
        stage
            .walcast
            .logged(|line| line.contains("replication stream ended"), DEADLINE)
            .await?;
        proxy.set(if round == 2 {
            Weather::Sliced
        } else {
            Weather::Fair
        });
        insert(&stage.sql, first + 5..first + 10).await?;
        expect_ids(&mut socket, first..first + 10).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_killed_server_goes_on_where_it_was() -> Result<()> {
    let postgres = fragile_postgres().await?;
    let mut stage = Stage::on(postgres, &[("slot_mode", "durable")]).await?;
    for round in 0..3 {
        let mut socket = stage.subscriber(ALICE, "table:notes").await?;
        let first = round * 20;
        insert(&stage.sql, first..first + 10).await?;
        expect_ids(&mut socket, first..first + 10).await?;
        stage.walcast.kill9().await?;
        assert!(
            socket.next(DEADLINE).await.is_err(),
            "the connection is gone"
        );
        // Nobody is connected meanwhile: as the protocol says, these are not delivered.
        insert(&stage.sql, first + 10..first + 20).await?;
        stage.start_again().await?;
        stage.settled().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_second_server_stands_by_and_takes_over() -> Result<()> {
    let postgres = fragile_postgres().await?;
    let mut stage = Stage::on(postgres, &[("slot_mode", "durable")]).await?;
    let standby = stage.another().await?;
    let stands_by = async || {
        let (status, body) = standby.get("/ready").await.ok()?;
        let body: Value = serde_json::from_str(&body).ok()?;
        let state = body["stream"].as_str()?.to_owned();
        (status == 503 && state.contains("standing by")).then_some(())
    };
    eventually(DEADLINE, stands_by).await?;
    stage.walcast.kill9().await?;
    standby.ready().await?;
    stage.walcast = standby;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    insert(&stage.sql, 0..10).await?;
    expect_ids(&mut socket, 0..10).await
}

#[tokio::test]
async fn a_slot_that_is_dropped_is_a_gap_that_is_told() -> Result<()> {
    let postgres = fragile_postgres().await?;
    let stage = Stage::on(postgres, &[("slot_mode", "durable")]).await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    insert(&stage.sql, 0..1).await?;
    expect_ids(&mut socket, 0..1).await?;
    // Dropping it needs its reader gone for a moment.
    let drop = format!(
        "do $$ begin
             for nth in 1..1000 loop
                 begin
                     perform pg_terminate_backend(active_pid, 1000)
                     from pg_replication_slots where slot_name = '{0}' and active_pid is not null;
                     perform pg_drop_replication_slot('{0}');
                     return;
                 exception when object_in_use then null;
                 end;
             end loop;
             raise 'the reader was always faster';
         end $$",
        stage.database
    );
    stage.execute(&drop).await?;
    let is_gap = |message: &Value| message["event"] == "gap";
    let gap = socket.expect(is_gap, DEADLINE).await?;
    assert!(
        gap["reason"]
            .as_str()
            .is_some_and(|reason| !reason.is_empty()),
        "{gap}"
    );
    stage.walcast.ready().await?;
    insert(&stage.sql, 1..3).await?;
    expect_ids(&mut socket, 1..3).await
}

#[tokio::test]
async fn no_subscription_while_there_is_no_stream() -> Result<()> {
    let postgres = fragile_postgres().await?;
    let stage = Stage::on(postgres, &[("slot_mode", "durable")]).await?;
    let mut early = stage
        .connect_with_token(&token(ALICE, "authenticated", 3600))
        .await?;
    postgres.stop(StopMode::Fast).await?;
    stage
        .walcast
        .logged(|line| line.contains("replication stream ended"), DEADLINE)
        .await?;
    early
        .send_json(&serde_json::json!({ "type": "subscribe", "channel": "table:notes" }))
        .await?;
    let answer = early.next_json(DEADLINE).await?;
    assert_eq!(answer["code"], "SUBSCRIPTION_FAILED", "{answer}");
    postgres.start_again().await?;
    stage.walcast.ready().await?;
    crate::stage::subscribe(&mut early, serde_json::json!({ "channel": "table:notes" })).await?;
    let sql = postgres.connect("postgres", &stage.database).await?;
    insert(&sql, 0..3).await?;
    expect_ids(&mut early, 0..3).await
}
