//! Peers that keep to no rules, on bare TCP.

use anyhow::Result;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, interval, timeout_at};
use walcast_harness::{eventually, narrow};

use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, closed_for, token};

/// A socket after its handshake, which takes little that it does not read.
async fn upgraded(stage: &Stage) -> Result<TcpStream> {
    let mut stream = narrow(stage.walcast.address()).await?;
    let token = token(ALICE, "authenticated", 3600);
    let request = format!(
        "GET /realtime?token={token} HTTP/1.1\r\nHost: walcast\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    Ok(stream)
}

#[tokio::test]
async fn a_message_that_never_ends_is_silence() -> Result<()> {
    let stage = Stage::new(&[("idle_timeout", "5s"), ("ping_interval", "500ms")]).await?;
    let mut stream = upgraded(&stage).await?;
    // The head of a text of 60,000 bytes, with a mask of zeros.
    stream
        .write_all(&[0x81, 0xFE, 0xEA, 0x60, 0, 0, 0, 0])
        .await?;
    let end = Instant::now() + DEADLINE;
    let mut drip = interval(Duration::from_millis(20));
    let mut input = [0; 1024];
    loop {
        tokio::select! {
            _ = drip.tick() => {
                if stream.write_all(b"x").await.is_err() {
                    break;
                }
            }
            read = stream.read(&mut input) => if matches!(read, Ok(0) | Err(_)) {
                break;
            },
            () = tokio::time::sleep_until(end) => panic!("it is still open"),
        }
    }
    closed_for(&stage, "idle", 1).await
}

#[tokio::test]
async fn http_that_asks_and_never_reads_is_closed() -> Result<()> {
    let stage = Stage::new(&[("handshake_timeout", "2s")]).await?;
    let (reader, mut writer) = narrow(stage.walcast.address()).await?.into_split();
    let end = Instant::now() + DEADLINE;
    let requests = b"GET / HTTP/1.1\r\nHost: walcast\r\n\r\n".repeat(100);
    loop {
        match timeout_at(end, writer.write_all(&requests)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => break,
            Err(_) => panic!("it is still open"),
        }
    }
    drop(reader);
    eventually(DEADLINE, async || stage.walcast.ready().await.ok()).await
}

#[tokio::test]
async fn a_flood_is_cut_and_the_others_are_answered() -> Result<()> {
    let stage = Stage::new(&[("outbox_bytes_max", "64KiB")]).await?;
    let mut good = stage.connect(BOB).await?;
    let mut flood = upgraded(&stage).await?;
    // Empty texts, each of which is answered with a whole error; nobody reads them.
    let messages = [0x81, 0x80, 0, 0, 0, 0].repeat(10_000);
    let end = Instant::now() + DEADLINE;
    while let Ok(()) = timeout_at(end, flood.write_all(&messages)).await? {}
    let pong = ask(&mut good, json!({ "type": "ping" })).await?;
    assert_eq!(pong["type"], "pong");
    closed_for(&stage, "slow", 1).await
}

#[tokio::test]
async fn one_address_has_a_part_of_the_places_for_requests() -> Result<()> {
    // More files than the soft limit of many systems: the server's, which inherits it, and ours.
    let _ = std::process::Command::new("prlimit")
        .arg(format!("--pid={}", std::process::id()))
        .arg("--nofile=8192:")
        .status();
    let stage = Stage::new(&[]).await?;
    // More than its part, and they say nothing: it gets no more, elsewhere is as it was.
    let mut silent = Vec::new();
    for _ in 0..1030 {
        silent.push(TcpStream::connect(stage.walcast.address()).await?);
    }
    let mut byte = [0];
    let refused = timeout_at(Instant::now() + DEADLINE, silent[1029].read(&mut byte)).await?;
    assert_eq!(refused.unwrap_or(0), 0);
    let elsewhere = tokio::net::TcpSocket::new_v4()?;
    elsewhere.bind("127.0.0.2:0".parse()?)?;
    let mut elsewhere = elsewhere.connect(stage.walcast.address()).await?;
    elsewhere
        .write_all(b"GET /health HTTP/1.1\r\nHost: walcast\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = String::new();
    elsewhere.read_to_string(&mut answer).await?;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    Ok(())
}
