//! A broadcast → its payload.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use walcast_change::write_string;
use walcast_hub::{Body, Class, Message};

use super::{BROADCAST, Native};

impl Native {
    /// Appends a broadcast as the members of one class are to see it.
    ///
    /// With a `config`: `{"type":"broadcast","channel":…,"event":…,"payload":…}`, and `"self":true`
    /// for the sender. Without one the Fluxbase SDK must understand it, which wants all of it once
    /// more in `broadcast`.
    pub fn broadcast(&self, class: Class<'_>, message: &Message, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"type":"broadcast","channel":"#);
        write_string(class.label.as_bytes(), out);
        out.push(b',');
        content(class.own, message, out);
        if class.format == BROADCAST {
            out.extend_from_slice(br#","broadcast":{"#);
            content(class.own, message, out);
            out.push(b'}');
        }
        out.push(b'}');
    }
}

fn content(own: bool, message: &Message, out: &mut Vec<u8>) {
    out.extend_from_slice(br#""event":"#);
    write_string(message.event.as_bytes(), out);
    match &message.body {
        Body::Json(json) => {
            out.extend_from_slice(br#","payload":"#);
            out.extend_from_slice(json);
        }
        Body::Binary(bytes) => {
            out.extend_from_slice(br#","encoding":"base64","payload":""#);
            out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            out.push(b'"');
        }
    }
    if let Some(meta) = &message.meta {
        out.extend_from_slice(br#","meta":"#);
        out.extend_from_slice(meta);
    }
    if own {
        out.extend_from_slice(br#","self":true"#);
    }
}
