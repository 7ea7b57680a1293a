//! What a `pgoutput` stream is made of.

use bytes::Bytes;

use crate::{Lsn, PgTime, RelationId, Tuple, Xid};

/// One message of the stream, protocol version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Begin(Begin),
    Commit(Commit),
    Origin(Origin),
    Relation(Relation),
    Type(Type),
    Insert(Insert),
    Update(Update),
    Delete(Delete),
    Truncate(Truncate),
    Logical(Logical),
}

/// The start of a transaction; it has already committed when this arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begin {
    /// Where the transaction's commit record starts: equal to [`Commit::commit_lsn`].
    pub final_lsn: Lsn,
    pub commit_time: PgTime,
    pub xid: Xid,
}

/// The end of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Unused by Postgres so far; always 0.
    pub flags: u8,
    pub commit_lsn: Lsn,
    /// Just after the commit record: what may be acknowledged once the transaction is dealt with.
    pub end_lsn: Lsn,
    pub commit_time: PgTime,
}

/// The transaction came here by replication from another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub commit_lsn: Lsn,
    /// The origin's name, in the client encoding.
    pub name: Bytes,
}

/// A table's shape, sent before its first row and again after each change of it, also in the
/// middle of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    pub id: RelationId,
    /// Empty for `pg_catalog`.
    pub schema: Bytes,
    pub name: Bytes,
    pub identity: ReplicaIdentity,
    /// The published columns in their order; generated and dropped ones are not among them.
    pub columns: Vec<Column>,
}

/// What Postgres writes of a row's old version (`ALTER TABLE … REPLICA IDENTITY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    Nothing,
    /// All columns.
    Full,
    /// The columns of an index.
    Index,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Part of the replica identity; under [`ReplicaIdentity::Full`] every column is.
    pub key: bool,
    pub name: Bytes,
    pub type_oid: u32,
    /// `atttypmod`: −1 where there is none.
    pub type_modifier: i32,
}

/// The name of a type that is not built in; sent before the relation that uses it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    pub oid: u32,
    pub schema: Bytes,
    pub name: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    pub relation: RelationId,
    pub new: Tuple,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub relation: RelationId,
    pub old: OldRow,
    pub new: Tuple,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delete {
    pub relation: RelationId,
    /// Never [`OldRow::None`].
    pub old: OldRow,
}

/// The old version of a row, as far as the replica identity gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OldRow {
    None,
    /// All columns are present, but those outside the key are NULL and mean "not sent".
    Key(Tuple),
    Full(Tuple),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncate {
    pub cascade: bool,
    pub restart_identity: bool,
    pub relations: Vec<RelationId>,
}

/// A message written by `pg_logical_emit_message`. Anybody may write one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logical {
    /// Part of the surrounding transaction; else it stands for itself, before the `Begin` of the
    /// transaction that wrote it.
    pub transactional: bool,
    pub lsn: Lsn,
    pub prefix: Bytes,
    pub content: Bytes,
}
