//! Frames of the reference, both ways.

mod answers;
mod broadcasts;
mod changes;
mod clients;
mod joins;
mod random;

use bytes::Bytes;

use super::*;

/// From hexadecimal; blanks are for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b' ').collect();
    let byte = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).expect("ASCII");
        u8::from_str_radix(pair, 16).expect("hexadecimal digits")
    };
    digits.chunks(2).map(byte).collect()
}

fn text(version: Version, frame: &str) -> Result<Incoming, FrameError> {
    decode_text(version, &Bytes::copy_from_slice(frame.as_bytes()))
}

/// What a writer appends, as text.
fn written<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> String {
    let mut out = Vec::new();
    write(&mut out);
    let text = String::from_utf8(out).expect("a text frame");
    let read = serde_json::from_str::<serde_json::Value>(&text);
    assert!(read.is_ok(), "not JSON: {text}");
    text
}

fn reference(text: &str) -> Option<Ref> {
    Some(Ref::new(text).expect("short"))
}
