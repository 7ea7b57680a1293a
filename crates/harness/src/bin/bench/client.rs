//! A WebSocket client that costs as little as possible: no JSON, no buffer of its own while idle.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::dialect::{Dialect, Wish};
use crate::frames::{Frame, Frames, PONG, TEXT, client_frame};

const PATIENCE: Duration = Duration::from_secs(30);

thread_local! {
    /// What all clients of a thread read into.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

pub(crate) struct Client {
    dialect: Dialect,
    stream: TcpStream,
    frames: Frames,
}

impl Client {
    pub(crate) async fn connect(
        address: SocketAddr,
        dialect: Dialect,
        token: &str,
    ) -> Result<Client> {
        let connecting = Client::shake_hands(address, dialect, token);
        timeout(PATIENCE, connecting)
            .await
            .context("the handshake takes too long")?
    }

    /// Asks for something and waits until it is granted.
    pub(crate) async fn join(&mut self, wish: &Wish) -> Result<()> {
        let dialect = self.dialect;
        self.say(&dialect.ask(wish)).await?;
        let granted = self.hear(|message| Ok(dialect.grants(wish, message)?.then_some(())));
        timeout(PATIENCE, granted).await.context("no answer")?
    }

    pub(crate) async fn say(&mut self, text: &str) -> Result<()> {
        let frame = client_frame(TEXT, text.as_bytes());
        Ok(self.stream.write_all(&frame).await?)
    }

    /// Hands message after message to `each`, until it has what it wants of them.
    pub(crate) async fn hear<T>(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<Option<T>>,
    ) -> Result<T> {
        loop {
            let mut pong = Vec::new();
            while let Some(frame) = self.frames.next() {
                match frame {
                    Frame::Message(message) => {
                        if let Some(wanted) = each(message)? {
                            return Ok(wanted);
                        }
                    }
                    Frame::Ping(payload) => pong.extend(client_frame(PONG, payload)),
                    Frame::Close(code) => bail!("the server closed the connection with {code}"),
                    Frame::Other => {}
                }
            }
            if !pong.is_empty() {
                self.stream.write_all(&pong).await?;
            }
            self.read().await?;
        }
    }

    /// The same for ever; errors when the server ends the connection.
    pub(crate) async fn listen(mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.hear(|message| each(message).map(|()| None::<()>))
            .await
    }

    /// The connection for a thread that blocks in `read`.
    pub(crate) fn into_blocking(self) -> Result<(std::net::TcpStream, Frames)> {
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok((stream, self.frames))
    }

    async fn shake_hands(address: SocketAddr, dialect: Dialect, token: &str) -> Result<Client> {
        const HEAD_BYTES_MAX: usize = 4096;
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "{}\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            dialect.request(token)
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::with_capacity(512);
        let end = loop {
            ensure!(
                stream.read_buf(&mut head).await? > 0,
                "closed in the handshake"
            );
            if let Some(end) = memmem::find(&head, b"\r\n\r\n") {
                break end + 4;
            }
            ensure!(
                head.len() < HEAD_BYTES_MAX,
                "a long answer to the handshake"
            );
        };
        let (head, rest) = head.split_at(end);
        let text = String::from_utf8_lossy(head);
        ensure!(text.starts_with("HTTP/1.1 101 "), "not upgraded: {text}");
        let mut frames = Frames::default();
        frames.push(rest);
        Ok(Client {
            dialect,
            stream,
            frames,
        })
    }

    async fn read(&mut self) -> Result<()> {
        loop {
            self.stream.readable().await?;
            let read = SCRATCH.with_borrow_mut(|scratch| {
                let count = self.stream.try_read(scratch)?;
                self.frames.push(scratch.get(..count).unwrap_or_default());
                std::io::Result::Ok(count)
            });
            match read {
                Ok(0) => bail!("the server closed the connection"),
                Ok(_) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
