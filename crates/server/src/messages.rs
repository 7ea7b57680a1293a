//! What SQL sends to channels: `realtime.messages`, the table that `realtime.send` writes and the stream
//! brings back.
//!
//! Owns: how a row of that table is read ([`DatabaseMessage`]), and the table's partitions.
//! Refuses to know: who is in a channel, how a frame is written, who may read what.

#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the pipeline does not read messages yet")
)]
mod message;
mod partitions;

#[expect(unused_imports, reason = "the pipeline does not read messages yet")]
pub(crate) use message::{DatabaseMessage, MessageError, is_message_table};
pub(crate) use partitions::keep_partitions;
