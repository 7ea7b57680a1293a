//! Messages that were stored, sent again to one client.

use bytes::{Bytes, BytesMut};
use walcast_change::write_string;
use walcast_protocol::phoenix::{Body, Broadcast, Opcode, Version, write_broadcast};
use walcast_rls::{Replayed, ReplayedPayload};
use walcast_websocket::{OpCode, header};

/// Their frames, in their order; those that the version can't carry are left out.
pub(super) fn replayed(version: Version, topic: &str, messages: &[Replayed]) -> Bytes {
    let mut frames = BytesMut::new();
    let mut payload = Vec::new();
    for message in messages {
        payload.clear();
        let mut meta = br#"{"id":"#.to_vec();
        write_string(message.id.as_bytes(), &mut meta);
        meta.extend_from_slice(br#","replayed":true}"#);
        let broadcast = Broadcast {
            topic,
            event: &message.event,
            body: match &message.payload {
                ReplayedPayload::Json(json) => Body::Json(json.as_bytes()),
                ReplayedPayload::Binary(bytes) => Body::Binary(bytes),
            },
            meta: Some(&meta),
            envelope: None,
        };
        let opcode = match write_broadcast(version, &broadcast, &mut payload) {
            None => continue,
            Some(Opcode::Text) => OpCode::Text,
            Some(Opcode::Binary) => OpCode::Binary,
        };
        header(opcode, payload.len(), &mut frames);
        frames.extend_from_slice(&payload);
    }
    frames.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_no_frame_for_bytes() {
        let message = |payload| Replayed {
            id: "i".to_owned(),
            event: "e".to_owned(),
            payload,
            inserted_at_us: 0,
        };
        let messages = [
            message(ReplayedPayload::Binary(Bytes::from_static(b"\0"))),
            message(ReplayedPayload::Json("{}".to_owned())),
        ];
        let text = r#"{"ref":null,"topic":"realtime:t","event":"broadcast","payload":{"type":"broadcast","event":"e","payload":{},"meta":{"id":"i","replayed":true}}}"#;
        let frames = replayed(Version::V1, "realtime:t", &messages);
        assert!(frames.ends_with(text.as_bytes()));
        assert_eq!(frames.iter().filter(|byte| **byte == 0x82).count(), 0);
        let frames = replayed(Version::V2, "realtime:t", &messages);
        assert_eq!(frames.iter().filter(|byte| **byte == 0x82).count(), 2);
    }
}
