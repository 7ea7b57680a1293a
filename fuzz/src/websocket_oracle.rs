//! `walcast_websocket::Decoder` against tungstenite, a decoder by other hands: the same messages,
//! and an end that both see.
//!
//! Known differences: ours refuses lengths in more bytes than they take; tungstenite refuses close
//! code 1014, which is in IANA's registry by now, and may call a stream open that ours has found
//! broken in a frame that isn't complete.

use std::io::{self, Cursor, Read, Write};

use bytes::BytesMut;
use tungstenite::error::ProtocolError;
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};
use walcast_websocket::{CloseCode, Decoder, Incoming, Limits, Violation};

const MESSAGE_BYTES_MAX: usize = 300;
/// What tungstenite may let pass: a length in more bytes than it takes, which a control frame's
/// length is if it is not in one.
const STRICTER: [&str; 2] = [
    "length in more bytes than it takes",
    "control frame over 125 bytes",
];

/// How a stream ends.
#[derive(Debug, PartialEq)]
enum End {
    /// It isn't over: more bytes are needed.
    Open,
    Closed,
    Broken,
}

pub fn run(stream: &[u8]) {
    let (decoded, violation) = ours(stream);
    let (theirs, their_end) = theirs(stream);
    match violation {
        None if matches!(
            decoded.last(),
            Some(Incoming::Close(Some((CloseCode(1014), _))))
        ) =>
        {
            assert_eq!(their_end, End::Broken);
        }
        None => {
            assert_eq!(decoded, theirs);
            let closed = matches!(decoded.last(), Some(Incoming::Close(_)));
            let end = if closed { End::Closed } else { End::Open };
            assert_eq!(end, their_end);
        }
        Some(violation) if STRICTER.contains(&violation.what) => {
            assert!(theirs.starts_with(&decoded));
        }
        Some(violation) => {
            assert_eq!(decoded, theirs, "{violation}");
            assert_ne!(their_end, End::Closed, "{violation}");
        }
    }
}

fn ours(stream: &[u8]) -> (Vec<Incoming>, Option<Violation>) {
    let mut decoder = Decoder::new(Limits {
        message_bytes_max: MESSAGE_BYTES_MAX,
        fragments_max: usize::MAX, // tungstenite has no such limit
    });
    let mut input = BytesMut::from(stream);
    let mut decoded = Vec::new();
    loop {
        match decoder.decode(&mut input) {
            Ok(Some(incoming)) => decoded.push(incoming),
            Ok(None) => return (decoded, None),
            Err(violation) => return (decoded, Some(violation)),
        }
    }
}

fn theirs(stream: &[u8]) -> (Vec<Incoming>, End) {
    let config = WebSocketConfig::default()
        .read_buffer_size(512)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let socket = Socket(Cursor::new(stream));
    let mut socket = WebSocket::from_raw_socket(socket, Role::Server, Some(config));
    let mut decoded = Vec::new();
    loop {
        match socket.read() {
            // What it makes of a code that must not be sent.
            Ok(Message::Close(Some(close))) if close.reason == "Protocol violation" => {
                return (decoded, End::Broken);
            }
            Ok(Message::Close(close)) => {
                let close = close.map(|close| (CloseCode(close.code.into()), close.reason.into()));
                decoded.push(Incoming::Close(close));
                return (decoded, End::Closed);
            }
            Ok(Message::Text(text)) => decoded.push(Incoming::Text(text.into())),
            Ok(Message::Binary(data)) => decoded.push(Incoming::Binary(data)),
            Ok(Message::Ping(payload)) => decoded.push(Incoming::Ping(payload)),
            Ok(Message::Pong(payload)) => decoded.push(Incoming::Pong(payload)),
            Ok(Message::Frame(_)) => unreachable!("raw frames are never read"),
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => {
                return (decoded, End::Open);
            }
            Err(_) => return (decoded, End::Broken),
        }
    }
}

/// Gives a stream to read; what is written to it is forgotten.
struct Socket<'a>(Cursor<&'a [u8]>);

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Those of the other target, without the byte that says where they are cut.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    crate::websocket_decode::seeds()
        .into_iter()
        .map(|(name, seed)| (name, seed[1..].to_vec()))
        .collect()
}
