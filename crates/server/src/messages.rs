//! What SQL sends to channels: `realtime.messages`, the table that `realtime.send` writes and the stream
//! brings back.
//!
//! Owns: how a row of that table is read ([`DatabaseMessage`]), and the table's partitions.
//! Refuses to know: who is in a channel, how a frame is written, who may read what.

mod delivery;
mod message;
mod partitions;

pub(crate) use delivery::Delivery;
pub(crate) use message::{DatabaseMessage, is_message_table};
pub(crate) use partitions::keep_partitions;
