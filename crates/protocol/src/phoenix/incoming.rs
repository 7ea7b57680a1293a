//! A client's frame → what it says.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::event::{self, Payload};
use super::json::{array, is_shallow, object, part, string};
use super::{Address, Event, Ref, Sent, Version};

/// One message of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incoming {
    /// May be missing or that of an earlier join: some clients do, and are answered all the same.
    pub join_ref: Option<Ref>,
    pub reference: Option<Ref>,
    pub topic: String,
    pub event: Event,
}

impl Incoming {
    /// Where the answer goes.
    pub fn address(&self, version: Version) -> Address<'_> {
        Address {
            version,
            join_ref: self.join_ref.as_ref(),
            reference: self.reference.as_ref(),
            topic: &self.topic,
        }
    }

    /// What follows `realtime:`; `None` if the topic is not of that form.
    pub fn subtopic(&self) -> Option<&str> {
        self.topic.strip_prefix("realtime:")
    }
}

/// A frame that says nothing. It is dropped and logged as `MalformedWebSocketMessage`; the
/// connection stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    #[error("not a JSON object with topic, event and payload")]
    NotObject,
    #[error("not a JSON array of join_ref, ref, topic, event and payload")]
    NotArray,
    #[error("a ref is neither null, a number nor a string of up to 255 bytes")]
    BadRef,
    #[error("topic or event is no string")]
    BadName,
    #[error("the payload of a broadcast is no object")]
    BroadcastNotMap,
    #[error("a payload or metadata that should be JSON is not")]
    NotJson,
    #[error("a payload is nested too deeply")]
    TooDeep,
    #[error("a binary frame is shorter than its header says")]
    Truncated,
    #[error("a binary frame's text is not UTF-8")]
    NotUtf8,
    #[error("binary frames of kind {kind} are not known")]
    UnknownKind { kind: u8 },
}

/// Reads a text frame.
pub fn decode_text(version: Version, frame: &Bytes) -> Result<Incoming, FrameError> {
    let text = std::str::from_utf8(frame).map_err(|_| FrameError::NotUtf8)?;
    let [join_ref, reference, topic, name, payload] = match version {
        Version::V1 => {
            let fields: Fields<'_> = object(text).ok_or(FrameError::NotObject)?;
            let Fields {
                join_ref,
                reference,
                topic,
                event,
                payload,
            } = fields;
            [join_ref, reference, topic, event, payload]
        }
        Version::V2 => {
            let (elements, _) = array(text, 5).ok_or(FrameError::NotArray)?;
            let elements: [&RawValue; 5] = elements.try_into().map_err(|_| FrameError::NotArray)?;
            elements.map(Some)
        }
    };
    let topic = topic.and_then(string).ok_or(FrameError::BadName)?;
    let name = name.and_then(string).ok_or(FrameError::BadName)?;
    Ok(Incoming {
        join_ref: Ref::read(join_ref).map_err(|()| FrameError::BadRef)?,
        reference: Ref::read(reference).map_err(|()| FrameError::BadRef)?,
        event: event::read(frame, &topic, name, payload.map_or("{}", RawValue::get))?,
        topic,
    })
}

/// The keys of version 1.
#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    join_ref: Option<&'a RawValue>,
    #[serde(borrow, rename = "ref")]
    reference: Option<&'a RawValue>,
    #[serde(borrow)]
    topic: Option<&'a RawValue>,
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
}

/// A push with bytes as its payload.
const PUSH: u8 = 0;
const USER_BROADCAST_PUSH: u8 = 3;
/// Of a payload that is bytes; every other number is JSON.
const BINARY: u8 = 0;

/// Reads a binary frame. Version 1 has none; there its bytes are read as text.
pub fn decode_binary(version: Version, frame: &Bytes) -> Result<Incoming, FrameError> {
    if version == Version::V1 {
        return decode_text(version, frame);
    }
    let (&kind, rest) = frame.split_first().ok_or(FrameError::Truncated)?;
    match kind {
        PUSH => push(rest),
        USER_BROADCAST_PUSH => user_broadcast_push(frame, rest),
        kind => Err(FrameError::UnknownKind { kind }),
    }
}

fn push(rest: &[u8]) -> Result<Incoming, FrameError> {
    let (sizes, rest) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
    let ([join_ref, reference, topic, name], _) = fields::<4>(sizes, rest)?;
    // Nothing that the server does takes bytes here.
    let event = match name {
        "phx_leave" => Event::Leave,
        "heartbeat" if topic == "phoenix" => Event::Heartbeat,
        name => Event::Unknown { name: name.into() },
    };
    Ok(Incoming {
        join_ref: Ref::from_binary(join_ref),
        reference: Ref::from_binary(reference),
        topic: topic.into(),
        event,
    })
}

fn user_broadcast_push(frame: &Bytes, rest: &[u8]) -> Result<Incoming, FrameError> {
    let (sizes, rest) = rest.split_first_chunk().ok_or(FrameError::Truncated)?;
    let (&encoding, rest) = rest.split_first().ok_or(FrameError::Truncated)?;
    let ([join_ref, reference, topic, name, metadata], payload) = fields::<5>(sizes, rest)?;
    let metadata = match metadata.is_empty() {
        true => None,
        false if !metadata.starts_with('{') => return Err(FrameError::NotJson),
        false => Some(checked(frame, metadata.as_bytes())?),
    };
    let payload = match encoding {
        BINARY => Payload::Binary(part(frame, payload)),
        _ => Payload::Json(checked(frame, payload)?),
    };
    Ok(Incoming {
        join_ref: Ref::from_binary(join_ref),
        reference: Ref::from_binary(reference),
        topic: topic.into(),
        event: Event::Broadcast(Sent {
            event: name.into(),
            payload,
            envelope: None,
            metadata,
        }),
    })
}

/// Texts of the given sizes, one after the other, and what follows them.
fn fields<'a, const N: usize>(
    sizes: &[u8; N],
    mut rest: &'a [u8],
) -> Result<([&'a str; N], &'a [u8]), FrameError> {
    let mut texts = [""; N];
    for (text, &size) in texts.iter_mut().zip(sizes) {
        let (bytes, after) = rest
            .split_at_checked(size.into())
            .ok_or(FrameError::Truncated)?;
        *text = std::str::from_utf8(bytes).map_err(|_| FrameError::NotUtf8)?;
        rest = after;
    }
    Ok((texts, rest))
}

/// The part of `frame` that is `json`, if it is: it will stand in the middle of other JSON.
fn checked(frame: &Bytes, json: &[u8]) -> Result<Bytes, FrameError> {
    let json: &RawValue = serde_json::from_slice(json).map_err(|_| FrameError::NotJson)?;
    match is_shallow(json.get().as_bytes()) {
        true => Ok(part(frame, json.get().as_bytes())),
        false => Err(FrameError::TooDeep),
    }
}
