//! A client's bytes → messages and control frames.

use bytes::{Buf, Bytes, BytesMut};

use crate::utf8::Utf8;
use crate::{CloseCode, OpCode, Violation, header, mask};

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest message, all its parts together; judged by the header, before its bytes come.
    pub message_bytes_max: usize,
    /// The most frames that one message may come in.
    pub fragments_max: usize,
}

/// What a client sent: a whole message, or a control frame.
///
/// The bytes are a slice of the input they came in and keep it alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Checked: it is UTF-8.
    Text(Bytes),
    Binary(Bytes),
    /// To be answered by a pong with the same payload.
    Ping(Bytes),
    Pong(Bytes),
    /// The client's last word, with a code that may stand on the wire and a reason in UTF-8.
    Close(Option<(CloseCode, Bytes)>),
}

/// One connection's reading side.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    /// The frame whose header has been taken off the input.
    frame: Option<Frame>,
    /// The message whose first part has come.
    message: Option<Message>,
    /// The check of the text message that is being received. Between messages nothing is open in
    /// it: a text that ends inside a character is a violation.
    utf8: Utf8,
    end: Option<End>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    fin: bool,
    opcode: OpCode,
    /// The frame belongs to a text message.
    text: bool,
    mask: [u8; 4],
    payload_bytes: usize,
    /// This much of the payload stands unmasked at the front of the input.
    unmasked: usize,
}

/// The parts of a message that have come so far.
#[derive(Debug)]
struct Message {
    text: bool,
    bytes: BytesMut,
    fragments: usize,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Closed,
    Broken(Violation),
}

impl Decoder {
    pub fn new(limits: Limits) -> Decoder {
        Decoder {
            limits,
            frame: None,
            message: None,
            utf8: Utf8::default(),
            end: None,
        }
    }

