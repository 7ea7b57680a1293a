//! The client's side, as far as tests and benches need it: masked frames.

use bytes::{Bytes, BytesMut};

use crate::frame::{close_payload, put_header};
use crate::{CloseCode, OpCode, mask};

/// A whole message or control frame, masked.
pub fn frame(opcode: OpCode, mask: [u8; 4], payload: &[u8]) -> Bytes {
    part(true, opcode, mask, payload)
}

/// A part of a message, the last one if `fin`. Nothing is checked: tests want wrong ones too.
pub fn part(fin: bool, opcode: OpCode, mask: [u8; 4], payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(14 + payload.len());
    put_header(fin, opcode, payload.len(), Some(mask), &mut out);
    let start = out.len();
    out.extend_from_slice(payload);
    mask::apply(mask, 0, &mut out[start..]);
    out.freeze()
}

/// A close frame with a code and a reason, as [`close_frame`](crate::close_frame).
pub fn close_frame(code: CloseCode, mask: [u8; 4], reason: &str) -> Bytes {
    frame(OpCode::Close, mask, &close_payload(code, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masked_frames_of_the_rfc() {
        // Section 5.7.
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        assert_eq!(
            frame(OpCode::Text, mask, b"Hello"),
            &b"\x81\x85\x37\xFA\x21\x3D\x7F\x9F\x4D\x51\x58"[..]
        );
        assert_eq!(
            frame(OpCode::Pong, mask, b"Hello"),
            &b"\x8A\x85\x37\xFA\x21\x3D\x7F\x9F\x4D\x51\x58"[..]
        );
    }
}
