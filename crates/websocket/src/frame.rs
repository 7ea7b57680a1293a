//! What a server sends: whole messages in one frame each, never masked.

use bytes::{BufMut, Bytes, BytesMut};

use crate::CloseCode;

/// What a frame is (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpCode {
    /// A further part of the message that a text or binary frame began.
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl OpCode {
    /// May stand between the parts of a message; at most 125 bytes long, in one part.
    pub const fn is_control(self) -> bool {
        matches!(self, OpCode::Close | OpCode::Ping | OpCode::Pong)
    }

    pub(crate) const fn from_nibble(nibble: u8) -> Option<OpCode> {
        Some(match nibble {
            0x0 => OpCode::Continuation,
            0x1 => OpCode::Text,
            0x2 => OpCode::Binary,
            0x8 => OpCode::Close,
            0x9 => OpCode::Ping,
            0xA => OpCode::Pong,
            _ => return None,
        })
    }

    pub(crate) const fn nibble(self) -> u8 {
        match self {
            OpCode::Continuation => 0x0,
            OpCode::Text => 0x1,
            OpCode::Binary => 0x2,
            OpCode::Close => 0x8,
            OpCode::Ping => 0x9,
            OpCode::Pong => 0xA,
        }
    }
}

/// The longest payload of a control frame, in bytes.
pub(crate) const CONTROL_BYTES_MAX: usize = 125;
/// A close frame's reason: what the code leaves of [`CONTROL_BYTES_MAX`].
const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;
/// The longest header of an unmasked frame, in bytes.
const HEADER_BYTES_MAX: usize = 10;

/// One whole message or control frame: header and payload in one buffer, to be shared by all its
/// receivers. Text must be UTF-8, and a control frame's payload at most 125 bytes: the caller knows.
pub fn frame(opcode: OpCode, payload: &[u8]) -> Bytes {
    debug_assert!(!opcode.is_control() || payload.len() <= CONTROL_BYTES_MAX);
    let mut out = BytesMut::with_capacity(HEADER_BYTES_MAX + payload.len());
    header(opcode, payload.len(), &mut out);
    out.put_slice(payload);
    out.freeze()
}

/// Appends the header of a whole message whose payload of `payload_bytes` the caller sends after it,
/// perhaps in several slices.
pub fn header(opcode: OpCode, payload_bytes: usize, out: &mut BytesMut) {
    put_header(true, opcode, payload_bytes, None, out);
}

/// A close frame. The reason is cut at 123 bytes, between characters. A code that must not stand on
/// the wire (see [`CloseCode::is_sendable`]) gives a close frame with neither.
pub fn close_frame(code: CloseCode, reason: &str) -> Bytes {
    frame(OpCode::Close, &close_payload(code, reason))
}

pub(crate) fn close_payload(code: CloseCode, reason: &str) -> Vec<u8> {
    let mut payload = Vec::new();
    if code.is_sendable() {
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        payload.put_u16(code.0);
        payload.put_slice(&reason.as_bytes()[..end]);
    }
    payload
}

pub(crate) fn put_header(
    fin: bool,
    opcode: OpCode,
    payload_bytes: usize,
    mask: Option<[u8; 4]>,
    out: &mut BytesMut,
) {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    out.put_u8(u8::from(fin) << 7 | opcode.nibble());
    match payload_bytes {
        0..=125 => out.put_u8(masked | payload_bytes as u8),
        126..=0xFFFF => {
            out.put_u8(masked | 126);
            out.put_u16(payload_bytes as u16);
        }
        _ => {
            out.put_u8(masked | 127);
            out.put_u64(payload_bytes as u64);
        }
    }
    if let Some(mask) = mask {
        out.put_slice(&mask);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_the_rfc() {
        // Section 5.7, the unmasked ones.
        for (opcode, payload, bytes) in [
            (OpCode::Text, &b"Hello"[..], &b"\x81\x05Hello"[..]),
            (OpCode::Ping, b"Hello", b"\x89\x05Hello"),
            (OpCode::Pong, b"", b"\x8A\x00"),
            (OpCode::Binary, b"\x00", b"\x82\x01\x00"),
        ] {
            assert_eq!(frame(opcode, payload), bytes);
        }
    }

    #[test]
    fn lengths_take_as_few_bytes_as_they_can() {
        for (length, header) in [
            (0, &[0x82, 0][..]),
            (125, &[0x82, 125]),
            (126, &[0x82, 126, 0, 126]),
            (0xFFFF, &[0x82, 126, 0xFF, 0xFF]),
            (0x1_0000, &[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]),
        ] {
            let frame = frame(OpCode::Binary, &vec![7; length]);
            assert_eq!(frame[..header.len()], *header, "{length}");
            assert_eq!(frame.len(), header.len() + length);
        }
    }

    #[test]
    fn header_stands_for_a_payload_in_pieces() {
        let mut out = BytesMut::new();
        header(OpCode::Text, 5, &mut out);
        out.extend_from_slice(b"Hel");
        out.extend_from_slice(b"lo");
        assert_eq!(out, frame(OpCode::Text, b"Hello"));
    }

    #[test]
    fn close_frames() {
        let long = "é".repeat(62);
        for (code, reason, payload) in [
            (CloseCode::NORMAL, "", &b"\x03\xE8"[..]),
            (CloseCode(4001), "slow", b"\x0F\xA1slow"),
            (CloseCode(1005), "never on the wire", b""),
            // 124 bytes: the last character goes as a whole.
            (
                CloseCode::NORMAL,
                long.as_str(),
                &[b"\x03\xE8", &long.as_bytes()[..122]].concat(),
            ),
        ] {
            let close = close_frame(code, reason);
            assert_eq!(close[..2], [0x88, payload.len() as u8]);
            assert_eq!(close[2..], *payload);
        }
    }
}
