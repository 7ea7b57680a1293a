//! What a channel carries, and the seam to the dialects that write it.

use std::sync::Arc;

use bytes::Bytes;

use crate::presence::{Diff, Roster};

/// One broadcast. Cloning shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The name that the sender gave to it.
    pub event: Arc<str>,
    pub body: Body,
    /// A JSON object about the message, such as the id under which it is stored.
    pub meta: Option<Bytes>,
    /// The JSON object that event and payload came in, if it is to be passed on as it stands: it
    /// may hold more than these. Dialects without such an object leave it out.
    pub envelope: Option<Bytes>,
}

/// A payload, never parsed and never written anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// One JSON value that the dialect of the sender has checked.
    Json(Bytes),
    Binary(Bytes),
}

impl Message {
    /// A JSON value under an event's name, and nothing else.
    pub fn json(event: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Message {
        Message::new(event, Body::Json(payload.into()))
    }

    /// Bytes under an event's name.
    pub fn binary(event: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Message {
        Message::new(event, Body::Binary(payload.into()))
    }

    fn new(event: impl Into<Arc<str>>, body: Body) -> Message {
        Message {
            event: event.into(),
            body,
            meta: None,
            envelope: None,
        }
    }

    /// What counts against the limit on a message: everything that it carries but its name. The
    /// payload is a part of the envelope, if there is one.
    pub fn len(&self) -> usize {
        let meta = self.meta.as_ref().map_or(0, Bytes::len);
        let body = self.body.bytes().len();
        meta + self
            .envelope
            .as_ref()
            .map_or(body, |envelope| envelope.len().max(body))
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Body {
    pub fn bytes(&self) -> &Bytes {
        match self {
            Body::Json(bytes) | Body::Binary(bytes) => bytes,
        }
    }
}

/// Members that get the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Class<'a> {
    /// Which dialect, and which of its styles. Means nothing here.
    pub format: u8,
    /// The channel as these members name it.
    pub label: &'a str,
    /// The receiver is the sender, and asked to hear itself.
    pub own: bool,
}

/// The dialects, as a channel sees them: who writes the frames.
///
/// Called under the topic's lock, once per class and message: it computes, and neither waits nor
/// calls back into the channels. What it returns are whole frames, one or several in a row, as
/// they go to the socket; `None`, or no bytes, if these members are not to get anything, because
/// their dialect can't carry it.
pub trait Voice: Send + Sync {
    fn broadcast(&self, class: Class<'_>, message: &Message) -> Option<Bytes>;

    /// Members came, changed or went; `roster` is what is true afterwards.
    fn presence(&self, class: Class<'_>, diff: &Diff, roster: &Roster) -> Option<Bytes>;
}
