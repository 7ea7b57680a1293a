//! A broadcast, to those who joined.

use walcast_change::write_string;

use super::frame::write_frame;
use super::{Opcode, Version};

/// A message on its way out, whoever sent it.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast<'a> {
    /// As the receivers joined it, with `realtime:`.
    pub topic: &'a str,
    pub event: &'a str,
    pub body: Body<'a>,
    /// A JSON object: `{"id":"…"}` of stored messages, with `"replayed":true` when sent again.
    pub meta: Option<&'a [u8]>,
    /// The whole payload of the sender's text frame, a JSON object: it goes out as it stands.
    pub envelope: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// One JSON value.
    Json(&'a [u8]),
    Binary(&'a [u8]),
}

const USER_BROADCAST: u8 = 4;
const ENCODING_BINARY: u8 = 0;
const ENCODING_JSON: u8 = 1;

/// Appends the frame for all receivers of a version: it names no join. `None`, and nothing is
/// appended, if that version can't carry the message: bytes in version 1, or under a topic or an
/// event of more than 255 bytes.
///
/// | sent as | to version 1 | to version 2 |
/// |---|---|---|
/// | text frame | text, the payload as it was | text, the payload as it was |
/// | JSON in a binary frame, by SQL, by REST | text | binary; text if its header is too long |
/// | bytes | – | binary |
pub fn write_broadcast(
    version: Version,
    broadcast: &Broadcast<'_>,
    out: &mut Vec<u8>,
) -> Option<Opcode> {
    let text = |out: &mut Vec<u8>, payload: &dyn Fn(&mut Vec<u8>)| {
        write_frame(
            version,
            [None, None],
            broadcast.topic,
            "broadcast",
            out,
            payload,
        );
        Some(Opcode::Text)
    };
    match (version, broadcast.body, broadcast.envelope) {
        (_, _, Some(envelope)) => text(out, &|out| out.extend_from_slice(envelope)),
        (Version::V1, Body::Binary(_), None) => None,
        (Version::V1, Body::Json(json), None) => text(out, &|out| payload(broadcast, json, out)),
        (Version::V2, Body::Binary(bytes), None) => {
            user_broadcast(broadcast, ENCODING_BINARY, bytes, out)
        }
        (Version::V2, Body::Json(json), None) => {
            user_broadcast(broadcast, ENCODING_JSON, json, out)
                .or_else(|| text(out, &|out| payload(broadcast, json, out)))
        }
    }
}

fn payload(broadcast: &Broadcast<'_>, json: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"broadcast","event":"#);
    write_string(broadcast.event.as_bytes(), out);
    out.extend_from_slice(br#","payload":"#);
    out.extend_from_slice(json);
    if let Some(meta) = broadcast.meta {
        out.extend_from_slice(br#","meta":"#);
        out.extend_from_slice(meta);
    }
    out.push(b'}');
}

/// `04 topicLen eventLen metaLen encoding topic event meta payload`
fn user_broadcast(
    broadcast: &Broadcast<'_>,
    encoding: u8,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<Opcode> {
    let fields = [
        broadcast.topic.as_bytes(),
        broadcast.event.as_bytes(),
        broadcast.meta.unwrap_or_default(),
    ];
    let mut sizes = [0; 3];
    for (size, field) in sizes.iter_mut().zip(fields) {
        *size = u8::try_from(field.len()).ok()?;
    }
    out.push(USER_BROADCAST);
    out.extend_from_slice(&sizes);
    out.push(encoding);
    for field in fields {
        out.extend_from_slice(field);
    }
    out.extend_from_slice(payload);
    Some(Opcode::Binary)
}
