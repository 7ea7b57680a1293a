//! A WebSocket client for tests: sends JSON, waits for JSON with a deadline.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

/// A connection that takes some 64 KiB from the kernel while nobody reads it. The kernel lets an ordinary
/// one grow to tens of megabytes, how many is the machine's to say.
pub async fn narrow(address: SocketAddr) -> Result<TcpStream> {
    const BUFFER_BYTES: u32 = 32 << 10;
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER_BYTES)?; // which the kernel then leaves alone
    Ok(socket.connect(address).await?)
}

/// How many messages an error of [`Socket::expect`] quotes.
const QUOTED_MAX: usize = 20;

type Stream = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// One client connection. Pings are answered while it is read.
pub struct Socket {
    stream: Stream,
}

impl Socket {
    /// Connects to a `ws://` address. Errors: the refusal's HTTP status and body are in the text.
    pub async fn connect(url: &str) -> Result<Socket> {
        Socket::connect_with(url, &[]).await
    }

    /// The same with request headers, for example `[("authorization", "Bearer …")]`.
    pub async fn connect_with(url: &str, headers: &[(&str, &str)]) -> Result<Socket> {
        let mut request = url.into_client_request()?;
        for (name, value) in headers {
            request.headers_mut().insert(
                HeaderName::from_bytes(name.as_bytes())?,
                HeaderValue::from_str(value)?,
            );
        }
        opened(tokio_tungstenite::connect_async(request).await)
    }

    /// A client that the server soon notices when it does not read: it is [`narrow`].
    pub async fn connect_narrow(url: &str) -> Result<Socket> {
        let request = url.into_client_request()?;
        let authority = request.uri().authority().context("an address")?;
        let stream = narrow(authority.as_str().parse()?).await?;
        let stream = MaybeTlsStream::Plain(stream);
        opened(tokio_tungstenite::client_async(request, stream).await)
    }

    /// Sends one text frame.
    pub async fn send_json(&mut self, value: &Value) -> Result<()> {
        self.send(Message::text(value.to_string())).await
    }

    /// Sends any frame, also one that the server should refuse.
    pub async fn send(&mut self, message: Message) -> Result<()> {
        Ok(self.stream.send(message).await?)
    }

    /// The next data or close frame; pings and pongs are passed over.
    pub async fn next(&mut self, deadline: Duration) -> Result<Message> {
        self.next_until(Instant::now() + deadline).await
    }

    /// The next message as JSON. Errors: the deadline, a close, a frame that isn't JSON text.
    pub async fn next_json(&mut self, deadline: Duration) -> Result<Value> {
        self.next_json_until(Instant::now() + deadline).await
    }

    /// Reads on until a message satisfies `wanted`; what came before it is dropped.
    pub async fn expect(
        &mut self,
        wanted: impl Fn(&Value) -> bool,
        deadline: Duration,
    ) -> Result<Value> {
        let mut messages = self.until(wanted, deadline).await?;
        messages.pop().context("the wanted message is the last")
    }

    /// Reads on until a message satisfies `wanted`, and returns everything up to and with it.
    ///
    /// To show that something was *not* sent: cause a visible event after it, wait for that one here,
    /// and look at what came before.
    pub async fn until(
        &mut self,
        wanted: impl Fn(&Value) -> bool,
        deadline: Duration,
    ) -> Result<Vec<Value>> {
        let end = Instant::now() + deadline;
        let mut seen = Vec::new();
        loop {
            let message = self
                .next_json_until(end)
                .await
                .with_context(|| format!("not among the messages so far: {}", quote(&seen)))?;
            let found = wanted(&message);
            seen.push(message);
            if found {
                return Ok(seen);
            }
        }
    }

    /// Reads on until the server closes: its code (1005 without one) and reason.
    pub async fn closed(&mut self, deadline: Duration) -> Result<(u16, String)> {
        let end = Instant::now() + deadline;
        loop {
            if let Message::Close(frame) = self.next_until(end).await? {
                return Ok(frame.map_or((1005, String::new()), |frame| {
                    (frame.code.into(), frame.reason.to_string())
                }));
            }
        }
    }

    /// Says goodbye with code 1000.
    pub async fn close(mut self) -> Result<()> {
        Ok(self.stream.close(None).await?)
    }

    async fn next_json_until(&mut self, end: Instant) -> Result<Value> {
        match self.next_until(end).await? {
            Message::Text(text) => {
                serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
            }
            other => anyhow::bail!("not a text frame: {other:?}"),
        }
    }

    async fn next_until(&mut self, end: Instant) -> Result<Message> {
        loop {
            let message = timeout_at(end, self.stream.next())
                .await
                .context("no message before the deadline")?
                .context("the connection ended")??;
            if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                return Ok(message);
            }
        }
    }
}

fn opened(handshake: Result<(Stream, Response), Error>) -> Result<Socket> {
    match handshake {
        Ok((stream, _)) => Ok(Socket { stream }),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            anyhow::bail!(
                "refused with {}: {}",
                response.status().as_u16(),
                String::from_utf8_lossy(body)
            )
        }
        Err(error) => Err(error).context("opening the websocket"),
    }
}

fn quote(messages: &[Value]) -> String {
    let skipped = messages.len().saturating_sub(QUOTED_MAX);
    let quoted: Vec<_> = messages
        .iter()
        .skip(skipped)
        .map(Value::to_string)
        .collect();
    format!("({skipped} left out) [{}]", quoted.join(", "))
}
