//! A link to Postgres that can go silent without closing, and counts what passes.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;

pub(crate) struct Proxy {
    pub(crate) port: u16,
    link: Link,
}

#[derive(Clone)]
struct Link {
    postgres: u16,
    forwards: watch::Sender<bool>,
    to_us: Arc<AtomicU64>,
}

impl Proxy {
    pub(crate) async fn to(postgres: u16) -> Result<Proxy> {
        Proxy::over_tcp(Link::to(postgres), false).await
    }

    /// A connection pooler, as far as this goes: SQL passes, replication is refused in PgBouncer's words.
    pub(crate) async fn pooler(postgres: u16) -> Result<Proxy> {
        Proxy::over_tcp(Link::to(postgres), true).await
    }

    async fn over_tcp(link: Link, is_pooler: bool) -> Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        let proxy = Proxy {
            port,
            link: link.clone(),
        };
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                if is_pooler && asks_for_replication(&near).await {
                    let _ = near.write_all(&refusal()).await;
                    continue;
                }
                let (read, write) = near.into_split();
                link.open(read, write).await;
            }
        });
        Ok(proxy)
    }

    /// Listens on a Unix socket in `folder`. The kernel lets a TCP socket that nobody reads grow to
    /// tens of megabytes; this one keeps its 200 KB, so that what has passed is what the other side
    /// took.
    pub(crate) fn in_folder(folder: &Path, postgres: u16) -> Result<Proxy> {
        let port = 5432; // a part of the file's name, no more
        let listener = UnixListener::bind(folder.join(format!(".s.PGSQL.{port}")))?;
        let link = Link::to(postgres);
        let proxy = Proxy {
            port,
            link: link.clone(),
        };
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (read, write) = near.into_split();
                link.open(read, write).await;
            }
        });
        Ok(proxy)
    }

    /// From now on nothing passes any more, in both directions; nothing is closed either.
    pub(crate) fn black_hole(&self) {
        self.link.forwards.send_replace(false);
    }

    /// Bytes from Postgres that the other side has taken, or its socket.
    pub(crate) fn bytes_to_us(&self) -> u64 {
        self.link.to_us.load(Ordering::Relaxed)
    }

    /// What was stuck goes on, and new connections pass.
    pub(crate) fn heal(&self) {
        self.link.forwards.send_replace(true);
    }
}

impl Link {
    fn to(postgres: u16) -> Link {
        Link {
            postgres,
            forwards: watch::Sender::new(true),
            to_us: Arc::default(),
        }
    }

    async fn open<R, W>(&self, near_read: R, near_write: W)
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(far) = TcpStream::connect(("127.0.0.1", self.postgres)).await else {
            return;
        };
        let (far_read, far_write) = far.into_split();
        let from_us = Arc::default(); // counted in vain
        let forwarding = || self.forwards.subscribe();
        tokio::spawn(copy(near_read, far_write, forwarding(), from_us));
        tokio::spawn(copy(far_read, near_write, forwarding(), self.to_us.clone()));
    }
}

/// Looks at the first packet without taking it.
async fn asks_for_replication(near: &TcpStream) -> bool {
    let mut startup = [0; 1024];
    let length = near.peek(&mut startup).await.unwrap_or(0);
    let mut words = startup[..length].split(|&byte| byte == 0);
    words.any(|word| word == b"replication")
}

/// An `ErrorResponse`.
fn refusal() -> Vec<u8> {
    let fields = b"SERROR\0C08P01\0Munsupported startup parameter: replication\0\0";
    let length = u32::try_from(4 + fields.len()).unwrap_or(u32::MAX);
    [b"E", length.to_be_bytes().as_slice(), fields].concat()
}

async fn copy<R, W>(
    mut from: R,
    mut to: W,
    mut forwarding: watch::Receiver<bool>,
    count: Arc<AtomicU64>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
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
