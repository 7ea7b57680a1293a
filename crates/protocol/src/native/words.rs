//! A client's message about a broadcast or presence channel → [`ChannelCommand`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use walcast_hub::Message;

use super::channel::{Broadcast, Channel, ChannelCommand, ChannelKind, Join};
use super::incoming::{CHANNEL_BYTES_MAX, Incoming, Label, invalid, malformed};
use super::{BROADCAST, POSTGRES_CHANGES};
use crate::{Code, Reference, Refusal};

/// The channel that a `subscribe` names, if it is none of a table.
pub(super) fn channel_of(incoming: &Incoming<'_>) -> Option<Channel> {
    let names_table = incoming
        .config
        .as_ref()
        .is_some_and(|config| config.table.is_some());
    let channel = incoming.channel.as_deref().filter(|_| !names_table)?;
    Channel::parse(channel)
}

/// Without a `config` it is a client of the Fluxbase SDK, or one as simple: it hears itself, and
/// its events are written so that the SDK understands them.
pub(super) fn join(
    mut incoming: Incoming<'_>,
    channel: Channel,
) -> Result<ChannelCommand, Refusal> {
    let reference = reference(&mut incoming)?;
    let refuse = |refusal: Refusal| refusal.about(reference.clone());
    check_length(&channel).map_err(refuse)?;
    let format = match incoming.config {
        None => BROADCAST,
        Some(_) => POSTGRES_CHANGES,
    };
    let own = incoming.config.as_ref().is_none_or(|config| config.own);
    let config = incoming.config.unwrap_or_default();
    Ok(ChannelCommand::Join(Join {
        channel,
        format,
        own,
        acknowledged: config.ack,
        private: config.private,
        key: config.key.or(incoming.key),
        reference,
    }))
}

pub(super) fn broadcast(mut incoming: Incoming<'_>) -> Result<ChannelCommand, Refusal> {
    let reference = reference(&mut incoming)?;
    let refuse = |refusal: Refusal| refusal.about(reference.clone());
    let channel = named(&incoming, ChannelKind::Broadcast).map_err(refuse)?;
    let event = incoming.event.unwrap_or_else(|| "broadcast".to_owned());
    let payload = incoming.payload.map_or("null", RawValue::get);
    let message = match incoming.encoding.as_deref() {
        None | Some("json") => Message::json(event, Bytes::copy_from_slice(payload.as_bytes())),
        Some("base64") => Message::binary(event, bytes(payload).map_err(refuse)?),
        Some(_) => return Err(refuse(invalid("unknown encoding (use json or base64)"))),
    };
    Ok(ChannelCommand::Broadcast(Broadcast {
        channel,
        message,
        reference,
    }))
}

fn bytes(payload: &str) -> Result<Vec<u8>, Refusal> {
    let text: Option<String> = serde_json::from_str(payload).ok();
    let bytes = text.and_then(|text| STANDARD.decode(text).ok());
    bytes.ok_or_else(|| invalid("the payload is no string in base64"))
}

/// The SDK puts `key` and `state` into a payload; here they may as well stand beside it.
#[derive(Default, Deserialize)]
struct Within<'a> {
    event: Option<String>,
    key: Option<String>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
}

pub(super) fn presence(mut incoming: Incoming<'_>) -> Result<ChannelCommand, Refusal> {
    let reference = reference(&mut incoming)?;
    let refuse = |refusal: Refusal| refusal.about(reference.clone());
    let channel = named(&incoming, ChannelKind::Presence).map_err(refuse)?;
    let within: Within<'_> = match incoming.payload {
        Some(payload) => serde_json::from_str(payload.get())
            .map_err(malformed)
            .map_err(refuse)?,
        None => Within::default(),
    };
    let event = incoming.event.or(within.event).unwrap_or_default();
    match &*event {
        "track" => {
            let state = incoming.state.or(within.state).map_or("{}", RawValue::get);
            if !state.starts_with('{') {
                return Err(refuse(invalid("the state of a presence is an object")));
            }
            Ok(ChannelCommand::Track {
                channel,
                key: incoming.key.or(within.key),
                state: Bytes::copy_from_slice(state.as_bytes()),
                reference,
            })
        }
        "untrack" => Ok(ChannelCommand::Untrack { channel, reference }),
        _ => Err(refuse(invalid(
            "unknown presence event (use track or untrack)",
        ))),
    }
}

/// The channel of a message that is not about joining. Either kind of name will do, since both are
/// of one topic; `kind` only says what to expect.
fn named(incoming: &Incoming<'_>, kind: ChannelKind) -> Result<Channel, Refusal> {
    let name = incoming.channel.as_deref().unwrap_or_default();
    let channel = Channel::parse(name).ok_or_else(|| {
        let text = match kind {
            ChannelKind::Broadcast => "a broadcast goes to a channel broadcast:topic",
            ChannelKind::Presence => "a presence is in a channel presence:topic",
        };
        let refusal = Refusal::new(Code::InvalidChannel, text);
        match name.len() <= CHANNEL_BYTES_MAX {
            true => refusal.on(name),
            false => refusal,
        }
    })?;
    check_length(&channel)?;
    Ok(channel)
}

fn check_length(channel: &Channel) -> Result<(), Refusal> {
    if channel.name.len() > CHANNEL_BYTES_MAX {
        let text = format!("the channel name is longer than {CHANNEL_BYTES_MAX} bytes");
        return Err(Refusal::new(Code::InvalidChannel, text));
    }
    if channel.topic().is_empty() {
        let refusal = Refusal::new(Code::InvalidChannel, "the channel has no topic");
        return Err(refusal.on(&*channel.name));
    }
    Ok(())
}

/// A longer one is not worth repeating.
const REFERENCE_BYTES_MAX: usize = 255;

fn reference(incoming: &mut Incoming<'_>) -> Result<Option<Reference>, Refusal> {
    let value = |label: Label| match label {
        Label::Text(text) if text.len() > REFERENCE_BYTES_MAX => {
            let text = format!("ref and messageId have at most {REFERENCE_BYTES_MAX} bytes");
            Err(invalid(&text))
        }
        Label::Text(text) => Ok(text.into()),
        Label::Number(number) => Ok(number.into()),
    };
    match (incoming.reference.take(), incoming.message_id.take()) {
        (Some(label), _) => value(label).map(Reference::Ref).map(Some),
        (None, Some(label)) => value(label).map(Reference::MessageId).map(Some),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests;
