//! A TCP link to Postgres that can go silent without closing.

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    forwards: watch::Sender<bool>,
}

impl Proxy {
    pub(crate) async fn to(port: u16) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let (forwards, forwarding) = watch::channel(true);
        let proxy = Proxy {
            port: listener.local_addr()?.port(),
            forwards,
        };
        tokio::spawn(accept(listener, port, forwarding));
        Ok(proxy)
    }

    /// From now on nothing passes any more, in both directions; nothing is closed either.
    pub(crate) fn black_hole(&self) {
        self.forwards.send_replace(false);
    }

    /// What was stuck goes on, and new connections pass.
    pub(crate) fn heal(&self) {
        self.forwards.send_replace(true);
    }
}

async fn accept(listener: TcpListener, port: u16, forwarding: watch::Receiver<bool>) {
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else {
            continue;
        };
        let (near_read, near_write) = near.into_split();
        let (far_read, far_write) = far.into_split();
        tokio::spawn(copy(near_read, far_write, forwarding.clone()));
        tokio::spawn(copy(far_read, near_write, forwarding.clone()));
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut forwarding: watch::Receiver<bool>,
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
            Some(_) => {}
        }
    }
}
