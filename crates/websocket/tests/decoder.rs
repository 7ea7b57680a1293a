//! The decoder from outside: tables of frames, every cut of them, arbitrary ones, and its memory.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use walcast_websocket::client::{close_frame, frame, part};
use walcast_websocket::{CloseCode, Decoder, Incoming, Limits, OpCode, Violation};

const LIMITS: Limits = Limits {
    message_bytes_max: 1000,
    fragments_max: 4,
};
const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// What a stream of bytes gives, and how it ends.
type Outcome = (Vec<Incoming>, Option<Violation>);

fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut decoder = Decoder::new(LIMITS);
    let mut input = BytesMut::new();
    let mut decoded = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(incoming)) => decoded.push(incoming),
                Ok(None) => break,
                Err(violation) => return (decoded, Some(violation)),
            }
        }
    }
    (decoded, None)
}

fn text(text: &str) -> Incoming {
    Incoming::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn binary(data: &[u8]) -> Incoming {
    Incoming::Binary(Bytes::copy_from_slice(data))
}

/// Each stream as a whole, in single bytes, and cut in two at every place.
fn check(name: &str, frames: &[Bytes], decoded: &[Incoming], code: Option<CloseCode>) {
    let stream = frames.concat();
    let whole = decode([&stream[..]]);
    assert_eq!(whole.0, decoded, "{name}");
    assert_eq!(whole.1.map(|violation| violation.code), code, "{name}");
    assert_eq!(decode(stream.chunks(1)), whole, "{name}, byte by byte");
    for cut in 0..stream.len() {
        let (head, tail) = stream.split_at(cut);
        assert_eq!(decode([head, tail]), whole, "{name}, cut at {cut}");
    }
}

#[test]
fn messages_and_control_frames() {
    use OpCode::{Binary, Close, Continuation, Ping, Pong, Text};
    let long = "x".repeat(1000);
    let reason = "r".repeat(123);
    let closed = |code, reason: &str| {
        let reason = Bytes::copy_from_slice(reason.as_bytes());
        vec![Incoming::Close(Some((code, reason)))]
    };
    for (name, frames, decoded) in [
        (
            "the RFC's masked hello",
            vec![Bytes::from_static(
                b"\x81\x85\x37\xFA\x21\x3D\x7F\x9F\x4D\x51\x58",
            )],
            vec![text("Hello")],
        ),
        (
            "empty ones",
            vec![frame(Text, MASK, b""), frame(Binary, MASK, b"")],
            vec![text(""), binary(b"")],
        ),
        (
            "as long as may be, and one after it",
            vec![frame(Text, MASK, long.as_bytes()), frame(Text, MASK, b"y")],
            vec![text(&long), text("y")],
        ),
        (
            "a ping inside a message that has reached the limit",
            vec![
                part(false, Text, MASK, long.as_bytes()),
                frame(Ping, MASK, b"there?"),
                part(true, Continuation, MASK, b""),
            ],
            vec![Incoming::Ping(Bytes::from_static(b"there?")), text(&long)],
        ),
        (
            "binary that is no text",
            vec![frame(Binary, MASK, b"\xFF\xFE\x00")],
            vec![binary(b"\xFF\xFE\x00")],
        ),
        (
            "in parts, a character cut in three, with a ping between",
            vec![
                part(false, Text, MASK, b"a\xE2"),
                frame(Ping, MASK, b"there?"),
                part(false, Continuation, MASK, b"\x82"),
                part(false, Continuation, [0; 4], b""),
                part(true, Continuation, [9; 4], b"\xACb"),
                frame(Text, MASK, b"next"),
            ],
            vec![
                Incoming::Ping(Bytes::from_static(b"there?")),
                text("a€b"),
                text("next"),
            ],
        ),
        (
            "binary in parts",
            vec![
                part(false, Binary, MASK, b"\xFF"),
                part(true, Continuation, MASK, b"\xFE"),
            ],
            vec![binary(b"\xFF\xFE")],
        ),
        (
            "pong",
            vec![frame(Pong, MASK, &[7; 125])],
            vec![Incoming::Pong(Bytes::from_static(&[7; 125]))],
        ),
        (
            "close without a code",
            vec![frame(Close, MASK, b"")],
            vec![Incoming::Close(None)],
        ),
        (
            "close with the longest reason",
            vec![close_frame(CloseCode::GOING_AWAY, MASK, &reason)],
            closed(CloseCode::GOING_AWAY, &reason),
        ),
        (
            "nothing counts after a close, however wrong",
            vec![
                close_frame(CloseCode(4999), MASK, ""),
                frame(Text, MASK, b"late"),
                Bytes::from_static(b"\xFF\xFF\xFF"),
            ],
            closed(CloseCode(4999), ""),
        ),
        (
            "close between the parts of a message",
            vec![
                part(false, Text, MASK, b"a"),
                close_frame(CloseCode::NORMAL, MASK, "é"),
                part(true, Continuation, MASK, b"b"),
            ],
            closed(CloseCode::NORMAL, "é"),
        ),
    ] {
        check(name, &frames, &decoded, None);
    }
}

#[test]
fn violations() {
    use OpCode::{Binary, Close, Continuation, Ping, Text};
    let raw = |bytes: &'static [u8]| vec![Bytes::from_static(bytes)];
    let protocol = CloseCode::PROTOCOL_ERROR;
    let parts = |count| {
        let more = std::iter::repeat_n(part(false, Continuation, MASK, b""), count);
        std::iter::once(part(false, Text, MASK, b""))
            .chain(more)
            .collect()
    };
    for (name, frames, code) in [
        ("RSV1", raw(b"\xC1"), protocol),
        ("RSV2", raw(b"\xA1"), protocol),
        ("RSV3", raw(b"\x91"), protocol),
        ("a reserved data frame", raw(b"\x83"), protocol),
        ("a reserved control frame", raw(b"\x8B"), protocol),
        ("no mask", raw(b"\x81\x05Hello"), protocol),
        ("a ping of 126 bytes", raw(b"\x89\xFE"), protocol),
        ("a ping in parts", raw(b"\x09"), protocol),
        ("125 in two bytes", raw(b"\x82\xFE\x00\x7D"), protocol),
        (
            "65535 in eight bytes",
            raw(b"\x82\xFF\0\0\0\0\0\0\xFF\xFF"),
            protocol,
        ),
        (
            "the top bit of a length",
            raw(b"\x82\xFF\x80\0\0\0\0\0\0\0"),
            protocol,
        ),
        (
            "a continuation of nothing",
            vec![part(true, Continuation, MASK, b"a")],
            protocol,
        ),
        (
            "a message in a message",
            vec![part(false, Text, MASK, b"a"), frame(Binary, MASK, b"b")],
            protocol,
        ),
        (
            "half a close code",
            vec![frame(Close, MASK, b"\x03")],
            protocol,
        ),
        ("close code 0", vec![frame(Close, MASK, b"\0\0")], protocol),
        (
            "close code 1005",
            vec![frame(Close, MASK, b"\x03\xED")],
            protocol,
        ),
        (
            "close code 5000",
            vec![frame(Close, MASK, b"\x13\x88")],
            protocol,
        ),
        (
            "a close reason that is no text",
            vec![frame(Close, MASK, b"\x03\xE8\xFF")],
            CloseCode::INVALID_PAYLOAD,
        ),
        (
            "text that is none",
            vec![frame(Text, MASK, b"a\xFF")],
            CloseCode::INVALID_PAYLOAD,
        ),
        (
            "text that ends inside a character",
            vec![frame(Text, MASK, b"a\xE2\x82")],
            CloseCode::INVALID_PAYLOAD,
        ),
        (
            "text that ends inside a character, in parts",
            vec![
                part(false, Text, MASK, b"a\xE2"),
                part(true, Continuation, MASK, b""),
            ],
            CloseCode::INVALID_PAYLOAD,
        ),
        (
            "a wrong second part",
            vec![
                part(false, Text, MASK, b"a\xE2"),
                frame(Ping, MASK, b"").slice(..0),
                part(false, Continuation, MASK, b"a"),
            ],
            CloseCode::INVALID_PAYLOAD,
        ),
        (
            "1001 bytes announced",
            raw(b"\x82\xFE\x03\xE9"),
            CloseCode::MESSAGE_TOO_BIG,
        ),
        (
            "the longest length there is",
            raw(b"\x82\xFF\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFF"),
            CloseCode::MESSAGE_TOO_BIG,
        ),
        (
            "1001 bytes announced in parts",
            vec![
                part(false, Binary, MASK, &[0; 999]),
                Bytes::from_static(b"\x80\x82"),
            ],
            CloseCode::MESSAGE_TOO_BIG,
        ),
        ("five parts", parts(4), CloseCode::POLICY_VIOLATION),
    ] {
        check(name, &frames, &[], Some(code));
    }
}

#[test]
fn bad_text_is_noticed_before_its_frame_is_complete() {
    // Autobahn's 6.4: κόσμε, then a character over U+10FFFF, then more that never comes.
    let mut payload = "κόσμε".as_bytes().to_vec();
    payload.extend_from_slice(b"\xF4\x90\x80\x80edited");
    let first_wrong = payload
        .iter()
        .position(|&byte| byte == 0x90)
        .expect("in there");
    for in_parts in [false, true] {
        let stream = if in_parts {
            let start = part(false, OpCode::Text, MASK, b"a");
            [start, part(true, OpCode::Continuation, MASK, &payload)].concat()
        } else {
            frame(OpCode::Text, MASK, &payload).to_vec()
        };
        let wrong = stream.len() - payload.len() + first_wrong;
        assert_eq!(decode([&stream[..wrong]]), (vec![], None));
        let (_, violation) = decode([&stream[..=wrong]]);
        let code = violation.map(|violation| violation.code);
        assert_eq!(code, Some(CloseCode::INVALID_PAYLOAD));
    }
}

#[test]
fn a_violation_is_final() {
    let mut decoder = Decoder::new(LIMITS);
    let mut input = BytesMut::from(&b"\x81\x05"[..]);
    let violation = decoder.decode(&mut input).expect_err("no mask");
    let mut input = BytesMut::from(&frame(OpCode::Text, MASK, b"fine")[..]);
    assert_eq!(decoder.decode(&mut input), Err(violation));
    assert!(input.is_empty());
}

#[test]
fn every_proper_prefix_of_a_frame_is_incomplete() {
    for payload_bytes in [0, 1, 125, 126, 1000] {
        let frame = frame(OpCode::Text, MASK, &vec![b'a'; payload_bytes]);
        for end in 0..frame.len() {
            assert_eq!(
                decode([&frame[..end]]),
                (vec![], None),
                "{end} of {payload_bytes}"
            );
        }
        assert_eq!(decode([&frame[..]]).0.len(), 1);
    }
}

/// A client's stream: messages, whole or in parts with control frames between.
fn message() -> impl Strategy<Value = (Vec<Bytes>, Vec<Incoming>)> {
    let payload = prop_oneof![
        "\\PC{0,80}".prop_map(|text| (OpCode::Text, text.into_bytes())),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(|data| (OpCode::Binary, data)),
    ];
    let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
    let ping = prop::option::of(prop::collection::vec(any::<u8>(), 0..=125));
    (payload, cuts, ping, any::<[u8; 4]>()).prop_map(|((opcode, payload), cuts, ping, mask)| {
        let mut ends: Vec<usize> = cuts
            .iter()
            .map(|cut| cut.index(payload.len() + 1))
            .collect();
        ends.sort_unstable();
        ends.push(payload.len());
        let mut frames = Vec::new();
        let mut decoded = Vec::new();
        let mut start = 0;
        for (at, &end) in ends.iter().enumerate() {
            let opcode = if at == 0 {
                opcode
            } else {
                OpCode::Continuation
            };
            let fin = at + 1 == ends.len();
            if let (true, Some(ping)) = (fin, &ping) {
                frames.push(frame(OpCode::Ping, mask, ping));
                decoded.push(Incoming::Ping(Bytes::copy_from_slice(ping)));
            }
            frames.push(part(fin, opcode, mask, &payload[start..end]));
            start = end;
        }
        decoded.push(match opcode {
            OpCode::Text => Incoming::Text(payload.into()),
            _ => Incoming::Binary(payload.into()),
        });
        (frames, decoded)
    })
}

/// `stream` cut at `cuts`.
fn pieces<'a>(stream: &'a [u8], cuts: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    ends.sort_unstable();
    ends.push(stream.len());
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts
        .zip(&ends)
        .map(|(start, &end)| &stream[start..end])
        .collect()
}

fn cuts() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

proptest! {
    #[test]
    fn what_was_encoded_is_decoded_however_it_is_cut(
        messages in prop::collection::vec(message(), 0..6),
        cuts in cuts(),
    ) {
        let stream: Vec<u8> = messages.iter().flat_map(|(frames, _)| frames.concat()).collect();
        let expected: Vec<Incoming> = messages.into_iter().flat_map(|(_, decoded)| decoded).collect();
        prop_assert_eq!(decode(pieces(&stream, &cuts)), (expected, None));
    }

    #[test]
    fn any_bytes_however_they_are_cut(
        // Many a first byte is that of a frame, so that the stream gets past it.
        stream in prop::collection::vec(
            prop_oneof![any::<u8>(), Just(0x81), Just(0x01), Just(0x80), Just(0x84)], 0..200),
        cuts in cuts(),
    ) {
        let whole = decode([&stream[..]]);
        prop_assert_eq!(decode(pieces(&stream, &cuts)), whole);
    }
}
