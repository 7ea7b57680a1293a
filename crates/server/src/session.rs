//! One client's conversation, in the dialect that its path names.

mod client;
mod memberships;
mod native;
pub(crate) mod phoenix;
mod subscriptions;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use walcast_change::Numbers;
use walcast_hub::{Closing, ConnId, Outbox};
use walcast_protocol::UnknownNumbers;
use walcast_websocket::{CloseCode, OpCode, frame};

use crate::shared::Shared;

pub(crate) use memberships::MOMENT;

/// The dialects that have sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Native,
    /// Supabase's, in either version.
    Phoenix,
}

/// What came with the handshake.
pub(crate) enum Greeting {
    /// The token, if there was one. What is wrong with it is said on the socket, where a browser
    /// can read it.
    Native {
        address: IpAddr,
        token: Option<String>,
        /// What the connection's subscriptions ask for that don't say it themselves.
        numbers: Result<Option<Numbers>, UnknownNumbers>,
    },
    Phoenix(phoenix::Greeting),
}

#[expect(
    clippy::large_enum_variant,
    reason = "native sessions are not to cost an allocation"
)]
pub(crate) enum Session {
    Native(native::Session),
    Phoenix(Box<phoenix::Session>),
}

/// A whole message as it came.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    Text(Bytes),
    Binary(Bytes),
}

impl Session {
    pub(crate) async fn begin(shared: Arc<Shared>, greeting: Greeting) -> Session {
        match greeting {
            Greeting::Native {
                address,
                token,
                numbers,
            } => {
                let session = native::Session::begin(shared, address, token.as_deref(), numbers);
                Session::Native(session.await)
            }
            Greeting::Phoenix(greeting) => {
                Session::Phoenix(Box::new(phoenix::Session::begin(shared, greeting)))
            }
        }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        match self {
            Session::Native(session) => session.outbox(),
            Session::Phoenix(session) => session.outbox(),
        }
    }

    /// Whether it is within the limits on connections, in all and of its address.
    pub(crate) fn is_admitted(&self) -> bool {
        match self {
            Session::Native(session) => session.is_admitted(),
            // Others get no socket.
            Session::Phoenix(_) => true,
        }
    }

    pub(crate) fn id(&self) -> ConnId {
        match self {
            Session::Native(session) => session.id(),
            Session::Phoenix(session) => session.id(),
        }
    }

    pub(crate) fn closing(&self, closing: Closing) -> (CloseCode, &'static str) {
        match self {
            Session::Native(session) => session.closing(closing),
            Session::Phoenix(session) => session.closing(closing),
        }
    }

    /// A whole message or control frame came from the client.
    pub(crate) fn heard(&mut self, now: Instant) {
        match self {
            Session::Native(session) => session.heard(now),
            Session::Phoenix(session) => session.heard(now),
        }
    }

    /// Carries out one message; the reason if it ends the connection.
    pub(crate) async fn receive(&mut self, message: Message) -> Option<Closing> {
        match self {
            Session::Native(session) => session.receive(&message).await,
            Session::Phoenix(session) => session.receive(&message).await,
        }
    }

    /// When [`Session::tick`] is due.
    pub(crate) fn wake_at(&self) -> Instant {
        match self {
            Session::Native(session) => session.wake_at(),
            Session::Phoenix(session) => session.wake_at(),
        }
    }

    /// What the clock asks for; the reason if it ends the connection.
    pub(crate) async fn tick(&mut self, now: Instant) -> Option<Closing> {
        match self {
            Session::Native(session) => session.tick(now).await,
            Session::Phoenix(session) => session.tick(now).await,
        }
    }

    /// The subscriptions end with the connection.
    pub(crate) async fn end(&mut self) {
        match self {
            Session::Native(session) => session.end().await,
            Session::Phoenix(session) => session.end().await,
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
