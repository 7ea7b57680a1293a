//! The dialects: how a client's bytes become a [`Command`], and what the server says becomes bytes.
//!
//! Owns: every message's text, the error codes and the close codes.
//! Refuses to know: sockets, who may see what, how frames travel.
//!
//! Invariants:
//! - One [`Codec`] per dialect; nothing outside its file knows the dialect's words.
//! - No input panics; a message that can't be understood is a [`Refusal`] that says why.
//! - A change's bytes depend on the change, the view and the channel alone, so that all
//!   subscriptions of a group share one frame.

mod codec;
mod command;
mod native;
pub mod phoenix;
mod refusal;
mod timestamp;

pub use codec::{Acknowledgement, Codec, Delivery, Notice, SnapshotRows, codec_of};
pub use command::{Command, Start, Subscribe, parse_channel};
pub use native::{
    Broadcast, Channel, ChannelAcknowledgement, ChannelCommand, ChannelKind, Join, Native,
    UnknownNumbers, parse_numbers,
};
pub use refusal::{Code, Reference, Refusal};
pub use timestamp::write_timestamp;
