//! A stream of `pgoutput` messages → changes with a place in the total order, and their rows as JSON.
//!
//! Owns: the relation cache, the [`Cursor`], which value a row really has (TOAST), and how every
//! Postgres type stands in JSON.
//! Refuses to know: sockets, SQL connections, subscribers, row-level security.
//!
//! Invariants:
//! - Relation messages apply in the order of the stream, also inside a transaction, so a row is
//!   always read with the shape it was written with.
//! - A change's [`Cursor`] is unique and grows; the same change sent twice has the same cursor.
//! - Values stay slices of the WAL message until [`write_record`] writes them.
//! - What is written is valid JSON, one line, whatever the bytes are: see `proto-docs/types.md`.
//! - A value that Postgres did not send is [`Cell::Missing`], never null.

mod builtin;
mod change;
mod column_set;
mod cursor;
mod decoder;
mod json;
mod position;
mod row;
mod shape;
mod shape_bytes;
mod type_info;
mod types;

pub use change::{Change, Operation};
pub use column_set::ColumnSet;
pub use cursor::{Cursor, ParseCursorError};
pub use decoder::{ChangeError, Decoder, Step};
pub use json::{Numbers, unchanged, write_cell, write_record, write_string};
pub use position::{Epoch, ParseEpochError, ParsePositionError, Position};
pub use row::{Cell, Row};
pub use shape::{Column, Shape};
pub use type_info::{TYPES_QUERY, TypeInfo, TypeKind};
pub use types::{JsonType, Types};
