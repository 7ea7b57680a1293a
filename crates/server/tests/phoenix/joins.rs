//! Joining, leaving, and what is not understood.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::Message;

use crate::phone::{BOTH, Phone, Version, as_user};
use crate::stage::{ALICE, Stage, now, token, token_with};

const ROOM: &str = "realtime:room";

#[tokio::test]
async fn a_join_is_echoed_and_a_second_ends_the_first() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for version in BOTH {
        let mut phone = Phone::connect(&stage, version).await?;
        let binding = json!({ "event": "*", "schema": "public", "table": "notes", "x": [1] });
        let config = json!({ "config": {
            "broadcast": null, "presence": { "key": "" }, "postgres_changes": [binding, null, binding],
        } });
        let response = phone.join(ROOM, config).await?;
        let echoed = response["postgres_changes"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        assert_eq!(echoed.len(), 2, "{response}");
        for echo in &echoed {
            let mut without_id = echo.clone();
            let id = without_id
                .as_object_mut()
                .and_then(|echo| echo.remove("id"));
            assert!(id.is_some_and(|id| id.is_u64()), "{echo}");
            assert_eq!(without_id, binding);
        }
        assert_eq!(echoed[0]["id"], echoed[1]["id"], "the same wish");
        phone.live(ROOM).await?;

        let reference = phone
            .send(ROOM, "phx_join", json!({ "config": {} }))
            .await?;
        let closed = phone.next().await?;
        assert_eq!((&*closed.event, &closed.payload), ("phx_close", &json!({})));
        assert_eq!(closed.reference, "1");
        if version == Version::V2 {
            assert_eq!(closed.join_ref, "1");
        }
        let joined = phone.next().await?;
        assert_eq!(
            (&*joined.event, joined.reference),
            ("phx_reply", json!(reference))
        );
        assert_eq!(
            joined.payload,
            json!({ "status": "ok", "response": { "postgres_changes": [] } })
        );

        let left = phone.ask(ROOM, "phx_leave", json!({})).await?;
        assert_eq!(left, json!({ "status": "ok", "response": {} }));
        let closed = phone.next().await?;
        assert_eq!(
            (&*closed.event, closed.reference),
            ("phx_close", json!(reference))
        );
        let again = phone.ask(ROOM, "phx_leave", json!({})).await?;
        assert_eq!(again["status"], "ok");
        let unjoined = phone
            .ask(ROOM, "broadcast", json!({ "event": "e", "payload": {} }))
            .await?;
        assert_eq!(
            unjoined,
            json!({ "status": "error", "response": { "reason": "unmatched topic" } })
        );
        phone.silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn refused_joins() -> Result<()> {
    let stage = Stage::new(&[("channels_per_connection_max", "1")]).await?;
    let foreign = walcast_auth::sign_hs256(
        "another secret, also at least 32 bytes long",
        &json!({ "role": "anon", "exp": now() + 3600 }).to_string(),
    )?;
    for version in BOTH {
        let mut phone = Phone::connect(&stage, version).await?;
        let with = |token: String| json!({ "config": {}, "access_token": token });
        for (topic, payload, expected) in [
            (
                "realtime:",
                json!({}),
                "TopicNameRequired: You must provide a topic name",
            ),
            ("other:room", json!({}), "unmatched topic"),
            (
                ROOM,
                with(foreign.clone()),
                "JwtSignatureError: Failed to validate JWT signature",
            ),
            (
                ROOM,
                with("x".into()),
                "MalformedJWT: The token provided is not a valid JWT",
            ),
            (
                ROOM,
                with(token_with(json!({ "role": "anon" }))),
                "InvalidJWTToken: Fields `role` and `exp` are required in JWT",
            ),
            (
                ROOM,
                json!({ "config": { "broadcast": { "replay": { "since": 1 } } } }),
                "UnableToReplayMessages: Replay is not allowed for public channels",
            ),
        ] {
            assert_eq!(phone.refused(topic, payload).await?, expected);
        }
        let expired = phone
            .refused(ROOM, with(token(ALICE, "anon", -100_000)))
            .await?;
        assert!(
            expired.starts_with("InvalidJWTToken: Token has expired 100"),
            "{expired}"
        );
        // A key is no token: that of the socket is in force.
        phone.join(ROOM, with("sb_publishable_x".into())).await?;
        let another = phone.refused("realtime:other", json!({})).await?;
        assert_eq!(another, "ChannelRateLimitReached: Too many channels");
        phone.silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn what_is_malformed_is_dropped_and_what_is_stale_is_answered() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for version in BOTH {
        let mut phone = Phone::connect(&stage, version).await?;
        for bad in ["", "x", "[]", "{}", "[1,2]", r#"["1","1",7,"phx_join",{}]"#] {
            phone.send_raw(Message::text(bad)).await?;
        }
        phone.send_raw(Message::binary(vec![9, 9])).await?;
        let config = json!({ "broadcast": { "ack": "True", "self": "false" }, "presence": 7 });
        phone.join(ROOM, as_user(ALICE, config)).await?;
        phone.send(ROOM, "no such event", json!({})).await?;
        let payload = json!({ "type": "broadcast", "event": "e", "payload": {} });
        let sent = match version {
            Version::V1 => {
                json!({ "topic": ROOM, "event": "broadcast", "payload": payload, "ref": "77", "join_ref": "stale" })
            }
            Version::V2 => json!(["stale", "77", ROOM, "broadcast", payload]),
        };
        phone.send_raw(Message::text(sent.to_string())).await?;
        let answer = phone.next().await?;
        assert_eq!(
            (&*answer.event, &answer.reference),
            ("phx_reply", &json!("77"))
        );
        if version == Version::V2 {
            assert_eq!(
                answer.join_ref, "1",
                "the channel's own: clients drop any other"
            );
        }
        phone.silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn only_private_channels_if_the_operator_says_so() -> Result<()> {
    let stage = Stage::new(&[("supabase_private_only", "true")]).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    let refused = phone
        .refused(ROOM, json!({ "config": { "private": Value::Null } }))
        .await?;
    assert_eq!(
        refused,
        "PrivateOnly: This project only allows private channels"
    );
    Ok(())
}

#[tokio::test]
async fn who_asks_is_told_that_messages_from_the_database_will_arrive() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for version in BOTH {
        let mut phone = Phone::connect(&stage, version).await?;
        let config = json!({ "broadcast": { "replication_ready": true } });
        phone.join(ROOM, as_user(ALICE, config)).await?;
        let expected = json!({
            "extension": "system", "status": "ok", "channel": "room",
            "message": "Replication connection established",
        });
        assert_eq!(phone.expect(ROOM, "system").await?, expected);
        phone.silent().await?;
    }
    Ok(())
}
