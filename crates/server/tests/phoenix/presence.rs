//! Presence: who is there, in every dialect.

use anyhow::Result;
use serde_json::{Value, json};

use crate::phone::{Phone, Version, as_user};
use crate::stage::{ALICE, BOB, DEADLINE, Stage, subscribe};

const ROOM: &str = "realtime:room";

fn with_key(key: &str) -> Value {
    as_user(
        ALICE,
        json!({ "presence": { "key": key, "enabled": true } }),
    )
}

fn track(payload: Value) -> Value {
    json!({ "type": "presence", "event": "TRACK", "payload": payload })
}

#[tokio::test]
async fn who_comes_changes_and_goes() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut alice = Phone::connect(&stage, Version::V2).await?;
    let mut native = stage.connect(BOB).await?;
    subscribe(
        &mut native,
        json!({ "channel": "presence:room", "config": { "key": "bob" } }),
    )
    .await?;
    assert_eq!(native.next_json(DEADLINE).await?["event"], "state");
    alice.join(ROOM, with_key("alice")).await?;
    assert_eq!(alice.expect(ROOM, "presence_state").await?, json!({}));

    let reference = alice
        .send(ROOM, "presence", track(json!({ "n": 1 })))
        .await?;
    let diff = alice.expect(ROOM, "presence_diff").await?;
    let first = diff["joins"]["alice"]["metas"][0].clone();
    assert_eq!((&first["n"], &diff["leaves"]), (&json!(1), &json!({})));
    assert!(first["phx_ref"].is_string(), "{first}");
    let answer = alice.next().await?;
    assert_eq!(
        (answer.reference, answer.payload["status"].clone()),
        (json!(reference), json!("ok"))
    );
    assert_eq!(
        native.next_json(DEADLINE).await?["payload"]["joins"]["alice"][0]["state"],
        json!({ "n": 1 })
    );

    // The same again is no news; another payload is an update.
    assert_eq!(
        alice
            .ask(ROOM, "presence", track(json!({ "n": 1 })))
            .await?["status"],
        "ok"
    );
    alice
        .send(ROOM, "presence", track(json!({ "n": 2 })))
        .await?;
    let diff = alice.expect(ROOM, "presence_diff").await?;
    let second = diff["joins"]["alice"]["metas"][0].clone();
    assert_eq!(second["phx_ref_prev"], first["phx_ref"]);
    assert_eq!(diff["leaves"]["alice"]["metas"][0], first);
    assert_eq!(alice.next().await?.event, "phx_reply");

    // Another connection under the same key, of the other version.
    let mut second_phone = Phone::connect(&stage, Version::V1).await?;
    second_phone.join(ROOM, with_key("alice")).await?;
    let state = second_phone.expect(ROOM, "presence_state").await?;
    assert_eq!(state, json!({ "alice": { "metas": [second] } }));
    drop(alice);
    let diff = second_phone.expect(ROOM, "presence_diff").await?;
    assert_eq!(
        diff,
        json!({ "joins": {}, "leaves": { "alice": { "metas": [second] } } })
    );
    Ok(())
}

#[tokio::test]
async fn what_is_no_presence() -> Result<()> {
    let stage = Stage::new(&[
        ("supabase_presence_calls_max", "0"),
        ("presence_meta_bytes_max", "20B"),
    ])
    .await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    // Nobody asked for the state.
    phone.join(ROOM, json!({ "config": {} })).await?;
    let error = |response: Value| json!({ "status": "error", "response": response });
    for (payload, expected) in [
        (
            track(json!([1])),
            error(json!({ "reason": "Presence track payload must be a map" })),
        ),
        (
            json!({ "type": "presence", "event": "dance" }),
            error(json!({})),
        ),
        (
            json!({ "type": "presence" }),
            json!({ "status": "ok", "response": {} }),
        ),
        (
            json!({ "type": "presence", "event": "untrack" }),
            json!({ "status": "ok", "response": {} }),
        ),
    ] {
        assert_eq!(
            phone.ask(ROOM, "presence", payload.clone()).await?,
            expected,
            "{payload}"
        );
    }
    phone
        .send(
            ROOM,
            "presence",
            track(json!({ "long": "01234567890123456789" })),
        )
        .await?;
    let system = phone.expect(ROOM, "system").await?;
    assert_eq!(system["message"], "Track message size exceeded");
    phone.expect(ROOM, "phx_close").await?;
    phone.silent().await
}
