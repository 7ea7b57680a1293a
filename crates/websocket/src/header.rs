//! A client's frame header, byte by byte (RFC 6455, section 5.2).
//!
//! Each function judges what it is given as soon as it can, so that a violation depends only on the
//! bytes up to the one that shows it.

use crate::frame::CONTROL_BYTES_MAX;
use crate::{OpCode, Violation};

/// The first byte: the last part of its message or not, and what it is.
pub(crate) fn kind(first: u8) -> Result<(bool, OpCode), Violation> {
    if first & 0x70 != 0 {
        return Err(Violation::protocol(
            "a reserved bit is set, but no extension was agreed",
        ));
    }
    let fin = first & 0x80 != 0;
    let opcode =
        OpCode::from_nibble(first & 0x0F).ok_or(Violation::protocol("unknown frame kind"))?;
    if opcode.is_control() && !fin {
        return Err(Violation::protocol("control frame in parts"));
    }
    Ok((fin, opcode))
}

/// The payload's length in bytes and the number of header bytes that say so, from what follows the
/// first byte; `None` while that is too short.
pub(crate) fn length(opcode: OpCode, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    let Some((&second, extended)) = rest.split_first() else {
        return Ok(None);
    };
    if second & 0x80 == 0 {
        return Err(Violation::protocol("a client's frame without a mask"));
    }
    let short = second & 0x7F;
    if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
        return Err(Violation::protocol("control frame over 125 bytes"));
    }
    let (length, size, minimum) = match short {
        126 => match extended.first_chunk::<2>() {
            Some(bytes) => (u64::from(u16::from_be_bytes(*bytes)), 3, 126),
            None => return Ok(None),
        },
        127 => match extended.first_chunk::<8>() {
            Some(bytes) => (u64::from_be_bytes(*bytes), 9, 0x1_0000),
            None => return Ok(None),
        },
        short => (u64::from(short), 1, 0),
    };
    if length < minimum {
        return Err(Violation::protocol("length in more bytes than it takes"));
    }
    if length >> 63 != 0 {
        return Err(Violation::protocol("length over 63 bits"));
    }
    Ok(Some((length, size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        for first in 0..=u8::MAX {
            let ok = first & 0x70 == 0
                && match first & 0x0F {
                    0..=2 => true,
                    8..=10 => first & 0x80 != 0,
                    _ => false,
                };
            assert_eq!(kind(first).is_ok(), ok, "{first:#04x}");
        }
        assert_eq!(kind(0x81), Ok((true, OpCode::Text)));
        assert_eq!(kind(0x00), Ok((false, OpCode::Continuation)));
    }

    #[test]
    fn lengths() {
        for (opcode, rest, expected) in [
            (OpCode::Text, &[][..], Ok(None)),
            (OpCode::Text, &[0x80], Ok(Some((0, 1)))),
            (OpCode::Text, &[0xFD, 1, 2], Ok(Some((125, 1)))),
            (OpCode::Text, &[0xFE, 1], Ok(None)),
            (OpCode::Text, &[0xFE, 1, 2], Ok(Some((258, 3)))),
            (OpCode::Text, &[0xFE, 0, 126], Ok(Some((126, 3)))),
            (OpCode::Text, &[0xFE, 0, 125], Err(())),
            (OpCode::Text, &[0xFF, 0, 0, 0, 0, 0, 1, 0], Ok(None)),
            (
                OpCode::Text,
                &[0xFF, 0, 0, 0, 0, 0, 1, 0, 0],
                Ok(Some((65536, 9))),
            ),
            (OpCode::Text, &[0xFF, 0, 0, 0, 0, 0, 0, 255, 255], Err(())),
            (
                OpCode::Text,
                &[0x80 | 127, 0x80, 0, 0, 0, 0, 1, 0, 0],
                Err(()),
            ),
            (OpCode::Text, &[0x05], Err(())),
            (OpCode::Ping, &[0xFD], Ok(Some((125, 1)))),
            (OpCode::Ping, &[0xFE], Err(())),
            (OpCode::Close, &[0xFF], Err(())),
        ] {
            let got = length(opcode, rest).map_err(|_| ());
            assert_eq!(got, expected, "{opcode:?} {rest:02x?}");
        }
    }
}
