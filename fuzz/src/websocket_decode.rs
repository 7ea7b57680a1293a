//! `walcast_websocket::Decoder`: how the input is cut makes no difference, limits hold, and what a
//! client may see of it is well-formed.
//!
//! The first byte of the data says where the stream is cut; the rest is the stream.

use bytes::{Bytes, BytesMut};
use walcast_websocket::client::{close_frame, frame, part};
use walcast_websocket::{CloseCode, Decoder, Incoming, Limits, OpCode, Violation};

const LIMITS: Limits = Limits {
    message_bytes_max: 300,
    fragments_max: 4,
};

type Outcome = (Vec<Incoming>, Option<Violation>);

pub fn run(data: &[u8]) {
    let Some((&cut, stream)) = data.split_first() else {
        return;
    };
    let whole = decode([stream]);
    assert_eq!(decode(stream.chunks(1)), whole, "byte by byte");
    assert_eq!(
        decode(stream.chunks(usize::from(cut) + 2)),
        whole,
        "in chunks"
    );
    let (head, tail) = stream.split_at(usize::from(cut).min(stream.len()));
    assert_eq!(decode([head, tail]), whole, "in two");
    check(&whole);
    round_trip(&whole.0, cut);
}

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
        assert!(
            input.len() < 14 + LIMITS.message_bytes_max,
            "more is kept than a frame may have"
        );
    }
    (decoded, None)
}

fn check((decoded, violation): &Outcome) {
    for (at, incoming) in decoded.iter().enumerate() {
        match incoming {
            Incoming::Text(text) => {
                assert!(std::str::from_utf8(text).is_ok());
                assert!(text.len() <= LIMITS.message_bytes_max);
            }
            Incoming::Binary(data) => assert!(data.len() <= LIMITS.message_bytes_max),
            Incoming::Ping(payload) | Incoming::Pong(payload) => assert!(payload.len() <= 125),
            Incoming::Close(close) => {
                assert_eq!(
                    (at + 1, violation),
                    (decoded.len(), &None),
                    "nothing follows a close"
                );
                if let Some((code, reason)) = close {
                    assert!(code.is_sendable() && std::str::from_utf8(reason).is_ok());
                }
            }
        }
    }
    if let Some(violation) = violation {
        assert!(violation.code.is_sendable() && violation.what.len() <= 123);
    }
}

/// What was decoded, sent again in one frame each, is decoded as the same.
fn round_trip(decoded: &[Incoming], cut: u8) {
    let stream: Vec<u8> = decoded
        .iter()
        .flat_map(|incoming| again(incoming, [cut; 4]))
        .collect();
    assert_eq!(decode([&stream[..]]), (decoded.to_vec(), None));
}

fn again(incoming: &Incoming, mask: [u8; 4]) -> Bytes {
    match incoming {
        Incoming::Text(text) => frame(OpCode::Text, mask, text),
        Incoming::Binary(data) => frame(OpCode::Binary, mask, data),
        Incoming::Ping(payload) => frame(OpCode::Ping, mask, payload),
        Incoming::Pong(payload) => frame(OpCode::Pong, mask, payload),
        Incoming::Close(None) => frame(OpCode::Close, mask, b""),
        Incoming::Close(Some((code, reason))) => {
            let reason = std::str::from_utf8(reason).expect("has been checked");
            close_frame(*code, mask, reason)
        }
    }
}

pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    use OpCode::{Binary, Close, Continuation, Ping, Pong, Text};
    let mask = [0x37, 0xFA, 0x21, 0x3D];
    let plain = [0; 4];
    let streams: [(&str, u8, Vec<Bytes>); 8] = [
        ("text", 0, vec![frame(Text, mask, "héllo €".as_bytes())]),
        (
            "text_plain_mask",
            3,
            vec![frame(Text, plain, "κόσμε 🦀".as_bytes())],
        ),
        ("binary_126", 9, vec![frame(Binary, plain, &[0x81; 126])]),
        ("binary_too_big", 9, vec![frame(Binary, plain, &[0; 301])]),
        (
            "parts",
            7,
            vec![
                part(false, Text, plain, b"a\xE2"),
                frame(Ping, mask, b"there?"),
                part(false, Continuation, plain, b"\x82"),
                part(true, Continuation, plain, b"\xACb"),
                frame(Text, plain, b"next"),
            ],
        ),
        (
            "ping_pong",
            2,
            vec![frame(Ping, plain, b""), frame(Pong, mask, &[7; 125])],
        ),
        (
            "close",
            1,
            vec![
                close_frame(CloseCode::GOING_AWAY, plain, "bye"),
                frame(Text, mask, b"late"),
            ],
        ),
        ("close_empty", 1, vec![frame(Close, mask, b"")]),
    ];
    streams
        .into_iter()
        .map(|(name, cut, frames)| (name, [&[cut], &frames.concat()[..]].concat()))
        .collect()
}
