//! Broadcasts in and out: the golden vectors, and who can carry what to whom.

use super::*;

const PUSH_JSON: &str = "030201030a0001 3130 31 746f70 757365722d6576656e74 7b2261223a2262227d";
const PUSH_PERSIST: &str = "030201030a1001 3130 31 746f70 757365722d6576656e74
    7b2270657273697374223a747275657d 7b2261223a2262227d";
const PUSH_BINARY: &str = "030201030a0000 3130 31 746f70 757365722d6576656e74 010203";
const SENT_JSON: &str = "040c0a0b01 7265616c74696d653a746f70 757365722d6576656e74
    7b226964223a226d31227d 7b2261223a2262227d";
const SENT_BINARY: &str = "040c0a0000 7265616c74696d653a746f70 757365722d6576656e74 010203";

fn bytes(vector: &str) -> Bytes {
    hex(&vector.replace('\n', " ")).into()
}

fn push(metadata: Option<&'static [u8]>, payload: Payload) -> Incoming {
    Incoming {
        join_ref: reference("10"),
        reference: reference("1"),
        topic: "top".into(),
        event: Event::Broadcast(Sent {
            event: "user-event".into(),
            payload,
            envelope: None,
            metadata: metadata.map(Bytes::from_static),
        }),
    }
}

