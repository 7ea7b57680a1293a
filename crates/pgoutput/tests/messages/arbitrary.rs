//! Arbitrary messages, whether or not Postgres would send them.

use bytes::Bytes;
use proptest::prelude::*;
use walcast_pgoutput::{
    Begin, Column, Commit, Delete, Insert, Logical, Lsn, Message, OldRow, Origin, PgTime, Relation,
    RelationId, ReplicaIdentity, Truncate, Tuple, Type, Update, Value, Xid, encode,
};

pub(crate) fn message() -> impl Strategy<Value = Message> {
    prop_oneof![relation(), row_message(), transaction_message()]
}

fn name() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(1..=u8::MAX, 0..20).prop_map(Bytes::from)
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..40)
}

fn row() -> impl Strategy<Value = Tuple> {
    let value = (0..4, content());
    prop::collection::vec(value, 0..12).prop_map(|values| {
        encode::tuple(values.iter().map(|(kind, data)| match kind {
            0 => Value::Null,
            1 => Value::Unchanged,
            2 => Value::Text(data),
            _ => Value::Binary(data),
        }))
    })
}

fn relation_id() -> impl Strategy<Value = RelationId> {
    any::<u32>().prop_map(RelationId)
}

fn relation() -> impl Strategy<Value = Message> {
    let identity = prop::sample::select(vec![
        ReplicaIdentity::Default,
        ReplicaIdentity::Nothing,
        ReplicaIdentity::Full,
        ReplicaIdentity::Index,
    ]);
    let column = (any::<bool>(), name(), any::<u32>(), any::<i32>()).prop_map(
        |(key, name, type_oid, type_modifier)| Column {
            key,
            name,
            type_oid,
            type_modifier,
        },
    );
    let columns = prop::collection::vec(column, 0..8);
    (relation_id(), name(), name(), identity, columns).prop_map(
        |(id, schema, name, identity, columns)| {
            Message::Relation(Relation {
                id,
                schema,
                name,
                identity,
                columns,
            })
        },
    )
}

fn row_message() -> impl Strategy<Value = Message> {
    let old = |row: Tuple, full| {
        if full {
            OldRow::Full(row)
        } else {
            OldRow::Key(row)
        }
    };
    prop_oneof![
        (relation_id(), row())
            .prop_map(|(relation, new)| Message::Insert(Insert { relation, new })),
        (
            relation_id(),
            prop::option::of((row(), any::<bool>())),
            row()
        )
            .prop_map(move |(relation, given, new)| {
                let old = given.map_or(OldRow::None, |(row, full)| old(row, full));
                Message::Update(Update { relation, old, new })
            }),
        (relation_id(), row(), any::<bool>()).prop_map(move |(relation, row, full)| {
            let old = old(row, full);
            Message::Delete(Delete { relation, old })
        }),
    ]
}

fn transaction_message() -> impl Strategy<Value = Message> {
    let lsn = || any::<u64>().prop_map(Lsn);
    let time = || any::<i64>().prop_map(PgTime);
    prop_oneof![
        (lsn(), time(), any::<u32>()).prop_map(|(final_lsn, commit_time, xid)| {
            let xid = Xid(xid);
            Message::Begin(Begin {
                final_lsn,
                commit_time,
                xid,
            })
        }),
        (any::<u8>(), lsn(), lsn(), time()).prop_map(
            |(flags, commit_lsn, end_lsn, commit_time)| {
                Message::Commit(Commit {
                    flags,
                    commit_lsn,
                    end_lsn,
                    commit_time,
                })
            }
        ),
        (lsn(), name()).prop_map(|(commit_lsn, name)| Message::Origin(Origin { commit_lsn, name })),
        (any::<u32>(), name(), name()).prop_map(|(oid, schema, name)| Message::Type(Type {
            oid,
            schema,
            name
        })),
        (
            any::<bool>(),
            any::<bool>(),
            prop::collection::vec(relation_id(), 0..6)
        )
            .prop_map(|(cascade, restart_identity, relations)| {
                Message::Truncate(Truncate {
                    cascade,
                    restart_identity,
                    relations,
                })
            }),
        (any::<bool>(), lsn(), name(), content()).prop_map(
            |(transactional, lsn, prefix, content)| {
                let content = content.into();
                Message::Logical(Logical {
                    transactional,
                    lsn,
                    prefix,
                    content,
                })
            }
        ),
    ]
}
