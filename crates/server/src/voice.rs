//! All dialects as the hub's channels see them: messages → frames.

use bytes::{Bytes, BytesMut};
use walcast_hub::{Body, Class, Diff, Dot, Message, Meta, Roster, Voice};
use walcast_protocol::Native;
use walcast_protocol::phoenix::{self, Opcode, Version};
use walcast_websocket::{OpCode, frame, header};

use crate::session::text_frame;

/// Finds the dialect by the class's format.
pub(crate) struct Dialects;

enum Dialect {
    Native,
    Phoenix(Version),
}

fn dialect(format: u8) -> Dialect {
    match format {
        2 => Dialect::Phoenix(Version::V1),
        3 => Dialect::Phoenix(Version::V2),
        _ => Dialect::Native,
    }
}

impl Voice for Dialects {
    fn broadcast(&self, class: Class<'_>, message: &Message) -> Option<Bytes> {
        match dialect(class.format) {
            Dialect::Native => Some(text_frame(|out| Native.broadcast(class, message, out))),
            Dialect::Phoenix(version) => {
                let mut payload = Vec::with_capacity(message.len() + 128);
                let message = phoenix_broadcast(class.label, message);
                let opcode = phoenix::write_broadcast(version, &message, &mut payload)?;
                Some(match opcode {
                    Opcode::Text => frame(OpCode::Text, &payload),
                    Opcode::Binary => frame(OpCode::Binary, &payload),
                })
            }
        }
    }

    fn presence(&self, class: Class<'_>, diff: &Diff, roster: &Roster) -> Option<Bytes> {
        match dialect(class.format) {
            Dialect::Native => {
                let mut frames = BytesMut::new();
                Native.presence(class, diff, roster, &mut |payload| {
                    header(OpCode::Text, payload.len(), &mut frames);
                    frames.extend_from_slice(payload);
                });
                Some(frames.freeze())
            }
            Dialect::Phoenix(version) => {
                let joins = diff.joins().map(|(key, metas)| (key, phoenix_metas(metas)));
                let leaves = diff
                    .leaves()
                    .map(|(key, metas)| (key, phoenix_metas(metas)));
                Some(text_frame(|out| {
                    phoenix::write_presence_diff(version, class.label, joins, leaves, out);
                }))
            }
        }
    }
}

fn phoenix_broadcast<'a>(topic: &'a str, message: &'a Message) -> phoenix::Broadcast<'a> {
    phoenix::Broadcast {
        topic,
        event: &message.event,
        body: match &message.body {
            Body::Json(json) => phoenix::Body::Json(json),
            Body::Binary(bytes) => phoenix::Body::Binary(bytes),
        },
        meta: message.meta.as_deref(),
        envelope: message.envelope.as_deref(),
    }
}

/// What Phoenix's presence messages have under a key.
pub(crate) fn phoenix_metas(metas: &[Meta]) -> Vec<phoenix::Meta<'_, Dot>> {
    let metas = metas.iter().map(|own| phoenix::Meta {
        phx_ref: own.dot,
        phx_ref_prev: own.previous,
        fields: &own.payload,
    });
    metas.collect()
}
