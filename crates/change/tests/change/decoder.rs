//! Hand-made streams.

use bytes::Bytes;
use walcast_change::{
    Cell, Change, ChangeError, ColumnSet, Cursor, Decoder, Operation, Row, Step, unchanged,
};
use walcast_pgoutput::encode::tuple;
use walcast_pgoutput::{
    Begin, Column, Commit, Delete, Insert, Lsn, Message, OldRow, PgTime, Relation, RelationId,
    ReplicaIdentity, Truncate, Update, Value, Xid,
};

use crate::stream::record;

const TODOS: RelationId = RelationId(16400);
const USERS: RelationId = RelationId(16500);
const COMMIT: Lsn = Lsn(0x16_B374_D848);

fn begin() -> Message {
    Message::Begin(Begin {
        final_lsn: COMMIT,
        commit_time: PgTime(5),
        xid: Xid(7),
    })
}

fn commit() -> Message {
    let end_lsn = Lsn(COMMIT.0 + 48);
    Message::Commit(Commit {
        flags: 0,
        commit_lsn: COMMIT,
        end_lsn,
        commit_time: PgTime(5),
    })
}

/// A table whose first column is its key; under FULL all columns are.
fn relation<const N: usize>(
    id: RelationId,
    identity: ReplicaIdentity,
    columns: [(&'static str, u32); N],
) -> Message {
    let columns = columns
        .into_iter()
        .enumerate()
        .map(|(nth, (name, type_oid))| Column {
            key: nth == 0 || identity == ReplicaIdentity::Full,
            name: Bytes::from_static(name.as_bytes()),
            type_oid,
            type_modifier: -1,
        });
    Message::Relation(Relation {
        id,
        schema: Bytes::from_static(b"public"),
        name: Bytes::from_static(b"todos"),
        identity,
        columns: columns.collect(),
    })
}

fn todos(identity: ReplicaIdentity) -> Message {
    relation(TODOS, identity, [("id", 23), ("title", 25), ("body", 25)])
}

fn text(text: &str) -> Value<'_> {
    Value::Text(text.as_bytes())
}

fn insert<const N: usize>(relation: RelationId, values: [Value<'_>; N]) -> Message {
    Message::Insert(Insert {
        relation,
        new: tuple(values),
    })
}

fn update<const N: usize>(old: OldRow, new: [Value<'_>; N]) -> Message {
    Message::Update(Update {
        relation: TODOS,
        old,
        new: tuple(new),
    })
}

fn run(decoder: &mut Decoder, messages: impl IntoIterator<Item = Message>) -> Vec<Change> {
    let mut changes = Vec::new();
    for message in messages {
        match decoder.step(message).expect("the stream is right") {
            Step::Change(change) => changes.push(change),
            Step::Truncate(truncated) => changes.extend(truncated),
            _ => {}
        }
    }
    changes
}

fn ordinals(changes: &[Change]) -> Vec<u64> {
    assert!(
        changes
            .iter()
            .all(|change| change.cursor.commit_lsn == COMMIT)
    );
    changes.iter().map(|change| change.cursor.ordinal).collect()
}

fn missing(row: &Row) -> Vec<&str> {
    let all = ColumnSet::all(row.shape().columns.len());
    let names = unchanged(row, &all).map(str::to_owned).collect::<Vec<_>>();
    let columns = row.shape().columns.iter().map(|column| &*column.name);
    columns
        .filter(|name| names.iter().any(|missing| missing == name))
        .collect()
}

#[test]
fn a_column_added_inside_a_transaction() {
    let mut decoder = Decoder::default();
    let wider = relation(TODOS, ReplicaIdentity::Default, [("id", 20), ("done", 16)]);
    let changes = run(
        &mut decoder,
        [
            relation(TODOS, ReplicaIdentity::Default, [("id", 23)]),
            begin(),
            insert(TODOS, [text("1")]),
            wider,
            insert(TODOS, [text("2"), text("t")]),
            commit(),
        ],
    );
    let rows: Vec<String> = changes
        .iter()
        .map(|change| record(change.new().unwrap()))
        .collect();
    assert_eq!(rows, [r#"{"id":1}"#, r#"{"id":2,"done":true}"#]);
    assert_eq!(ordinals(&changes), [0, 1]);
    assert_eq!(
        changes[0].shape.columns.len(),
        1,
        "a row keeps the shape it was written with"
    );
}

#[test]
fn unchanged_toast_is_filled_from_the_old_row_under_full() {
    let mut decoder = Decoder::default();
    let old = OldRow::Full(tuple([text("1"), Value::Null, text("long")]));
    let new = [text("1"), text("new"), Value::Unchanged];
    let changes = run(
        &mut decoder,
        [todos(ReplicaIdentity::Full), begin(), update(old, new)],
    );
    let new = changes[0].new().unwrap();
    assert_eq!(record(new), r#"{"id":1,"title":"new","body":"long"}"#);
    assert_eq!(missing(new), [] as [&str; 0]);
    let old = changes[0].old().unwrap();
    assert_eq!(record(old), r#"{"id":1,"title":null,"body":"long"}"#);
}

#[test]
fn unchanged_toast_is_missing_under_default() {
    let mut decoder = Decoder::default();
    let key = OldRow::Key(tuple([text("1"), Value::Null, Value::Null]));
    for (old, old_record) in [(OldRow::None, None), (key, Some(r#"{"id":1}"#))] {
        let new = [text("2"), Value::Null, Value::Unchanged];
        let messages = [
            todos(ReplicaIdentity::Default),
            begin(),
            update(old, new),
            commit(),
        ];
        let changes = run(&mut decoder, messages);
        let new = changes[0].new().unwrap();
        assert_eq!(new.cell(2), Cell::Missing);
        assert_eq!(new.known(), ColumnSet::all(2));
        assert_eq!(record(new), r#"{"id":2,"title":null}"#);
        assert_eq!(missing(new), ["body"]);
        assert_eq!(
            unchanged(new, &ColumnSet::all(2)).count(),
            0,
            "only columns one may see"
        );
        assert_eq!(changes[0].old().map(record).as_deref(), old_record);
    }
}

#[test]
fn a_key_only_delete_has_no_other_columns() {
    let mut decoder = Decoder::default();
    let old = OldRow::Key(tuple([text("1"), Value::Null, Value::Null]));
    let delete = Message::Delete(Delete {
        relation: TODOS,
        old,
    });
    let changes = run(
        &mut decoder,
        [todos(ReplicaIdentity::Default), begin(), delete],
    );
    let old = changes[0].old().unwrap();
    assert!(old.is_key_only() && changes[0].new().is_none());
    assert_eq!(record(old), r#"{"id":1}"#);
    assert_eq!(old.known(), ColumnSet::all(1));
    assert_eq!(
        missing(old),
        [] as [&str; 0],
        "outside the key is not the same as unchanged"
    );
}

#[test]
fn a_truncate_of_two_tables_is_two_changes() {
    let mut decoder = Decoder::default();
    let relations = vec![TODOS, USERS];
    let truncate = Truncate {
        cascade: true,
        restart_identity: false,
        relations,
    };
    let changes = run(
        &mut decoder,
        [
            todos(ReplicaIdentity::Default),
            relation(USERS, ReplicaIdentity::Full, [("id", 23)]),
            begin(),
            insert(USERS, [text("1")]),
            Message::Truncate(truncate),
            insert(USERS, [text("2")]),
            commit(),
        ],
    );
    assert_eq!(ordinals(&changes), [0, 1, 2, 3]);
    let tables: Vec<_> = changes.iter().map(|change| change.shape.id).collect();
    assert_eq!(tables, [USERS, TODOS, USERS, USERS]);
    assert!(matches!(changes[2].operation, Operation::Truncate));
    assert_eq!(
        (changes[2].xid, changes[2].commit_time),
        (Xid(7), PgTime(5))
    );
}

#[test]
fn a_transaction_begun_again_has_the_same_cursors() {
    let mut decoder = Decoder::default();
    let whole = || {
        let inserts = ["1", "2", "3"].map(|id| insert(TODOS, [text(id), Value::Null, Value::Null]));
        [todos(ReplicaIdentity::Default), begin()]
            .into_iter()
            .chain(inserts)
    };
    let cut = run(&mut decoder, whole().take(4));
    assert!(decoder.in_transaction());
    decoder.restart();
    assert!(!decoder.in_transaction());
    let again = run(&mut decoder, whole().chain([commit()]));
    assert_eq!(ordinals(&cut), [0, 1]);
    assert_eq!(ordinals(&again), [0, 1, 2]);
    let last = Cursor {
        commit_lsn: COMMIT,
        ordinal: 2,
    };
    assert_eq!(again[2].cursor, last);

    let next = run(&mut decoder, whole());
    assert_eq!(ordinals(&next), [0, 1, 2], "each transaction counts from 0");
}

#[test]
fn messages_that_make_no_sense() {
    let two_values = || tuple([text("1"), Value::Null]);
    let wrong_count = ChangeError::ColumnCount {
        relation: TODOS,
        expected: 3,
        found: 2,
    };
    let outside = |message| ChangeError::OutsideTransaction { message };
    let full = [text("1"), Value::Null, Value::Null];
    for (messages, expected) in [
        (vec![commit()], outside("commit")),
        (vec![begin(), commit(), commit()], outside("commit")),
        (vec![insert(TODOS, full)], outside("row")),
        (
            vec![begin(), insert(USERS, [text("1")])],
            ChangeError::UnknownRelation { relation: USERS },
        ),
        (
            vec![begin(), insert(TODOS, [text("1"), Value::Null])],
            wrong_count,
        ),
        (
            vec![begin(), update(OldRow::Full(two_values()), full)],
            wrong_count,
        ),
        (
            vec![
                begin(),
                Message::Delete(Delete {
                    relation: TODOS,
                    old: OldRow::Key(two_values()),
                }),
            ],
            wrong_count,
        ),
        (
            vec![
                begin(),
                Message::Delete(Delete {
                    relation: TODOS,
                    old: OldRow::None,
                }),
            ],
            ChangeError::NoOldRow,
        ),
        (
            vec![
                begin(),
                Message::Truncate(Truncate {
                    cascade: false,
                    restart_identity: false,
                    relations: vec![TODOS, USERS],
                }),
            ],
            ChangeError::UnknownRelation { relation: USERS },
        ),
    ] {
        let mut decoder = Decoder::default();
        run(&mut decoder, [todos(ReplicaIdentity::Default)]);
        let results: Vec<_> = messages
            .into_iter()
            .map(|message| decoder.step(message))
            .collect();
        let (last, before) = results.split_last().unwrap();
        assert!(before.iter().all(Result::is_ok), "{expected}");
        assert_eq!(last.as_ref().err(), Some(&expected));
    }
}

/// `Debug` of a change must not carry the row into a log.
#[test]
fn row_values_do_not_stand_in_debug_texts() {
    let mut decoder = Decoder::default();
    let secret = insert(TODOS, [text("1"), text("hush"), Value::Null]);
    let changes = run(
        &mut decoder,
        [todos(ReplicaIdentity::Default), begin(), secret],
    );
    assert!(!format!("{changes:?}").contains("hush"));
}
