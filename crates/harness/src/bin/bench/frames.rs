//! A server's WebSocket frames, cut out of a stream of bytes as cheaply as possible.

use memchr::memmem;

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const PONG: u8 = 10;

/// Bytes that have arrived, and the frames in them.
#[derive(Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    taken: usize,
}

/// One frame; a server's frames aren't masked, and walcast doesn't fragment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Frame<'a> {
    /// Text or binary.
    Message(&'a [u8]),
    Ping(&'a [u8]),
    /// The close code; 1005 without one.
    Close(u16),
    Other,
}

impl Frames {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    pub(crate) fn next(&mut self) -> Option<Frame<'_>> {
        let rest = self.bytes.get(self.taken..)?;
        let (&first, &short) = (rest.first()?, rest.get(1)?);
        let (header, length): (usize, usize) = match short {
            126 => (
                4,
                usize::from(u16::from_be_bytes(rest.get(2..4)?.try_into().ok()?)),
            ),
            127 => (
                10,
                u64::from_be_bytes(rest.get(2..10)?.try_into().ok()?) as usize,
            ),
            length => (2, usize::from(length)),
        };
        let payload = rest.get(header..header.checked_add(length)?)?;
        self.taken += header + length;
        Some(match first & 0x0F {
            TEXT | BINARY => Frame::Message(payload),
            8 => Frame::Close(
                payload
                    .first_chunk()
                    .map_or(1005, |code| u16::from_be_bytes(*code)),
            ),
            9 => Frame::Ping(payload),
            _ => Frame::Other,
        })
    }
}

/// A client's frame, masked with zeros. `payload` must have fewer than 65,536 bytes.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match u8::try_from(payload.len()) {
        Ok(length) if length < 126 => frame.push(0x80 | length),
        _ => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// The row's `id`, if the frame is a change of a table whose first column is that.
pub(crate) fn record_id(text: &[u8]) -> Option<usize> {
    number_after(text, b"\"record\":{\"id\":")
}

/// The `id` of a payload that begins with it.
pub(crate) fn payload_id(message: &[u8]) -> Option<usize> {
    number_after(message, b"{\"id\":")
}

fn number_after(text: &[u8], before: &[u8]) -> Option<usize> {
    let at = memmem::find(text, before)? + before.len();
    let digits = text
        .get(at..)?
        .iter()
        .take_while(|byte| byte.is_ascii_digit());
    let mut count = 0;
    let id = digits.fold(0, |id, digit| {
        count += 1;
        id * 10 + usize::from(digit - b'0')
    });
    (count > 0).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_arrive() {
        let long = vec![b'x'; 300];
        let mut bytes = vec![0x81, 2, b'h', b'i', 0x89, 0, 0x81, 126, 1, 44];
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(&[0x88, 2, 3, 0xE8]);
        for step in [1, 2, 7, 1000] {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for part in bytes.chunks(step) {
                frames.push(part);
                while let Some(frame) = frames.next() {
                    seen.push(match frame {
                        Frame::Message(text) => text.len(),
                        Frame::Ping(_) => 9,
                        Frame::Close(code) => usize::from(code),
                        Frame::Other => 0,
                    });
                }
            }
            assert_eq!(seen, [2, 9, 300, 1000], "{step} bytes at a time");
        }
    }

    #[test]
    fn the_id_of_a_record() {
        let cases = [
            (r#"{"payload":{"record":{"id":17,"x":1}}}"#, Some(17)),
            (r#"{"payload":{"record":{"id":null}}}"#, None),
            (r#"{"type":"ack"}"#, None),
        ];
        for (text, expected) in cases {
            assert_eq!(record_id(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_client_frame_has_its_length() {
        assert_eq!(client_frame(1, b"hi"), [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
        assert_eq!(client_frame(1, &[0; 200])[..4], [0x81, 0xFE, 0, 200]);
    }
}
