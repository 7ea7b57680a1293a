//! What ends a channel that its client did not leave, and how it comes back.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::Postgres;

use crate::phone::{Phone, Version, as_user};
use crate::stage::{ALICE, BOB, DEADLINE, Stage, now, token, token_with};

const ROOM: &str = "realtime:room";
/// Seconds: enough for what has to be done before on a busy machine. All wait for them at the same time.
const SHORT: i64 = 20;

fn until(user: &str, seconds: i64) -> String {
    token(user, "authenticated", seconds)
}

fn todos() -> Value {
    json!({ "postgres_changes": [{ "event": "*", "schema": "public", "table": "todos" }] })
}

#[tokio::test]
async fn an_expired_token_ends_the_channel_and_the_client_joins_again() -> Result<()> {
    tokio::try_join!(
        expires(Version::V1, "false", "phx_error"),
        expires(Version::V2, "false", "phx_error"),
        expires(Version::V1, "true", "phx_close"),
        expires(Version::V2, "true", "phx_close"),
    )?;
    Ok(())
}

async fn expires(version: Version, close_for_good: &str, ending: &str) -> Result<()> {
    let stage = Stage::new(&[
        ("jwt_leeway", "1ms"),
        ("supabase_close_for_good", close_for_good),
    ])
    .await?;
    let mut witness = stage.subscriber(ALICE, "table:todos").await?;
    let mut phone = Phone::connect(&stage, version).await?;
    phone
        .join("realtime:other", as_user(ALICE, json!({})))
        .await?;
    let payload = json!({ "config": todos(), "access_token": until(ALICE, SHORT) });
    let joined_as = "2";
    phone.join(ROOM, payload).await?;
    phone.live(ROOM).await?;
    let system = phone.expect(ROOM, "system").await?;
    let message = system["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Token has expired "), "{system}");
    let ended = phone.next().await?;
    assert_eq!(
        (&*ended.event, &ended.reference),
        (ending, &json!(joined_as))
    );
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'x', 's')"
        ))
        .await?;
    witness.next_json(DEADLINE).await?;
    // The other channel of the socket goes on.
    phone.silent().await?;
    phone.join(ROOM, as_user(ALICE, todos())).await?;
    phone.live(ROOM).await?;
    stage.execute("delete from todos").await?;
    witness.next_json(DEADLINE).await?;
    assert_eq!(
        phone.expect(ROOM, "postgres_changes").await?["data"]["type"],
        "DELETE"
    );
    Ok(())
}

#[tokio::test]
async fn a_new_token_in_time_keeps_the_channel_and_changes_who_it_is() -> Result<()> {
    let stage = Stage::new(&[("jwt_leeway", "1ms")]).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    let payload = json!({ "config": todos(), "access_token": until(ALICE, SHORT) });
    phone.join(ROOM, payload).await?;
    phone.live(ROOM).await?;
    for ignored in [
        json!({ "access_token": "sb_x" }),
        json!({ "access_token": null }),
        json!({}),
    ] {
        phone.send(ROOM, "access_token", ignored).await?;
    }
    phone.silent().await?;
    phone
        .send(
            ROOM,
            "access_token",
            json!({ "access_token": until(BOB, 3600) }),
        )
        .await?;
    phone.live(ROOM).await?;
    let sql = format!("insert into todos values (1, '{ALICE}', 'a', 's'), (2, '{BOB}', 'b', 's')");
    stage.execute(&sql).await?;
    let change = phone.expect(ROOM, "postgres_changes").await?;
    assert_eq!(change["data"]["record"]["id"], 2);
    // A channel whose token ends later shows that the first token's end has passed.
    let later = json!({ "config": {}, "access_token": until(ALICE, SHORT + 1) });
    phone.join("realtime:clock", later).await?;
    phone.expect("realtime:clock", "system").await?;
    phone.expect("realtime:clock", "phx_error").await?;
    phone.silent().await
}

#[tokio::test]
async fn bad_tokens_end_the_channel_for_good() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for (bad, expected) in [
        (String::new(), "The token provided is not a valid JWT"),
        ("x".to_owned(), "The token provided is not a valid JWT"),
        (
            token_with(json!({ "exp": now() + 60 })),
            "Fields `role` and `exp` are required in JWT",
        ),
    ] {
        let mut phone = Phone::connect(&stage, Version::V2).await?;
        phone.join(ROOM, as_user(ALICE, json!({}))).await?;
        phone
            .send(ROOM, "access_token", json!({ "access_token": bad }))
            .await?;
        assert_eq!(phone.expect(ROOM, "system").await?["message"], expected);
        phone.expect(ROOM, "phx_close").await?;
        let unjoined = phone.ask(ROOM, "access_token", json!({})).await?;
        assert_eq!(unjoined["response"]["reason"], "unmatched topic");
    }
    Ok(())
}

#[tokio::test]
async fn a_gap_makes_clients_join_again() -> Result<()> {
    let postgres = Postgres::shared().await;
    let stage = Stage::new(&[]).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    phone
        .join("realtime:other", as_user(ALICE, json!({})))
        .await?;
    phone.join(ROOM, as_user(ALICE, todos())).await?;
    phone.live(ROOM).await?;
    // A temporary slot ends with its connection.
    let sql = postgres.connect("postgres", &stage.database).await?;
    sql.batch_execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = current_database()")
        .await?;
    phone.expect(ROOM, "phx_error").await?;
    phone
        .send(ROOM, "phx_join", as_user(ALICE, todos()))
        .await?;
    phone.expect(ROOM, "phx_close").await?;
    assert_eq!(phone.next().await?.payload["status"], "ok");
    phone.live(ROOM).await?;
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'x', 's')"
        ))
        .await?;
    phone.expect(ROOM, "postgres_changes").await?;
    phone.silent().await
}

#[tokio::test]
async fn a_server_that_stops_says_so() -> Result<()> {
    let mut stage = Stage::new(&[]).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    phone.join(ROOM, as_user(ALICE, todos())).await?;
    stage.walcast.terminate().await?;
    assert_eq!(phone.closed().await?.0, 1012);
    Ok(())
}
