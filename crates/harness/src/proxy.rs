//! A TCP proxy that behaves like a bad network.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How bytes travel, both ways, on existing and on new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// As they come.
    Fair,
    /// In pieces of 1 to 7 bytes, each a write of its own.
    Sliced,
    /// Every piece (up to 16 KiB) waits this long first.
    Slow(Duration),
    /// A long and narrow line: so many bytes a second in each direction of a connection, each of them
    /// under way for so long.
    Narrow {
        bytes_per_second: u32,
        latency: Duration,
    },
    /// Nothing arrives and nobody is told; goes on where it was when the weather changes.
    Blackhole,
    /// New connections are reset at once; existing ones go on.
    Refusing,
}

/// Between a client and a server on this machine. Dropping it resets every connection.
pub struct Proxy {
    address: SocketAddr,
    weather: watch::Sender<Weather>,
    cut: watch::Sender<CancellationToken>,
    target: watch::Sender<SocketAddr>,
    stop: CancellationToken,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`, in fair weather.
    pub async fn start(target: SocketAddr) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (target, target_seen) = watch::channel(target);
        let (weather, weather_seen) = watch::channel(Weather::Fair);
        let (cut, cut_seen) = watch::channel(stop.child_token());
        tokio::spawn(accept(
            listener,
            target_seen,
            weather_seen,
            cut_seen,
            stop.clone(),
        ));
        Ok(Proxy {
            address,
            weather,
            cut,
            target,
            stop,
        })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how bytes travel from now on.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }

    /// New connections go to another server.
    pub fn redirect(&self, target: SocketAddr) {
        self.target.send_replace(target);
    }

    /// Resets (RST) every connection that is open now, on both sides.
    pub fn cut(&self) {
        self.cut.send_replace(self.stop.child_token()).cancel();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(
    listener: TcpListener,
    target: watch::Receiver<SocketAddr>,
    weather: watch::Receiver<Weather>,
    cut: watch::Receiver<CancellationToken>,
    stop: CancellationToken,
) {
    let connections = TaskTracker::new();
    while let Some(Ok((client, _))) = stop.run_until_cancelled(listener.accept()).await {
        let weather = weather.clone();
        if *weather.borrow() == Weather::Refusing {
            let _ = client.set_zero_linger();
            continue;
        }
        let cut = cut.borrow().clone();
        let target = *target.borrow();
        connections.spawn(async move {
            let _ = carry(client, target, weather, cut).await; // its ends see the broken connection
        });
    }
}

async fn carry(
    mut client: TcpStream,
    target: SocketAddr,
    weather: watch::Receiver<Weather>,
    cut: CancellationToken,
) -> Result<()> {
    let mut server = TcpStream::connect(target)
        .await
        .inspect_err(|_| drop(client.set_zero_linger()))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let both = async {
        tokio::try_join!(
            pump(client_read, server_write, weather.clone()),
            pump(server_read, client_write, weather.clone()),
        )
    };
    let orderly = matches!(cut.run_until_cancelled(both).await, Some(Ok(_)));
    if !orderly {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    Ok(())
}

/// What is under way; it is shut down after the last.
struct Piece {
    due: Instant,
    weather: Weather,
    bytes: Vec<u8>,
}

/// Pieces under way in one direction: more, and the sender waits.
const UNDER_WAY_MAX: usize = 64;

async fn pump(
    from: ReadHalf<'_>,
    to: WriteHalf<'_>,
    weather: watch::Receiver<Weather>,
) -> Result<()> {
    let (pieces, under_way) = mpsc::channel(UNDER_WAY_MAX);
    tokio::try_join!(send(from, pieces, weather), deliver(under_way, to))?;
    Ok(())
}

async fn send(
    mut from: ReadHalf<'_>,
    pieces: mpsc::Sender<Piece>,
    mut weather: watch::Receiver<Weather>,
) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut free = Instant::now();
    loop {
        let length = from.read(&mut buffer).await?;
        weather
            .wait_for(|weather| *weather != Weather::Blackhole)
            .await?;
        let bytes = buffer.get(..length).context("read within the buffer")?;
        let weather = *weather.borrow();
        free = free.max(Instant::now());
        let due = match weather {
            Weather::Slow(latency) => {
                tokio::time::sleep(latency).await;
                free
            }
            Weather::Narrow {
                bytes_per_second,
                latency,
            } => {
                free += Duration::from_secs(1).mul_f64(length as f64 / f64::from(bytes_per_second));
                free + latency
            }
            _ => free,
        };
        let piece = Piece {
            due,
            weather,
            bytes: bytes.to_vec(),
        };
        if pieces.send(piece).await.is_err() || length == 0 {
            return Ok(());
        }
    }
}

async fn deliver(mut under_way: mpsc::Receiver<Piece>, mut to: WriteHalf<'_>) -> Result<()> {
    while let Some(piece) = under_way.recv().await {
        sleep_until(piece.due).await;
        match piece.weather {
            _ if piece.bytes.is_empty() => return Ok(to.shutdown().await?),
            Weather::Sliced => slice(&piece.bytes, &mut to).await?,
            _ => to.write_all(&piece.bytes).await?,
        }
    }
    Ok(())
}

async fn slice(mut bytes: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> Result<()> {
    for length in (1..=7).cycle() {
        let (piece, rest) = bytes.split_at(length.min(bytes.len()));
        to.write_all(piece).await?;
        tokio::task::yield_now().await; // lets the reader see the piece alone
        bytes = rest;
        if bytes.is_empty() {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use super::*;

    /// Takes everything, and remembers how long each piece was: what a socket's other end reads at once
    /// is the kernel's to say.
    #[derive(Default)]
    struct Pieces(Vec<usize>);

    impl AsyncWrite for Pieces {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.0.push(bytes.len());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn slices_are_short() -> Result<()> {
        let mut pieces = Pieces::default();
        slice(&[7; 30], &mut pieces).await?;
        assert_eq!(pieces.0, [1, 2, 3, 4, 5, 6, 7, 1, 1]);
        Ok(())
    }
}
