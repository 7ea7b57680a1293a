//! Changes as their clients are told them.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use walcast_change::{Change, ColumnSet, Decoder, Step, TypeInfo, TypeKind, Types};
use walcast_hub::View;
use walcast_pgoutput::{
    Begin, Column, Delete, Insert, Lsn, Message, OldRow, PgTime, Relation, RelationId,
    ReplicaIdentity, Truncate, Tuple, Update, Value, Xid, encode,
};

use super::*;

const RELATION: RelationId = RelationId(1);

/// Name, type, text: one row of a table with a column of each kind.
const COLUMNS: &[(&str, u32, &str)] = &[
    ("id", 20, "9007199254740993"),
    ("n", 1700, "1.500"),
    ("b", 16, "t"),
    ("at", 1184, "2026-11-21 10:48:33.5+00"),
    ("tags", 1009, "{a,NULL}"),
    ("doc", 3802, r#"{"a": [1]}"#),
    ("raw", 17, r"\xdeadbeef"),
    ("raws", 1001, r#"{"\\xdead"}"#),
    ("mood", 20001, "sad \"x\""),
];

/// What happened to `public.t`, whose key is `id`.
fn change(message: Message) -> Change {
    let mut types = Types::default();
    types.insert(TypeInfo {
        oid: 20001,
        name: "mood".into(),
        kind: TypeKind::Enum,
    });
    let column = |&(name, type_oid, _): &(&'static str, u32, &str)| Column {
        key: name == "id",
        name: Bytes::from(name),
        type_oid,
        type_modifier: -1,
    };
    let relation = Relation {
        id: RELATION,
        schema: "public".into(),
        name: "t".into(),
        identity: ReplicaIdentity::Default,
        columns: COLUMNS.iter().map(column).collect(),
    };
    let mut decoder = Decoder::new(types);
    decoder.describe(&relation, Some(&["id".to_owned()]));
    let begin = Begin {
        final_lsn: Lsn(0x16B_3748),
        // 2026-11-21T08:46:49.881999Z
        commit_time: PgTime(848_566_009_881_999),
        xid: Xid(7),
    };
    decoder.step(Message::Begin(begin)).expect("begins");
    match decoder.step(message).expect("fits the relation") {
        Step::Change(change) => change,
        Step::Truncate(mut changes) => changes.remove(0),
        other => panic!("not a change: {other:?}"),
    }
}

/// The row with another id.
fn row(id: &'static str) -> Tuple {
    let texts = COLUMNS.iter().map(|(name, _, text)| match *name {
        "id" => Value::Text(id.as_bytes()),
        _ => Value::Text(text.as_bytes()),
    });
    encode::tuple(texts)
}

fn key(id: &'static str) -> Tuple {
    encode::tuple(COLUMNS.iter().map(|(name, ..)| match *name {
        "id" => Value::Text(id.as_bytes()),
        _ => Value::Null,
    }))
}

fn insert(id: &'static str) -> Change {
    change(Message::Insert(Insert {
        relation: RELATION,
        new: row(id),
    }))
}

fn update(old: OldRow, new: Tuple) -> Change {
    change(Message::Update(Update {
        relation: RELATION,
        old,
        new,
    }))
}

fn delete(old: OldRow) -> Change {
    change(Message::Delete(Delete {
        relation: RELATION,
        old,
    }))
}

fn first(count: usize) -> Arc<ColumnSet> {
    Arc::new(ColumnSet::all(count))
}

fn frame(style: Style, change: &Change, view: &View) -> String {
    let delivery = PostgresChange {
        change,
        view,
        topic: "realtime:room",
        id: 27_199_102,
        position: "0/16B3748:0@5f3c9a12",
    };
    written(|out| assert!(write_change(style, &delivery, out)))
}

fn data(change: &Change, view: &View) -> Json {
    let style = Style {
        version: Version::V2,
        legacy: false,
    };
    let frame: Json = serde_json::from_str(&frame(style, change, view)).expect("JSON");
    assert_eq!(frame[4]["ids"], json!([27_199_102]));
    frame[4]["data"].clone()
}

/// The whole frame, byte by byte, in each style.
#[test]
fn styles() {
    let view = View::Insert {
        columns: first(2),
        entered: false,
    };
    let data = r#"{"schema":"public","table":"t","commit_timestamp":"2026-11-21T08:46:49.881Z","type":"INSERT","columns":[{"name":"id","type":"int8"},{"name":"n","type":"numeric"}],"record":{"id":1,"n":1.500},"errors":null,"cursor":"0/16B3748:0@5f3c9a12"}"#;
    let wrapped = format!(r#"{{"ids":[27199102],"data":{data}}}"#);
    for (format, expected) in [
        (
            2,
            format!(
                r#"{{"ref":null,"topic":"realtime:room","event":"postgres_changes","payload":{wrapped}}}"#
            ),
        ),
        (
            3,
            format!(r#"[null,null,"realtime:room","postgres_changes",{wrapped}]"#),
        ),
        (
            4,
            format!(r#"{{"ref":null,"topic":"realtime:room","event":"INSERT","payload":{data}}}"#),
        ),
        (5, format!(r#"[null,null,"realtime:room","INSERT",{data}]"#)),
    ] {
        let style = Style::of_format(format).expect("a style");
        assert_eq!(style.format(), format);
        assert_eq!(frame(style, &insert("1"), &view), expected);
    }
    for format in [0, 1, 6, 255] {
        assert_eq!(Style::of_format(format), None);
    }
}

#[test]
fn values_and_type_names() {
    let view = View::Insert {
        columns: first(COLUMNS.len()),
        entered: false,
    };
    let text = frame(
        Style {
            version: Version::V2,
            legacy: false,
        },
        &insert("9007199254740993"),
        &view,
    );
    assert!(
        text.contains(concat!(
            r#""record":{"id":9007199254740993,"n":1.500,"b":true,"at":"2026-11-21T10:48:33.5+00:00","#,
            r#""tags":["a",null],"doc":{"a": [1]},"raw":"deadbeef","raws":["\\xdead"],"mood":"sad \"x\""}"#
        )),
        "{text}"
    );
    let data = data(&insert("1"), &view);
    let types: Vec<_> = data["columns"]
        .as_array()
        .expect("an array")
        .iter()
        .map(|column| column["type"].as_str().expect("a string"))
        .collect();
    assert_eq!(
        types,
        [
            "int8",
            "numeric",
            "bool",
            "timestamptz",
            "_text",
            "jsonb",
            "bytea",
            "_bytea",
            "mood"
        ]
    );
    assert!(data["errors"].is_null() && data.get("old_record").is_none());
}

/// What stands in `type`, `record`, `old_record` and `reason`.
#[test]
fn kinds_of_change() {
    let two = || first(2);
    let full = |id, new| update(OldRow::Full(row(id)), row(new));
    let both = |old, left| View::Delete { columns: old, left };
    for (change, view, kind, record, old_record, reason) in [
        (
            insert("1"),
            View::Insert {
                columns: two(),
                entered: false,
            },
            "INSERT",
            json!({"id": 1, "n": 1.5}),
            Json::Null,
            Json::Null,
        ),
        (
            full("1", "1"),
            View::Insert {
                columns: two(),
                entered: true,
            },
            "INSERT",
            json!({"id": 1, "n": 1.5}),
            Json::Null,
            json!("entered"),
        ),
        (
            full("1", "2"),
            View::Update {
                columns: two(),
                old: Some(first(1)),
            },
            "UPDATE",
            json!({"id": 2, "n": 1.5}),
            json!({"id": 1}),
            Json::Null,
        ),
        // The key did not change and Postgres sent no old row: the key is that of the new one.
        (
            update(OldRow::None, row("2")),
            View::Update {
                columns: two(),
                old: None,
            },
            "UPDATE",
            json!({"id": 2, "n": 1.5}),
            json!({"id": 2}),
            Json::Null,
        ),
        // The key changed, and whether the old one may be seen could not be told.
        (
            update(OldRow::Key(key("1")), row("2")),
            View::Update {
                columns: two(),
                old: None,
            },
            "UPDATE",
            json!({"id": 2, "n": 1.5}),
            json!({}),
            Json::Null,
        ),
        (
            delete(OldRow::Full(row("1"))),
            both(two(), false),
            "DELETE",
            Json::Null,
            json!({"id": 1, "n": 1.5}),
            Json::Null,
        ),
        (
            delete(OldRow::Key(key("1"))),
            both(two(), false),
            "DELETE",
            Json::Null,
            json!({"id": 1}),
            Json::Null,
        ),
        (
            full("1", "1"),
            both(two(), true),
            "DELETE",
            Json::Null,
            json!({"id": 1}),
            json!("left"),
        ),
    ] {
        let found = data(&change, &view);
        assert_eq!(found["type"], kind);
        assert_eq!(found["record"], record, "{view:?}");
        assert_eq!(found["old_record"], old_record, "{view:?}");
        assert_eq!(found["reason"], reason, "{view:?}");
        assert_eq!(
            found["columns"].as_array().map(Vec::len),
            Some(2),
            "{view:?}"
        );
        assert_eq!(found["cursor"], "0/16B3748:0@5f3c9a12");
    }
}

#[test]
fn values_that_were_not_sent_are_named() {
    let new = encode::tuple(COLUMNS.iter().map(|(name, ..)| match *name {
        "id" => Value::Text(b"1"),
        _ => Value::Unchanged,
    }));
    let view = View::Update {
        columns: first(3),
        old: None,
    };
    let found = data(&update(OldRow::None, new), &view);
    assert_eq!(found["record"], json!({"id": 1}));
    assert_eq!(found["unchanged"], json!(["n", "b"]));
}

#[test]
fn truncations_are_not_told() {
    let truncate = change(Message::Truncate(Truncate {
        cascade: false,
        restart_identity: false,
        relations: vec![RELATION],
    }));
    let delivery = PostgresChange {
        change: &truncate,
        view: &View::Truncate,
        topic: "realtime:room",
        id: 1,
        position: "",
    };
    let style = Style::of_format(3).expect("a style");
    let mut out = Vec::new();
    assert!(!write_change(style, &delivery, &mut out));
    assert_eq!(out, b"");
}
