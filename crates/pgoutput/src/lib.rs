//! Postgres's `pgoutput` messages, protocol version 1, as plain values.
//!
//! Owns: the bytes of the logical replication messages, both ways ([`decode`] and [`encode`]).
//! Refuses to know: sockets, slots, the relation cache, JSON.
//!
//! Invariants:
//! - Nothing is copied: names and tuples are slices of the message's [`Bytes`](bytes::Bytes).
//! - No input panics; every proper prefix of a valid message is an error, and so are trailing bytes.
//! - A [`Tuple`] is checked once, when it is decoded; walking it afterwards can't fail.
//!
//! Source: the Postgres manual, "Logical Replication Message Formats".

mod decode;
pub mod encode;
mod ids;
mod message;
mod tuple;
mod tuples;

pub use decode::{DecodeError, decode};
pub use ids::{Lsn, ParseLsnError, PgTime, RelationId, Xid};
pub use message::{
    Begin, Column, Commit, Delete, Insert, Logical, Message, OldRow, Origin, Relation,
    ReplicaIdentity, Truncate, Type, Update,
};
pub use tuple::{Tuple, Value, Values};
pub use tuples::Tuples;