    /// Takes the next message or control frame off `input`; `None` where it needs more bytes.
    ///
    /// What is left in `input` belongs to the decoder (part of it may be unmasked already): append
    /// to it and call again. An empty `input` may be dropped.
    ///
    /// After a close frame, whatever follows is discarded. After a violation, every call gives the
    /// same violation.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, Violation> {
        match self.end {
            None => {}
            Some(End::Closed) => {
                input.clear();
                return Ok(None);
            }
            Some(End::Broken(violation)) => {
                input.clear();
                return Err(violation);
            }
        }
        let decoded = self.next(input);
        match decoded {
            Ok(Some(Incoming::Close(_))) => self.end(End::Closed),
            Err(violation) => self.end(End::Broken(violation)),
            Ok(_) => {}
        }
        decoded
    }

    fn end(&mut self, end: End) {
        self.end = Some(end);
        self.frame = None;
        self.message = None;
    }

    fn next(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, Violation> {
        loop {
            let begun = match self.frame.take() {
                Some(frame) => Some(frame),
                None => self.begin(input)?,
            };
            let Some(mut frame) = begun else {
                return Ok(None);
            };
            self.unmask(&mut frame, input)?;
            if frame.unmasked < frame.payload_bytes {
                self.frame = Some(frame);
                return Ok(None);
            }
            let payload = input.split_to(frame.payload_bytes);
            if let Some(incoming) = self.finish(frame, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    /// Takes a frame's header off the input, once it is complete.
    fn begin(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Violation> {
        let Some((&first, rest)) = input.split_first() else {
            return Ok(None);
        };
        let (fin, opcode) = header::kind(first)?;
        self.check_order(opcode)?;
        let Some((length, length_size)) = header::length(opcode, rest)? else {
            return Ok(None);
        };
        let payload_bytes = self.check_size(opcode, length)?;
        let Some(&mask) = rest
            .get(length_size..)
            .and_then(|rest| rest.first_chunk::<4>())
        else {
            return Ok(None);
        };
        input.advance(1 + length_size + mask.len());
        let text = match opcode {
            OpCode::Continuation => self.message.as_ref().is_some_and(|message| message.text),
            opcode => opcode == OpCode::Text,
        };
        Ok(Some(Frame {
            fin,
            opcode,
            text,
            mask,
            payload_bytes,
            unmasked: 0,
        }))
    }

    /// A continuation continues something, and nothing else begins before the end of a message.
    fn check_order(&self, opcode: OpCode) -> Result<(), Violation> {
        match (&self.message, opcode) {
            (None, OpCode::Continuation) => {
                Err(Violation::protocol("a continuation of no message"))
            }
            (Some(_), OpCode::Text | OpCode::Binary) => {
                Err(Violation::protocol("a message begins inside another"))
            }
            (Some(message), OpCode::Continuation)
                if message.fragments >= self.limits.fragments_max =>
            {
                Err(Violation {
                    code: CloseCode::POLICY_VIOLATION,
                    what: "a message in too many parts",
                })
            }
            _ => Ok(()),
        }
    }

    /// The frame's payload keeps its message within the limit.
    fn check_size(&self, opcode: OpCode, length: u64) -> Result<usize, Violation> {
        const TOO_BIG: Violation = Violation {
            code: CloseCode::MESSAGE_TOO_BIG,
            what: "message over the size limit",
        };
        let length = usize::try_from(length).map_err(|_| TOO_BIG)?;
        let before = match &self.message {
            Some(message) => message.bytes.len(),
            None => 0,
        };
        let fits =
            opcode.is_control() || length <= self.limits.message_bytes_max.saturating_sub(before);
        if fits { Ok(length) } else { Err(TOO_BIG) }
    }

    /// Unmasks what has come of the frame's payload, and checks it if it is text.
    fn unmask(&mut self, frame: &mut Frame, input: &mut BytesMut) -> Result<(), Violation> {
        let come = input.len().min(frame.payload_bytes);
        let Some(fresh) = input.get_mut(frame.unmasked..come) else {
            return Ok(()); // the caller dropped what it had been told to keep
        };
        mask::apply(frame.mask, frame.unmasked, fresh);
        frame.unmasked = come;
        if frame.text {
            self.utf8.feed(fresh).map_err(|_| Violation::BAD_TEXT)?;
        }
        Ok(())
    }

    /// A frame is complete; gives what it completes.
    fn finish(&mut self, frame: Frame, payload: BytesMut) -> Result<Option<Incoming>, Violation> {
        match frame.opcode {
            OpCode::Ping => Ok(Some(Incoming::Ping(payload.freeze()))),
            OpCode::Pong => Ok(Some(Incoming::Pong(payload.freeze()))),
            OpCode::Close => close(payload.freeze()).map(Some),
            OpCode::Text | OpCode::Binary | OpCode::Continuation if frame.fin => {
                self.finish_message(frame, payload).map(Some)
            }
            OpCode::Text | OpCode::Binary | OpCode::Continuation => {
                self.extend_message(frame, &payload);
                Ok(None)
            }
        }
    }

    fn finish_message(&mut self, frame: Frame, payload: BytesMut) -> Result<Incoming, Violation> {
        let bytes = match self.message.take() {
            None => payload,
            Some(mut message) => {
                message.bytes.extend_from_slice(&payload);
                message.bytes
            }
        };
        if !frame.text {
            return Ok(Incoming::Binary(bytes.freeze()));
        }
        if !self.utf8.is_complete() {
            return Err(Violation::BAD_TEXT);
        }
        Ok(Incoming::Text(bytes.freeze()))
    }

    fn extend_message(&mut self, frame: Frame, payload: &[u8]) {
        let message = self.message.get_or_insert_with(|| Message {
            text: frame.text,
            bytes: BytesMut::new(),
            fragments: 0,
        });
        message.bytes.extend_from_slice(payload);
        message.fragments += 1;
    }
}

fn close(mut payload: Bytes) -> Result<Incoming, Violation> {
    if payload.is_empty() {
        return Ok(Incoming::Close(None));
    }
    let code = payload
        .try_get_u16()
        .map_err(|_| Violation::protocol("close frame with half a code"))?;
    let code = CloseCode(code);
    if !code.is_sendable() {
        return Err(Violation::protocol("a close code that must not be sent"));
    }
    if std::str::from_utf8(&payload).is_err() {
        return Err(Violation {
            what: "close reason is not UTF-8",
            ..Violation::BAD_TEXT
        });
    }
    Ok(Incoming::Close(Some((code, payload))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client;

    #[test]
    fn a_decoder_between_messages_is_small_and_holds_nothing() {
        assert!(size_of::<Decoder>() <= 192, "{}", size_of::<Decoder>());
        let mut decoder = Decoder::new(Limits {
            message_bytes_max: 100,
            fragments_max: 2,
        });
        let first = client::part(false, OpCode::Text, [1; 4], b"a");
        let last = client::part(true, OpCode::Continuation, [1; 4], b"b");
        let mut input = BytesMut::from(&first[..]);
        assert_eq!(decoder.decode(&mut input), Ok(None));
        assert!(decoder.message.is_some() && decoder.frame.is_none() && input.is_empty());
        input.extend_from_slice(&last);
        let decoded = decoder.decode(&mut input);
        assert_eq!(decoded, Ok(Some(Incoming::Text(Bytes::from_static(b"ab")))));
        assert!(decoder.message.is_none() && decoder.frame.is_none() && input.is_empty());
    }

    #[test]
    fn a_broken_connection_keeps_no_parts() {
        let mut decoder = Decoder::new(Limits {
            message_bytes_max: 100,
            fragments_max: 2,
        });
        let first = client::part(false, OpCode::Text, [1; 4], b"a");
        let mut input = BytesMut::from(&first[..]);
        input.extend_from_slice(b"\xFF");
        assert!(decoder.decode(&mut input).is_err());
        assert!(decoder.message.is_none());
    }
}
