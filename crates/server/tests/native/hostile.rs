//! Peers that keep to no rules, on bare TCP.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, interval, timeout_at};
use walcast_harness::eventually;

use crate::stage::{ALICE, DEADLINE, Stage, token};

/// A socket after its handshake.
async fn upgraded(stage: &Stage) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(stage.walcast.address()).await?;
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
    let stage = Stage::new(&[("idle_timeout", "1s"), ("ping_interval", "100ms")]).await?;
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
    let (_, metrics) = stage.walcast.get("/metrics").await?;
    let idle = "walcast_connections_closed_total{kind=\"idle\"} 1";
    assert!(metrics.contains(idle), "{metrics}");
    Ok(())
}

#[tokio::test]
async fn http_that_asks_and_never_reads_is_closed() -> Result<()> {
    let stage = Stage::new(&[("handshake_timeout", "200ms")]).await?;
    let (reader, mut writer) = TcpStream::connect(stage.walcast.address())
        .await?
        .into_split();
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
