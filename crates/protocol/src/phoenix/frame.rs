//! What stands around a payload in a text frame.

use walcast_change::write_string;

use super::reference::write_ref;
use super::{Ref, Version};

/// How a frame goes over the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opcode {
    Text,
    Binary,
}

/// A text frame but for its payload, which `payload` appends as JSON. Version 1 has no place for
/// `join_ref`.
pub(super) fn write_frame(
    version: Version,
    [join_ref, reference]: [Option<&Ref>; 2],
    topic: &str,
    event: &str,
    out: &mut Vec<u8>,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    match version {
        Version::V1 => {
            out.extend_from_slice(br#"{"ref":"#);
            write_ref(reference, out);
            out.extend_from_slice(br#","topic":"#);
            write_string(topic.as_bytes(), out);
            out.extend_from_slice(br#","event":"#);
            write_string(event.as_bytes(), out);
            out.extend_from_slice(br#","payload":"#);
            payload(out);
            out.push(b'}');
        }
        Version::V2 => {
            out.push(b'[');
            write_ref(join_ref, out);
            out.push(b',');
            write_ref(reference, out);
            out.push(b',');
            write_string(topic.as_bytes(), out);
            out.push(b',');
            write_string(event.as_bytes(), out);
            out.push(b',');
            payload(out);
            out.push(b']');
        }
    }
}