#[test]
fn what_their_client_sends_in_binary() {
    let json = || Payload::Json(Bytes::from_static(br#"{"a":"b"}"#));
    for (vector, expected) in [
        (PUSH_JSON, push(None, json())),
        (PUSH_PERSIST, push(Some(br#"{"persist":true}"#), json())),
        (
            PUSH_BINARY,
            push(None, Payload::Binary(Bytes::from_static(&[1, 2, 3]))),
        ),
    ] {
        assert_eq!(decode_binary(Version::V2, &bytes(vector)), Ok(expected));
    }
}

#[test]
fn every_prefix_of_a_binary_frame_is_an_error_or_has_less_payload() {
    for (vector, header_len) in [(PUSH_JSON, 23), (PUSH_PERSIST, 39), (PUSH_BINARY, 23)] {
        let frame = bytes(vector);
        for end in 0..frame.len() {
            let found = decode_binary(Version::V2, &frame.slice(..end));
            match (end < header_len, vector == PUSH_BINARY) {
                (true, _) => assert_eq!(found, Err(FrameError::Truncated), "{end}"),
                (false, false) => assert_eq!(found, Err(FrameError::NotJson), "{end}"),
                (false, true) => {
                    let payload = Payload::Binary(frame.slice(header_len..end));
                    assert_eq!(found, Ok(push(None, payload)), "{end}");
                }
            }
        }
    }
}

#[test]
fn bad_binary_frames() {
    let deep = [
        b"\x03\0\0\x01\0\0\x01t".to_vec(),
        "[".repeat(513).into(),
        "]".repeat(513).into(),
    ];
    for (frame, expected) in [
        (hex(""), FrameError::Truncated),
        (hex("01"), FrameError::UnknownKind { kind: 1 }),
        (hex("04 00000000"), FrameError::UnknownKind { kind: 4 }),
        (hex("ff"), FrameError::UnknownKind { kind: 255 }),
        (hex("03 00 00 01 00 00 00 ff"), FrameError::NotUtf8),
        (hex("03 00 00 01 00 01 00 74 78"), FrameError::NotJson),
        (hex("03 00 00 01 00 02 00 74 5b5d"), FrameError::NotJson),
        (hex("03 00 00 01 00 00 01 74 7b7d7d"), FrameError::NotJson),
        (hex("03 00 00 01 00 00 01 74 22ff22"), FrameError::NotJson),
        (deep.concat(), FrameError::TooDeep),
    ] {
        let frame = frame.into();
        assert_eq!(decode_binary(Version::V2, &frame), Err(expected));
    }
}

#[test]
fn stock_pushes_of_bytes_are_known_by_name() {
    let frame = |topic: &str, name: &str| {
        let sizes = [0, 1, 1, topic.len() as u8, name.len() as u8];
        [
            &sizes[..],
            b"12",
            topic.as_bytes(),
            name.as_bytes(),
            b"\xff",
        ]
        .concat()
    };
    for (topic, name, event) in [
        ("phoenix", "heartbeat", Event::Heartbeat),
        ("realtime:a", "phx_leave", Event::Leave),
        (
            "realtime:a",
            "heartbeat",
            Event::Unknown {
                name: "heartbeat".into(),
            },
        ),
        (
            "realtime:a",
            "broadcast",
            Event::Unknown {
                name: "broadcast".into(),
            },
        ),
    ] {
        let frame = Bytes::from(frame(topic, name));
        let incoming = decode_binary(Version::V2, &frame).expect("a push");
        assert_eq!(incoming.event, event);
        assert_eq!(
            (incoming.join_ref, incoming.reference),
            (reference("1"), reference("2"))
        );
        for end in 0..frame.len() - 1 {
            let cut = decode_binary(Version::V2, &frame.slice(..end));
            assert_eq!(cut, Err(FrameError::Truncated), "{end}");
        }
    }
}

/// What each version gets of each kind of message.
#[test]
fn across_versions() {
    let message = |body, meta, envelope| Broadcast {
        topic: "realtime:top",
        event: "user-event",
        body,
        meta,
        envelope,
    };
    let json = Body::Json(br#"{"a":"b"}"#);
    let binary = Body::Binary(&[1, 2, 3]);
    let meta = Some(&br#"{"id":"m1"}"#[..]);
    let envelope = br#"{"event":"user-event","type":"broadcast","payload":{"a":"b"},"more":[1]}"#;
    let text = |text: &str| Some((Opcode::Text, text.as_bytes().to_vec()));
    let golden = |vector: &str| Some((Opcode::Binary, bytes(vector).to_vec()));
    let verbatim = String::from_utf8_lossy(envelope);
    for (message, to_v1, to_v2) in [
        (
            message(json, meta, None),
            text(
                r#"{"ref":null,"topic":"realtime:top","event":"broadcast","payload":{"type":"broadcast","event":"user-event","payload":{"a":"b"},"meta":{"id":"m1"}}}"#,
            ),
            golden(SENT_JSON),
        ),
        (message(binary, None, None), None, golden(SENT_BINARY)),
        (
            message(json, None, Some(envelope)),
            text(&format!(
                r#"{{"ref":null,"topic":"realtime:top","event":"broadcast","payload":{verbatim}}}"#
            )),
            text(&format!(
                r#"[null,null,"realtime:top","broadcast",{verbatim}]"#
            )),
        ),
    ] {
        for (version, expected) in [(Version::V1, to_v1), (Version::V2, to_v2)] {
            let mut out = Vec::new();
            let opcode = write_broadcast(version, &message, &mut out);
            assert_eq!(
                opcode.map(|opcode| (opcode, out)),
                expected,
                "{version:?} {message:?}"
            );
        }
    }
}

#[test]
fn what_a_binary_header_has_no_room_for() {
    let long = "x".repeat(256);
    let long_meta = format!(r#"{{"id":"{long}"}}"#);
    let fits = "x".repeat(255);
    for (topic, event, meta, in_binary) in [
        (&*fits, &*fits, None, true),
        (&*long, "e", None, false),
        ("t", &*long, None, false),
        ("t", "e", Some(long_meta.as_bytes()), false),
    ] {
        let message = |body| Broadcast {
            topic,
            event,
            body,
            meta,
            envelope: None,
        };
        let mut out = vec![7];
        let json = write_broadcast(Version::V2, &message(Body::Json(b"{}")), &mut out);
        assert_eq!(
            json,
            Some(if in_binary {
                Opcode::Binary
            } else {
                Opcode::Text
            })
        );
        if !in_binary {
            let text: serde_json::Value = serde_json::from_slice(&out[1..]).expect("JSON");
            assert_eq!(text[4]["event"], event);
            assert_eq!(text[4]["meta"].is_object(), meta.is_some());
        }
        let mut out = vec![7];
        let binary = write_broadcast(Version::V2, &message(Body::Binary(b"\0")), &mut out);
        assert_eq!(binary.is_some(), in_binary);
        assert_eq!(out.len() == 1, !in_binary, "nothing is left behind");
    }
}
