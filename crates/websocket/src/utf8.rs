//! UTF-8 checked piece by piece.

use std::str::from_utf8;

/// The check of one text message whose bytes come in pieces, cut anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Utf8 {
    /// The bytes of a character that isn't complete yet: `started[..length]`.
    started: [u8; 4],
    length: usize,
}

/// No continuation makes the bytes so far a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotUtf8;

impl Utf8 {
    /// Takes the next piece; an error comes with the first byte that can't belong to any text.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Result<(), NotUtf8> {
        let rest = self.complete(piece)?;
        match from_utf8(rest) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(NotUtf8),
            Err(error) => {
                for &byte in rest.iter().skip(error.valid_up_to()) {
                    self.push(byte);
                }
                Ok(())
            }
        }
    }

    /// Nothing is open: the bytes so far are a text.
    pub(crate) fn is_complete(&self) -> bool {
        self.length == 0
    }

    /// Completes the character that is open, if one is, from the front of `piece`.
    fn complete<'a>(&mut self, piece: &'a [u8]) -> Result<&'a [u8], NotUtf8> {
        let mut rest = piece;
        while !self.is_complete() {
            let Some((&byte, after)) = rest.split_first() else {
                break;
            };
            rest = after;
            self.push(byte);
            match from_utf8(&self.started[..self.length]) {
                Ok(_) => self.length = 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => {}
            }
        }
        Ok(rest)
    }

    /// An open character has at most three bytes: with the fourth it is complete or wrong.
    fn push(&mut self, byte: u8) {
        self.started[self.length] = byte;
        self.length += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The number of bytes that are taken, one at a time, before the error; and whether the text is
    /// complete at the end.
    fn by_byte(bytes: &[u8]) -> Result<bool, usize> {
        let mut utf8 = Utf8::default();
        for (at, byte) in bytes.iter().enumerate() {
            utf8.feed(&[*byte]).map_err(|NotUtf8| at)?;
        }
        Ok(utf8.is_complete())
    }

    #[test]
    fn errors_come_with_the_first_byte_that_shows_them() {
        for (bytes, expected) in [
            (&b""[..], Ok(true)),
            ("κόσμε 🦀 \u{10FFFF} \u{0}".as_bytes(), Ok(true)),
            (b"a\xE2\x82", Ok(false)),
            (b"\xF0\x9F\xA6", Ok(false)),
            (b"a\x80", Err(1)),
            (b"\xC0\x80", Err(0)),     // overlong
            (b"\xE0\x80\x80", Err(1)), // overlong
            (b"\xE2a", Err(1)),
            (b"\xED\xA0\x80", Err(1)),     // a surrogate
            (b"\xF4\x90\x80\x80", Err(1)), // over U+10FFFF
            (b"\xF0\x9F\xA6a", Err(3)),
            (b"\xF5", Err(0)),
            (b"\xFF", Err(0)),
        ] {
            assert_eq!(by_byte(bytes), expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn every_cut_in_two_as_a_whole() {
        let texts = [
            "aκ€🦀z".as_bytes(),
            b"a\xE2\x82z",
            b"\xF0\x9F\xA6\xF0",
            b"ab\xED\xA0\x80",
        ];
        for text in texts {
            for cut in 0..=text.len() {
                let mut utf8 = Utf8::default();
                let (head, tail) = text.split_at(cut);
                let fed = utf8.feed(head).and_then(|()| utf8.feed(tail));
                let valid = fed.is_ok() && utf8.is_complete();
                assert_eq!(valid, from_utf8(text).is_ok(), "{text:02x?} cut at {cut}");
            }
        }
    }
}
