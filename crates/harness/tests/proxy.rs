//! The faulty network: what goes in comes out, unless it was told otherwise.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use walcast_harness::{Proxy, Weather};

const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough for a byte to cross the loopback, were it let through.
const QUIET: Duration = Duration::from_millis(100);

async fn pair() -> Result<(Proxy, TcpStream, TcpStream)> {
    let server = TcpListener::bind("127.0.0.1:0").await?;
    let proxy = Proxy::start(server.local_addr()?).await?;
    let client = TcpStream::connect(proxy.address()).await?;
    let (server, _) = timeout(DEADLINE, server.accept()).await??;
    Ok((proxy, client, server))
}

#[tokio::test]
async fn bytes_arrive_unchanged_in_every_weather() -> Result<()> {
    let (proxy, mut client, mut server) = pair().await?;
    let sent: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0]).collect();
    for weather in [
        Weather::Fair,
        Weather::Sliced,
        Weather::Slow(Duration::from_millis(2)),
        Weather::Narrow {
            bytes_per_second: 1 << 20,
            latency: Duration::from_millis(2),
        },
        Weather::Refusing,
    ] {
        proxy.set(weather);
        client.write_all(&sent).await?;
        let mut received = vec![0; sent.len()];
        timeout(DEADLINE, server.read_exact(&mut received))
            .await
            .with_context(|| format!("{weather:?}"))??;
        assert!(received == sent, "{weather:?}");
    }
    drop(client);
    let end = timeout(DEADLINE, server.read(&mut [0; 1])).await??;
    assert_eq!(end, 0, "an orderly end is handed on");
    Ok(())
}

#[tokio::test]
async fn a_blackhole_holds_bytes_back_and_lets_them_go() -> Result<()> {
    let (proxy, mut client, mut server) = pair().await?;
    proxy.set(Weather::Blackhole);
    client.write_all(b"x").await?;
    let mut byte = [0; 1];
    assert!(timeout(QUIET, server.read(&mut byte)).await.is_err());
    proxy.set(Weather::Fair);
    timeout(DEADLINE, server.read_exact(&mut byte)).await??;
    assert_eq!(&byte, b"x");
    Ok(())
}

#[tokio::test]
async fn a_cut_resets_both_sides_and_the_next_connection_works() -> Result<()> {
    let (proxy, mut client, mut server) = pair().await?;
    proxy.cut();
    for side in [&mut client, &mut server] {
        let error = timeout(DEADLINE, side.read(&mut [0; 1])).await?;
        let kind = error.expect_err("a reset is an error").kind();
        assert_eq!(kind, ErrorKind::ConnectionReset);
    }
    TcpStream::connect(proxy.address()).await?;
    Ok(())
}

#[tokio::test]
async fn refused_connections_are_reset() -> Result<()> {
    let (proxy, _client, _server) = pair().await?;
    proxy.set(Weather::Refusing);
    // The kernel accepts it first, and may tell of the reset before we know of that.
    let late = async {
        let mut late = TcpStream::connect(proxy.address()).await?;
        late.read(&mut [0; 1]).await
    };
    let answer = timeout(DEADLINE, late).await?;
    assert!(answer.is_err(), "{answer:?}");
    Ok(())
}
