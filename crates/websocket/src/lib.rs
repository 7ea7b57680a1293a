//! The server's side of RFC 6455, as functions over bytes.
//!
//! Owns: the handshake's accept key, the bytes of the frames that a server sends, and the
//! [`Decoder`] of what clients send. Refuses to know: sockets, HTTP, timers, what a message means.
//!
//! Invariants:
//! - A server's frames carry no mask, so the bytes are the same for every receiver: [`frame`] builds
//!   header and payload once, as one [`Bytes`](bytes::Bytes) that all of them share.
//! - No input panics. What breaks the protocol is a [`Violation`] with the code to close with, and
//!   is noticed at the earliest byte that shows it; nothing is decoded after it.
//! - How the input is cut into pieces doesn't change what is decoded.
//! - Nothing is buffered for a frame or a message whose announced size is over the limit, and a
//!   decoder between two messages owns no memory on the heap.
//! - No extension is negotiated: a set RSV bit is a violation.

mod accept;
pub mod client;
mod close;
mod decoder;
mod frame;
mod header;
mod mask;
mod utf8;

pub use accept::accept_key;
pub use close::{CloseCode, Violation};
pub use decoder::{Decoder, Incoming, Limits};
pub use frame::{OpCode, close_frame, frame, header};
