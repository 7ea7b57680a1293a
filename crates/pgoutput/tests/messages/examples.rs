//! A message of every kind beside the bytes that the Postgres manual gives it.

use bytes::Bytes;
use walcast_pgoutput::{
    Begin, Column, Commit, Delete, Insert, Logical, Lsn, Message, OldRow, Origin, PgTime, Relation,
    RelationId, ReplicaIdentity, Truncate, Type, Update, Value, Xid, encode,
};

/// What is special about it, its bytes, and what they mean.
pub(crate) type Example = (&'static str, &'static [u8], Message);

const TODOS: RelationId = RelationId(0x4007);

/// Every kind ("Logical Replication Message Formats").
pub(crate) fn messages() -> Vec<Example> {
    let mut messages = transaction_messages();
    messages.extend(shape_messages());
    messages.extend(row_messages());
    messages
}

fn transaction_messages() -> Vec<Example> {
    vec![
        (
            "begin",
            b"B\0\0\0\x16\xB3\x74\xD8\x48\0\x02\x9F\x5C\x1A\x2B\x3C\x4D\0\0\x02\xF1",
            Message::Begin(Begin {
                final_lsn: Lsn(0x16_B374_D848),
                commit_time: PgTime(0x0002_9F5C_1A2B_3C4D),
                xid: Xid(753),
            }),
        ),
        (
            "commit, at a time before 2000",
            b"C\0\0\0\0\x16\xB3\x74\xD8\x48\0\0\0\x16\xB3\x74\xD8\x78\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF",
            Message::Commit(Commit {
                flags: 0,
                commit_lsn: Lsn(0x16_B374_D848),
                end_lsn: Lsn(0x16_B374_D878),
                commit_time: PgTime(-1),
            }),
        ),
        (
            "origin",
            b"O\0\0\0\0\x01\x52\xA9\x10pg_16389\0",
            Message::Origin(Origin {
                commit_lsn: Lsn(0x0152_A910),
                name: bytes(b"pg_16389"),
            }),
        ),
        (
            "logical message in a transaction",
            b"M\x01\0\0\0\0\x01\x52\xA9\x10walcast\0\0\0\0\x05a\0b\xFFc",
            Message::Logical(Logical {
                transactional: true,
                lsn: Lsn(0x0152_A910),
                prefix: bytes(b"walcast"),
                content: bytes(b"a\0b\xFFc"),
            }),
        ),
        (
            "logical message on its own, with nothing in it",
            b"M\0\0\0\0\0\0\0\0\x01\0\0\0\0\0",
            Message::Logical(Logical {
                transactional: false,
                lsn: Lsn(1),
                prefix: bytes(b""),
                content: bytes(b""),
            }),
        ),
    ]
}

fn shape_messages() -> Vec<Example> {
    vec![
        (
            "relation",
            b"R\0\0\x40\x07public\0todos\0d\0\x02\
              \x01id\0\0\0\0\x14\xFF\xFF\xFF\xFF\
              \0na\xC3\xAFve \"x\"\0\0\0\x04\x13\0\0\0\x24",
            Message::Relation(Relation {
                id: TODOS,
                schema: bytes(b"public"),
                name: bytes(b"todos"),
                identity: ReplicaIdentity::Default,
                columns: vec![
                    Column {
                        key: true,
                        name: bytes(b"id"),
                        type_oid: 20,
                        type_modifier: -1,
                    },
                    Column {
                        key: false,
                        name: bytes("naïve \"x\"".as_bytes()),
                        type_oid: 1043,
                        type_modifier: 36,
                    },
                ],
            }),
        ),
        (
            "relation in pg_catalog without columns",
            b"R\0\0\x40\x07\0todos\0f\0\0",
            relation_without_columns(ReplicaIdentity::Full),
        ),
        (
            "relation without identity",
            b"R\0\0\x40\x07\0todos\0n\0\0",
            relation_without_columns(ReplicaIdentity::Nothing),
        ),
        (
            "relation with an index as identity",
            b"R\0\0\x40\x07\0todos\0i\0\0",
            relation_without_columns(ReplicaIdentity::Index),
        ),
        (
            "type",
            b"Y\0\0\x40\x0Apublic\0mood\0",
            Message::Type(Type {
                oid: 0x400A,
                schema: bytes(b"public"),
                name: bytes(b"mood"),
            }),
        ),
        (
            "truncate",
            b"T\0\0\0\x02\x03\0\0\x40\x07\0\0\x40\x0F",
            Message::Truncate(Truncate {
                cascade: true,
                restart_identity: true,
                relations: vec![TODOS, RelationId(0x400F)],
            }),
        ),
        (
            "truncate that restarts identities only",
            b"T\0\0\0\x01\x02\0\0\x40\x07",
            Message::Truncate(Truncate {
                cascade: false,
                restart_identity: true,
                relations: vec![TODOS],
            }),
        ),
    ]
}

pub(crate) fn row_messages() -> Vec<Example> {
    use Value::{Binary, Null, Text, Unchanged};
    let key = || encode::tuple([Text(b"7"), Null]);
    let full = || encode::tuple([Text(b"7"), Text(b"old")]);
    let new = || encode::tuple([Text(b"7"), Text(b"new")]);
    let update = |old, new| {
        Message::Update(Update {
            relation: TODOS,
            old,
            new,
        })
    };
    let delete = |old| {
        Message::Delete(Delete {
            relation: TODOS,
            old,
        })
    };
    vec![
        (
            "insert, with every kind of value",
            b"I\0\0\x40\x07N\0\x05t\0\0\0\x017nut\0\0\0\0b\0\0\0\x02\0\xFF",
            Message::Insert(Insert {
                relation: TODOS,
                new: encode::tuple([Text(b"7"), Null, Unchanged, Text(b""), Binary(b"\0\xFF")]),
            }),
        ),
        (
            "insert into a table without columns",
            b"I\0\0\x40\x07N\0\0",
            Message::Insert(Insert {
                relation: TODOS,
                new: encode::tuple([]),
            }),
        ),
        (
            "update without an old row",
            b"U\0\0\x40\x07N\0\x02t\0\0\0\x017t\0\0\0\x03new",
            update(OldRow::None, new()),
        ),
        (
            "update of the key",
            b"U\0\0\x40\x07K\0\x02t\0\0\0\x017nN\0\x02t\0\0\0\x017t\0\0\0\x03new",
            update(OldRow::Key(key()), new()),
        ),
        (
            "update with the whole old row, TOAST unchanged",
            b"U\0\0\x40\x07O\0\x02t\0\0\0\x017t\0\0\0\x03oldN\0\x02t\0\0\0\x017u",
            update(OldRow::Full(full()), encode::tuple([Text(b"7"), Unchanged])),
        ),
        (
            "delete by key",
            b"D\0\0\x40\x07K\0\x02t\0\0\0\x017n",
            delete(OldRow::Key(key())),
        ),
        (
            "delete with the whole old row",
            b"D\0\0\x40\x07O\0\x02t\0\0\0\x017t\0\0\0\x03old",
            delete(OldRow::Full(full())),
        ),
    ]
}

fn relation_without_columns(identity: ReplicaIdentity) -> Message {
    Message::Relation(Relation {
        id: TODOS,
        schema: bytes(b""),
        name: bytes(b"todos"),
        identity,
        columns: vec![],
    })
}

fn bytes(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
