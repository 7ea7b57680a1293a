//! `walcast_pgoutput::decode`: whatever comes is a message or an error, and a message that was
//! encoded again decodes to the same.

use bytes::{Bytes, BytesMut};
use walcast_pgoutput::{
    Begin, Column, Commit, Delete, Insert, Logical, Lsn, Message, OldRow, Origin, PgTime, Relation,
    RelationId, ReplicaIdentity, Truncate, Tuple, Type, Update, Value, Xid, decode, encode,
};

pub fn run(data: &[u8]) {
    let Ok(message) = decode(Bytes::copy_from_slice(data)) else {
        return;
    };
    for row in rows(&message) {
        assert_eq!(row.values().count(), row.len(), "a decoded row is whole");
        let again = encode::tuple(row.values());
        assert_eq!(&again, row, "a row's values make the row");
    }
    let mut out = BytesMut::new();
    encode::message(&message, &mut out);
    assert_eq!(out.len(), data.len(), "nothing is left out or made up");
    let out = out.freeze();
    for end in [0, 1, out.len() / 2, out.len() - 1] {
        assert!(decode(out.slice(..end)).is_err(), "prefix of {end} bytes");
    }
    assert_eq!(decode(out).as_ref(), Ok(&message));
}

fn rows(message: &Message) -> Vec<&Tuple> {
    let (old, new) = match message {
        Message::Insert(insert) => (&OldRow::None, Some(&insert.new)),
        Message::Update(update) => (&update.old, Some(&update.new)),
        Message::Delete(delete) => (&delete.old, None),
        _ => (&OldRow::None, None),
    };
    let old = match old {
        OldRow::Key(row) | OldRow::Full(row) => Some(row),
        OldRow::None => None,
    };
    old.into_iter().chain(new).collect()
}

pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let relation = RelationId(16391);
    let key = || encode::tuple([Value::Text(b"7"), Value::Null]);
    let full = || encode::tuple([Value::Text(b"7"), Value::Text(b"old")]);
    let new = || {
        encode::tuple([
            Value::Text(b"7"),
            Value::Unchanged,
            Value::Binary(b"\0\xFF"),
        ])
    };
    let update = |old| {
        Message::Update(Update {
            relation,
            old,
            new: new(),
        })
    };
    let delete = |old| Message::Delete(Delete { relation, old });
    let column = |key, name, type_oid| Column {
        key,
        name,
        type_oid,
        type_modifier: -1,
    };
    let text = Bytes::from_static;
    let messages = [
        (
            "begin",
            Message::Begin(Begin {
                final_lsn: Lsn(22_000),
                commit_time: PgTime(1),
                xid: Xid(753),
            }),
        ),
        (
            "commit",
            Message::Commit(Commit {
                flags: 0,
                commit_lsn: Lsn(22_000),
                end_lsn: Lsn(22_048),
                commit_time: PgTime(1),
            }),
        ),
        (
            "origin",
            Message::Origin(Origin {
                commit_lsn: Lsn(9),
                name: text(b"pg_16389"),
            }),
        ),
        (
            "relation",
            Message::Relation(Relation {
                id: relation,
                schema: text(b"public"),
                name: text(b"todos"),
                identity: ReplicaIdentity::Full,
                columns: vec![
                    column(true, text(b"id"), 20),
                    column(true, text(b"task"), 25),
                ],
            }),
        ),
        (
            "type",
            Message::Type(Type {
                oid: 16394,
                schema: text(b"public"),
                name: text(b"mood"),
            }),
        ),
        (
            "insert",
            Message::Insert(Insert {
                relation,
                new: new(),
            }),
        ),
        ("update", update(OldRow::None)),
        ("update_key", update(OldRow::Key(key()))),
        ("update_full", update(OldRow::Full(full()))),
        ("delete_key", delete(OldRow::Key(key()))),
        ("delete_full", delete(OldRow::Full(full()))),
        (
            "truncate",
            Message::Truncate(Truncate {
                cascade: true,
                restart_identity: false,
                relations: vec![relation, RelationId(1)],
            }),
        ),
        (
            "logical",
            Message::Logical(Logical {
                transactional: true,
                lsn: Lsn(7),
                prefix: text(b"walcast"),
                content: text(b"{}"),
            }),
        ),
    ];
    messages
        .into_iter()
        .map(|(name, message)| (name, encoded(&message)))
        .collect()
}

fn encoded(message: &Message) -> Vec<u8> {
    let mut out = BytesMut::new();
    encode::message(message, &mut out);
    out.into()
}
