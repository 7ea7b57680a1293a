//! Rows of a snapshot are those of the token that asked for them, and of no later one.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_harness::{Socket, eventually};

use crate::stage::{ALICE, DEADLINE, Stage, now, subscribe, token_with};

/// Rows of both organisations, in turn. Who reads them waits at one for as long as somebody has the lock.
const ORDERS: &str = "
    create table orders (id int primary key, org text not null, body text not null);
    create function passes(id int) returns boolean language plpgsql volatile as $$
    begin
        if id = 6000 then
            while not pg_catalog.pg_try_advisory_xact_lock_shared(1) loop
                perform pg_catalog.pg_sleep(0.01);
            end loop;
        end if;
        return true;
    end $$;
    alter table orders enable row level security;
    create policy own on orders for select to authenticated using (
        org = current_setting('request.jwt.claims', true)::json ->> 'org' and passes(id));
    grant select on orders to authenticated;
    select enable_realtime('orders');
    insert into orders select n, case n % 2 when 0 then 'a' else 'b' end, repeat('x', 500)
    from generate_series(1, 10000) n;";

fn token_of(org: &str) -> String {
    token_with(json!({ "sub": ALICE, "role": "authenticated", "org": org, "exp": now() + 3600 }))
}

fn new_token(org: &str) -> Value {
    json!({ "type": "access_token", "token": token_of(org) })
}

/// The organisations of the rows and events in these messages, each once.
fn organisations<'a>(messages: impl IntoIterator<Item = &'a Value>) -> Vec<&'a str> {
    let mut seen: Vec<&str> = Vec::new();
    for message in messages {
        let payload = &message["payload"];
        let rows = payload["records"].as_array().into_iter().flatten();
        let orgs = rows
            .chain([&payload["record"]])
            .filter_map(|row| row["org"].as_str());
        for org in orgs {
            if !seen.contains(&org) {
                seen.push(org);
            }
        }
    }
    seen
}

fn accepted(message: &Value) -> bool {
    message["payload"]["type"] == "access_token"
}

/// A snapshot of all orders, and then events: they are of one organisation only.
async fn sees_only(stage: &Stage, socket: &mut Socket, org: &str) -> Result<()> {
    let ask = json!({ "type": "subscribe", "channel": "table:orders", "snapshot": true });
    socket.send_json(&ask).await?;
    let is_complete = |message: &Value| message["event"] == "snapshot_complete";
    let messages = socket.until(is_complete, DEADLINE).await?;
    assert_eq!(organisations(&messages), [org]);
    assert_eq!(
        messages.last().map(|last| &last["count"]),
        Some(&json!(5000))
    );
    stage
        .execute("insert into orders values (20000, 'a', ''), (20001, 'b', '')")
        .await?;
    let is_event = |message: &Value| message["payload"]["record"]["org"] == org;
    let messages = socket.until(is_event, DEADLINE).await?;
    assert_eq!(organisations(&messages), [org]);
    Ok(())
}

/// Postgres is in the middle of the rows when the token comes.
#[tokio::test]
async fn a_new_token_while_rows_are_read() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage.execute(ORDERS).await?;
    stage.execute("select pg_advisory_lock(1)").await?;
    let mut socket = stage.connect_with_token(&token_of("a")).await?;
    subscribe(
        &mut socket,
        json!({ "channel": "table:orders", "snapshot": true }),
    )
    .await?;
    let rows = socket.next_json(DEADLINE).await?;
    assert_eq!(organisations([&rows]), ["a"], "some rows are there");
    socket.send_json(&new_token("b")).await?;
    let before = socket.until(accepted, DEADLINE).await?;
    // What was read for the one before may go on now.
    stage.execute("select pg_advisory_unlock(1)").await?;
    sees_only(&stage, &mut socket, "b").await?;
    let failed = |message: &&Value| message["code"] == "SNAPSHOT_FAILED";
    assert_eq!(before.iter().filter(failed).count(), 1, "it is told of");
    Ok(())
}

/// The client reads nothing, so that rows wait on both sides of the outbox when the token comes.
#[tokio::test]
async fn a_new_token_while_the_client_reads_slowly() -> Result<()> {
    // A minute without reading is no reason to cut it.
    let settings = [("outbox_bytes_max", "512KiB"), ("write_timeout", "1m")];
    let stage = Stage::new(&settings).await?;
    stage.execute(ORDERS).await?;
    // More than the sockets of both sides take in.
    stage
        .execute("update orders set body = repeat('x', 5000) where org = 'a'")
        .await?;
    let path = format!("/realtime?token={}", token_of("a"));
    let mut socket = Socket::connect_narrow(&stage.walcast.websocket(&path)).await?;
    subscribe(
        &mut socket,
        json!({ "channel": "table:orders", "snapshot": true }),
    )
    .await?;
    let reported = async |wanted: fn(&str) -> bool| {
        eventually(DEADLINE, async || {
            let (_, metrics) = stage.walcast.get("/metrics").await.ok()?;
            metrics.lines().any(wanted).then_some(())
        })
        .await
    };
    let wait = |line: &str| {
        let bytes = line.strip_prefix("walcast_outbox_bytes ");
        bytes.is_some_and(|bytes| bytes.parse().is_ok_and(|bytes: u64| bytes > 100_000))
    };
    reported(wait).await.context("rows wait")?;
    socket.send_json(&new_token("b")).await?;
    let has_come = |line: &str| line == "walcast_client_messages_total 2";
    reported(has_come).await.context("the token has come")?;
    let before = socket.until(accepted, DEADLINE).await?;
    assert_eq!(organisations(&before), ["a"]);
    sees_only(&stage, &mut socket, "b").await
}
