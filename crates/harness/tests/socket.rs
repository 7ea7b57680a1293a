//! The WebSocket client, against a small server of its own.

use std::time::Duration;

use anyhow::Result;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use walcast_harness::{Message, Socket};

const DEADLINE: Duration = Duration::from_secs(60);

/// Answers the first message with itself after a ping and some noise, then closes with 4001.
async fn serve_one() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let mut socket = tokio_tungstenite::accept_async(stream).await?;
        let Some(first) = socket.next().await else {
            anyhow::bail!("nothing was sent");
        };
        socket.send(Message::Ping("x".into())).await?;
        socket.send(Message::text(r#"{"n":1}"#)).await?;
        socket.send(first?).await?;
        let close = CloseFrame {
            code: CloseCode::Library(4001),
            reason: "slow".into(),
        };
        socket.close(Some(close)).await?;
        while socket.next().await.is_some() {}
        Ok(())
    });
    Ok(format!("ws://{address}"))
}

#[tokio::test]
async fn waits_for_the_wanted_message_and_for_the_close() -> Result<()> {
    let mut socket = Socket::connect(&serve_one().await?).await?;
    socket.send_json(&json!({"n": 2})).await?;
    let seen = socket.until(|message| message["n"] == 2, DEADLINE).await?;
    assert_eq!(seen, [json!({"n": 1}), json!({"n": 2})]);
    assert_eq!(socket.closed(DEADLINE).await?, (4001, "slow".to_owned()));
    Ok(())
}

#[tokio::test]
async fn an_unmet_expectation_tells_what_came() -> Result<()> {
    let mut socket = Socket::connect(&serve_one().await?).await?;
    socket.send_json(&json!({"n": 2})).await?;
    let error = socket
        .expect(|message| message["n"] == 3, DEADLINE)
        .await
        .expect_err("there is no such message");
    assert!(
        format!("{error:#}").contains(r#"[{"n":1}, {"n":2}]"#),
        "{error:#}"
    );
    Ok(())
}

#[tokio::test]
async fn silence_ends_at_the_deadline() -> Result<()> {
    let mut socket = Socket::connect(&serve_one().await?).await?;
    let answer = socket.next_json(Duration::from_millis(50)).await;
    assert!(answer.is_err(), "{answer:?}");
    Ok(())
}
