//! Broadcasts: between the versions, to native clients, answered and not.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::Message;

use crate::phone::{Phone, Version, as_user, push};
use crate::stage::{ALICE, BOB, DEADLINE, Stage, subscribe};

const ROOM: &str = "realtime:room";

fn config(broadcast: Value) -> Value {
    as_user(ALICE, json!({ "broadcast": broadcast }))
}

fn said(event: &str, payload: Value) -> Value {
    json!({ "type": "broadcast", "event": event, "payload": payload })
}

#[tokio::test]
async fn every_version_and_native_clients_hear_each_other() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut old = Phone::connect(&stage, Version::V1).await?;
    let mut new = Phone::connect(&stage, Version::V2).await?;
    let mut native = stage.connect(BOB).await?;
    for phone in [&mut old, &mut new] {
        phone.join(ROOM, config(json!({ "ack": true }))).await?;
    }
    subscribe(&mut native, json!({ "channel": "broadcast:room" })).await?;

    // A text frame's payload goes out as it is, whatever else it holds.
    let mut text = said("text", json!({ "n": 1.10 }));
    text["extra"] = json!([1]);
    let answer = old.ask(ROOM, "broadcast", text.clone()).await?;
    assert_eq!(answer, json!({ "status": "ok", "response": {} }));
    assert_eq!(new.expect(ROOM, "broadcast").await?, text);
    let heard = native.next_json(DEADLINE).await?;
    assert_eq!(
        (&heard["event"], &heard["payload"]),
        (&json!("text"), &json!({ "n": 1.1 }))
    );

    let frame = push("1", "77", ROOM, "json", 1, br#"{"a":"b"}"#);
    new.send_raw(frame).await?;
    assert_eq!(new.next().await?.reference, "77");
    assert_eq!(
        old.expect(ROOM, "broadcast").await?,
        said("json", json!({ "a": "b" }))
    );
    assert_eq!(
        native.next_json(DEADLINE).await?["payload"],
        json!({ "a": "b" })
    );

    // Version 1 has no frame for bytes.
    new.send_raw(push("1", "78", ROOM, "bytes", 0, &[0, 255]))
        .await?;
    assert_eq!(new.next().await?.reference, "78");
    assert_eq!(native.next_json(DEADLINE).await?["payload"], "AP8=");
    old.silent().await?;

    let message =
        json!({ "type": "broadcast", "channel": "broadcast:room", "event": "n", "payload": [1] });
    native.send_json(&message).await?;
    for phone in [&mut old, &mut new] {
        assert_eq!(
            phone.expect(ROOM, "broadcast").await?,
            said("n", json!([1]))
        );
        phone.silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn bytes_go_to_the_others_as_the_golden_frame() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut one = Phone::connect(&stage, Version::V2).await?;
    let mut two = Phone::connect(&stage, Version::V2).await?;
    for phone in [&mut one, &mut two] {
        phone.join("realtime:top", json!({ "config": {} })).await?;
    }
    one.send_raw(push("1", "2", "realtime:top", "user-event", 0, &[1, 2, 3]))
        .await?;
    let mut expected = b"\x04\x0c\x0a\0\0realtime:topuser-event".to_vec();
    expected.extend_from_slice(&[1, 2, 3]);
    assert_eq!(two.next_frame().await?, Message::binary(expected));
    // Neither an answer, which was not asked for, nor its own.
    one.silent().await
}

#[tokio::test]
async fn who_asks_to_hears_itself() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for version in [Version::V1, Version::V2] {
        let mut phone = Phone::connect(&stage, version).await?;
        phone
            .join(ROOM, config(json!({ "self": true, "ack": "true" })))
            .await?;
        let reference = phone.send(ROOM, "broadcast", said("e", json!({}))).await?;
        assert_eq!(phone.expect(ROOM, "broadcast").await?, said("e", json!({})));
        assert_eq!(phone.next().await?.reference, reference);
        phone.silent().await?;
    }
    Ok(())
}
