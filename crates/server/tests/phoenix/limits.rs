//! Who does too much is told at once what.

use anyhow::Result;
use serde_json::json;

use crate::phone::{Phone, Version, as_user};
use crate::stage::{ALICE, Stage};

const ROOM: &str = "realtime:room";

#[tokio::test]
async fn messages_and_joins() -> Result<()> {
    let limits = [
        ("supabase_messages_per_second_max", "1"),
        ("supabase_joins_per_second_max", "1"),
    ];
    let stage = Stage::new(&limits).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    let message = json!({ "type": "broadcast", "event": "e", "payload": {} });
    phone.join(ROOM, as_user(ALICE, json!({}))).await?;
    for _ in 0..30 {
        phone.send(ROOM, "broadcast", message.clone()).await?;
    }
    let system = phone.expect(ROOM, "system").await?;
    assert_eq!(system["message"], "Too many messages per second");
    phone.expect(ROOM, "phx_error").await?;
    // Of what comes after it the server takes one in a second: there is no such channel any more.
    let answered = phone.send("phoenix", "heartbeat", json!({})).await?;
    loop {
        let heard = phone.next().await?;
        if heard.topic == "phoenix" {
            assert_eq!(heard.reference, answered);
            break;
        }
        let reason = &heard.payload["response"]["reason"];
        assert_eq!(reason, "unmatched topic", "{heard:?}");
    }
    let mut refused = None;
    for nth in 0..30 {
        let answer = phone
            .ask(
                &format!("realtime:{nth}"),
                "phx_join",
                json!({ "config": {} }),
            )
            .await?;
        if answer["status"] == "error" {
            refused = Some(answer["response"]["reason"].clone());
            break;
        }
    }
    assert_eq!(
        refused,
        Some(json!(
            "ClientJoinRateLimitReached: Too many joins per second"
        ))
    );
    phone.silent().await
}

#[tokio::test]
async fn presence_payloads_and_bindings() -> Result<()> {
    let limits = [
        ("broadcast_bytes_max", "64B"),
        // The sixth call is one too many whenever it comes.
        ("supabase_presence_calls_window", "1h"),
        ("supabase_bindings_per_connection_max", "1"),
        ("topic_bytes_max", "8B"),
    ];
    let stage = Stage::new(&limits).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    phone
        .join(
            ROOM,
            as_user(ALICE, json!({ "broadcast": { "ack": true } })),
        )
        .await?;
    let large = json!({ "type": "broadcast", "event": "e", "payload": { "long": "0".repeat(64) } });
    let answer = phone.ask(ROOM, "broadcast", large).await?;
    assert_eq!(
        answer,
        json!({ "status": "error", "response": "payload_size_exceeded" })
    );
    for nth in 0..6 {
        let track = json!({ "type": "presence", "event": "track", "payload": { "n": nth } });
        phone.send(ROOM, "presence", track).await?;
    }
    for _ in 0..5 {
        phone.expect(ROOM, "presence_diff").await?;
        phone.expect(ROOM, "phx_reply").await?;
    }
    assert_eq!(
        phone.expect(ROOM, "system").await?["message"],
        "Client presence rate limit exceeded"
    );
    phone.expect(ROOM, "phx_error").await?;

    let refused = phone
        .refused("realtime:123456789", json!({ "config": {} }))
        .await?;
    assert_eq!(refused, "topic_bytes_max reached: 8");
    let binding = |event: &str| json!({ "event": event, "schema": "public", "table": "notes" });
    let config = json!({ "postgres_changes": [binding("INSERT"), binding("DELETE")] });
    phone.send(ROOM, "phx_join", as_user(ALICE, config)).await?;
    let system = phone.expect(ROOM, "system").await?;
    assert_eq!(
        system["message"],
        "supabase_bindings_per_connection_max reached: 1"
    );
    assert_eq!(phone.next().await?.payload["status"], "ok");
    phone.silent().await
}

#[tokio::test]
async fn large_broadcasts_pass_and_larger_frames_end_the_connection() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut old = Phone::connect(&stage, Version::V1).await?;
    let mut new = Phone::connect(&stage, Version::V2).await?;
    for phone in [&mut old, &mut new] {
        let config = json!({ "config": { "broadcast": { "ack": true } } });
        phone.join(ROOM, config).await?;
    }
    let large = json!({ "type": "broadcast", "event": "e", "payload": "x".repeat(2_900_000) });
    for _ in 0..3 {
        new.ask(ROOM, "broadcast", large.clone()).await?;
        assert_eq!(old.expect(ROOM, "broadcast").await?, large);
    }
    let larger = json!({ "type": "broadcast", "event": "e", "payload": "x".repeat(4_000_000) });
    let answer = new.ask(ROOM, "broadcast", larger).await?;
    assert_eq!(answer["response"], "payload_size_exceeded");
    old.silent().await?;
    // It may end before all is written.
    let _ = new
        .send_raw(walcast_harness::Message::text("x".repeat(6_000_000)))
        .await;
    assert_eq!(new.closed().await?.0, 1009);
    Ok(())
}
