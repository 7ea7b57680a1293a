//! One client's conversation, in the dialect that its path names.

mod client;
mod memberships;
mod native;
mod subscriptions;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use walcast_hub::{Closing, ConnId, Outbox};
use walcast_websocket::{CloseCode, OpCode, frame};

use crate::shared::Shared;

/// The dialects that have sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Native,
}

pub(crate) enum Session {
    Native(native::Session),
}

/// A whole message as it came.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Text(Bytes),
    Binary(Bytes),
}

impl Session {
    /// A session from `address`, with the token that came with the handshake if there was one.
    /// What is wrong with it is said on the socket, where a browser can read it.
    pub(crate) async fn begin(
        shared: Arc<Shared>,
        dialect: Dialect,
        address: IpAddr,
        token: Option<&str>,
    ) -> Session {
        match dialect {
            Dialect::Native => {
                Session::Native(native::Session::begin(shared, address, token).await)
            }
        }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        match self {
            Session::Native(session) => session.outbox(),
        }
    }

    /// Whether it is within the limits on connections, in all and of its address.
    pub(crate) fn is_admitted(&self) -> bool {
        match self {
            Session::Native(session) => session.is_admitted(),
        }
    }

    pub(crate) fn id(&self) -> ConnId {
        match self {
            Session::Native(session) => session.id(),
        }
    }

    pub(crate) fn closing(&self, closing: Closing) -> (CloseCode, &'static str) {
        match self {
            Session::Native(session) => session.closing(closing),
        }
    }

    /// A whole message or control frame came from the client.
    pub(crate) fn heard(&mut self, now: Instant) {
        match self {
            Session::Native(session) => session.heard(now),
        }
    }

    /// Carries out one message; the reason if it ends the connection.
    pub(crate) async fn receive(&mut self, message: Message) -> Option<Closing> {
        match self {
            Session::Native(session) => session.receive(&message).await,
        }
    }

    /// When [`Session::tick`] is due.
    pub(crate) fn wake_at(&self) -> Instant {
        match self {
            Session::Native(session) => session.wake_at(),
        }
    }

    /// What the clock asks for; the reason if it ends the connection.
    pub(crate) async fn tick(&mut self, now: Instant) -> Option<Closing> {
        match self {
            Session::Native(session) => session.tick(now).await,
        }
    }

    /// The subscriptions end with the connection.
    pub(crate) async fn end(&mut self) {
        match self {
            Session::Native(session) => session.end().await,
        }
    }
}

impl Message {
    pub(crate) fn bytes(&self) -> &Bytes {
        match self {
            Message::Text(bytes) | Message::Binary(bytes) => bytes,
        }
    }
}

/// A text frame of what `write` writes.
pub(crate) fn text_frame(write: impl FnOnce(&mut Vec<u8>)) -> Bytes {
    let mut payload = Vec::with_capacity(256);
    write(&mut payload);
    frame(OpCode::Text, &payload)
}
