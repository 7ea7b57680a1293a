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

use crate::frames::{Frame, Frames, client_frame};

const PATIENCE: Duration = Duration::from_secs(30);
const TEXT: u8 = 1;
const PONG: u8 = 10;
const ACK: &[u8] = br#""type":"ack""#;

thread_local! {
    /// What all clients of a thread read into.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
}

pub(crate) struct Client {
    stream: TcpStream,
    frames: Frames,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, token: &str) -> Result<Client> {
        let connecting = Client::shake_hands(address, token);
        timeout(PATIENCE, connecting)
            .await
            .context("the handshake takes too long")?
    }

    /// Subscribes to a table and waits for the acknowledgement.
    pub(crate) async fn subscribe(&mut self, table: &str) -> Result<()> {
        let message = format!(r#"{{"type":"subscribe","channel":"table:{table}"}}"#);
        self.stream
            .write_all(&client_frame(TEXT, message.as_bytes()))
            .await?;
        timeout(PATIENCE, self.acknowledged())
            .await
            .context("no acknowledgement")?
    }

    /// Hands every message to `each`, for ever; errors when the server ends the connection.
    pub(crate) async fn listen(mut self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        loop {
            self.read().await?;
            let mut pong = Vec::new();
            while let Some(frame) = self.frames.next() {
                match frame {
                    Frame::Text(text) => each(text)?,
                    Frame::Ping(payload) => pong.extend(client_frame(PONG, payload)),
                    Frame::Close(code) => bail!("the server closed the connection with {code}"),
                    Frame::Other => {}
                }
            }
            if !pong.is_empty() {
                self.stream.write_all(&pong).await?;
            }
        }
    }

    /// The connection for a thread that blocks in `read`.
    pub(crate) fn into_blocking(self) -> Result<(std::net::TcpStream, Frames)> {
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok((stream, self.frames))
    }

    async fn shake_hands(address: SocketAddr, token: &str) -> Result<Client> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let request = format!(
            "GET /realtime HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            ensure!(head.len() < 4096, "a long answer to the handshake");
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8_lossy(&head);
        ensure!(head.starts_with("HTTP/1.1 101 "), "not upgraded: {head}");
        Ok(Client {
            stream,
            frames: Frames::default(),
        })
    }

    async fn acknowledged(&mut self) -> Result<()> {
        loop {
            while let Some(frame) = self.frames.next() {
                match frame {
                    Frame::Text(text) if memmem::find(text, ACK).is_some() => return Ok(()),
                    Frame::Text(text) => bail!("no ack: {}", String::from_utf8_lossy(text)),
                    Frame::Close(code) => bail!("the server closed the connection with {code}"),
                    Frame::Ping(_) | Frame::Other => {}
                }
            }
            self.read().await?;
        }
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
