//! Who gets a socket, and what the others are told.

use anyhow::Result;
use serde_json::json;
use walcast_harness::{Message, Socket};

use crate::phone::{Phone, Version};
use crate::stage::{ALICE, SECRET, Stage, now, token, token_with};

#[tokio::test]
async fn keys_and_versions() -> Result<()> {
    let foreign = walcast_auth::sign_hs256(
        "another secret, also at least 32 bytes long",
        &json!({ "role": "anon", "exp": now() + 3600 }).to_string(),
    )?;
    let of_keys = token("", "anon", 3600);
    let api_keys = format!("sb_publishable_x=anon,sb_secret_y={of_keys}");
    let stage = Stage::new(&[("api_keys", &api_keys)]).await?;
    let good = token("", "anon", 3600);
    let claims = "401: {\"error\":\"Fields `role` and `exp` are required in JWT\"}";
    for (query, expected) in [
        (String::new(), "401: {\"error\":\"API key is missing\"}"),
        (
            "?apikey=".to_owned(),
            "401: {\"error\":\"API key is missing\"}",
        ),
        (
            format!("?apikey={}", token("", "anon", -600)),
            "401: {\"error\":\"Token has expired\"}",
        ),
        (
            "?apikey=sb_publishable_z".to_owned(),
            "401: {\"error\":\"The token provided is not a valid JWT\"}",
        ),
        (
            format!("?apikey={foreign}"),
            "401: {\"error\":\"Failed to validate JWT signature\"}",
        ),
        (
            format!("?apikey={}", token_with(json!({ "exp": now() + 3600 }))),
            claims,
        ),
        (
            format!("?apikey={}", token_with(json!({ "role": "anon" }))),
            claims,
        ),
        (format!("?apikey={good}&vsn=3.0.0"), "403: "),
    ] {
        for path in ["/socket/websocket", "/realtime/v1/websocket"] {
            let url = stage.walcast.websocket(&format!("{path}{query}"));
            let Err(error) = Socket::connect(&url).await else {
                panic!("{query} is let in");
            };
            assert_eq!(
                error.to_string().trim(),
                format!("refused with {expected}").trim(),
                "{query}"
            );
        }
    }
    for path in [
        format!("/socket/websocket?apikey={good}"),
        format!("/socket/websocket/?apikey={good}&vsn=1.0.0&log_level=info"),
        format!(
            "/realtime/v1/websocket?vsn=1.0.0&apikey={}",
            token(ALICE, "authenticated", 3600)
        ),
        "/realtime/v1/websocket?apikey=sb_publishable_x".to_owned(),
        "/realtime/v1/websocket?apikey=sb_secret_y".to_owned(),
    ] {
        let url = stage.walcast.websocket(&path);
        let mut phone = Phone::on(&url, Version::V1).await?;
        phone.silent().await?;
        phone.join("realtime:room", json!({ "config": {} })).await?;
    }
    // The header counts before the parameter.
    let url = stage.walcast.websocket("/socket/websocket?apikey=nonsense");
    let mut socket = Socket::connect_with(&url, &[("x-api-key", &good)]).await?;
    let text = r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":null,"join_ref":null}"#;
    socket.send(Message::text(text)).await?;
    let answer = socket.next_json(crate::stage::DEADLINE).await?;
    let expected = json!({
        "ref": null, "topic": "phoenix", "event": "phx_reply",
        "payload": { "status": "ok", "response": {} },
    });
    assert_eq!(answer, expected);
    assert!(!stage.walcast.log().contains(SECRET));
    Ok(())
}

#[tokio::test]
async fn too_many_connections_are_told_before_there_is_a_socket() -> Result<()> {
    let stage = Stage::new(&[("connections_max", "1")]).await?;
    let _one = Phone::connect(&stage, Version::V2).await?;
    let Err(error) = Phone::connect(&stage, Version::V2).await else {
        panic!("a second connection is let in");
    };
    let expected = "refused with 429: {\"error\":\"Too many connected users\"}";
    assert_eq!(error.to_string().trim(), expected);
    Ok(())
}
