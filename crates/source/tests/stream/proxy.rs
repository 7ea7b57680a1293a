//! A TCP link to Postgres that can go silent without closing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    forwards: watch::Sender<bool>,
    to_us: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (forwards, forwarding) = watch::channel(true);
        let proxy = Proxy {
            port: listener.local_addr()?.port(),
            forwards,
            to_us: Arc::default(),
        };
        let to_us = proxy.to_us.clone();
        tokio::spawn(accept(listener, port, forwarding, to_us));
        Ok(proxy)
    }

    /// From now on nothing passes any more, in both directions; nothing is closed either.
    pub(crate) fn black_hole(&self) {
        self.forwards.send_replace(false);
    }

    /// Bytes from Postgres that the other side has taken, or its socket.
    pub(crate) fn bytes_to_us(&self) -> u64 {
        self.to_us.load(Ordering::Relaxed)
    }

    /// What was stuck goes on, and new connections pass.
    pub(crate) fn heal(&self) {
        self.forwards.send_replace(true);
    }
}

async fn accept(
    listener: TcpListener,
    port: u16,
    forwarding: watch::Receiver<bool>,
    to_us: Arc<AtomicU64>,
) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
            continue;
        };
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        let from_us = Arc::default(); // counted in vain
        tokio::spawn(copy(near_read, far_write, forwarding.clone(), from_us));
        let to_us = to_us.clone();
        tokio::spawn(copy(far_read, near_write, forwarding.clone(), to_us));
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut forwarding: watch::Receiver<bool>,
    count: Arc<AtomicU64>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if forwarding.wait_for(|open| *open).await.is_err() {
            return;
        }
        match buffer.get(..read) {
            None | Some([]) => return,
            Some(bytes) if to.write_all(bytes).await.is_err() => return,
            Some(bytes) => {
                count.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        }
    }
}
