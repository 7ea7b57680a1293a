//! What a client says.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::json::{is_object, is_shallow, object, part, present, string};
use super::{FrameError, Join, Token};

/// What a client's message asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Boxed: it is much greater than the rest, and rare.
    Join(Box<Join>),
    Leave,
    /// On the topic `phoenix`.
    Heartbeat,
    /// `None` where there is nothing to do: no token, null, or an API key `sb_…`.
    AccessToken(Option<Token>),
    Broadcast(Sent),
    /// `payload` is a JSON object, as it was written.
    Track {
        payload: Bytes,
    },
    /// Answered with [`Reason::TrackNotMap`](super::Reason::TrackNotMap).
    TrackNotMap,
    Untrack,
    /// A presence message of an unknown kind: answered with
    /// [`Reason::Unexplained`](super::Reason::Unexplained).
    UnknownPresence,
    /// A presence message without a kind: answered with ok, and nothing else is done.
    EmptyPresence,
    /// Counted and not answered.
    Unknown {
        name: String,
    },
}

/// A broadcast as it came. All of its bytes are parts of the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The name that the sender gave to it; empty if a text frame has none.
    pub event: String,
    pub payload: Payload,
    /// The whole payload of a text frame, an object with `event`, `payload` and maybe more: passed
    /// on as it stands. `None` for binary frames.
    pub envelope: Option<Bytes>,
    /// A JSON object beside a binary frame's payload, such as `{"persist":true}`.
    pub metadata: Option<Bytes>,
}

/// What a broadcast carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Valid JSON.
    Json(Bytes),
    Binary(Bytes),
}

/// The parts of an event's payload that matter to the server.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Parts<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
}

/// `payload` is a part of `frame`, or stands for a missing one.
pub(super) fn read(
    frame: &Bytes,
    topic: &str,
    name: String,
    payload: &str,
) -> Result<Event, FrameError> {
    let parts = || object::<Parts<'_>>(payload);
    Ok(match name.as_str() {
        "phx_join" => Event::Join(Box::new(Join::read(topic, payload))),
        "phx_leave" => Event::Leave,
        "heartbeat" if topic == "phoenix" => Event::Heartbeat,
        "access_token" => {
            let token = parts().and_then(|parts| parts.access_token.and_then(string));
            Event::AccessToken(token.and_then(Token::new))
        }
        "broadcast" => {
            let parts = parts().ok_or(FrameError::BroadcastNotMap)?;
            Event::Broadcast(broadcast(frame, payload, &parts)?)
        }
        "presence" => match parts() {
            Some(parts) => presence(frame, &parts)?,
            None => Event::EmptyPresence,
        },
        _ => Event::Unknown { name },
    })
}

fn broadcast(frame: &Bytes, payload: &str, parts: &Parts<'_>) -> Result<Sent, FrameError> {
    if !is_shallow(payload.as_bytes()) {
        return Err(FrameError::TooDeep);
    }
    let inner = match parts.payload {
        Some(inner) => part(frame, inner.get().as_bytes()),
        None => Bytes::from_static(b"{}"),
    };
    Ok(Sent {
        event: parts.event.and_then(string).unwrap_or_default(),
        payload: Payload::Json(inner),
        envelope: Some(part(frame, payload.as_bytes())),
        metadata: None,
    })
}

fn presence(frame: &Bytes, parts: &Parts<'_>) -> Result<Event, FrameError> {
    let Some(kind) = parts.event.and_then(string) else {
        return Ok(Event::EmptyPresence);
    };
    Ok(match kind.to_ascii_lowercase().as_str() {
        "track" => match parts.payload {
            None => Event::Track {
                payload: Bytes::from_static(b"{}"),
            },
            Some(payload) if !is_object(payload) => Event::TrackNotMap,
            Some(payload) if !is_shallow(payload.get().as_bytes()) => {
                return Err(FrameError::TooDeep);
            }
            Some(payload) => Event::Track {
                payload: part(frame, payload.get().as_bytes()),
            },
        },
        "untrack" => Event::Untrack,
        _ => Event::UnknownPresence,
    })
}
