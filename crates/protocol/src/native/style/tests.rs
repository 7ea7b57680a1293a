//! Numbers as numbers and as strings, in everything that a subscription is sent.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use walcast_change::{
    Change, ColumnSet, Cursor, Decoder, Epoch, Numbers, Position, Row, Step, Types,
};
use walcast_hub::{Closing, SubscriptionId, View};
use walcast_pgoutput::{
    Begin, Column, Delete, Insert, Lsn, Message, OldRow, PgTime, Relation, RelationId,
    ReplicaIdentity, Tuple, Update, Value as Sent, Xid, encode,
};

use super::super::BROADCAST;
use super::*;
use crate::phoenix::Style;
use crate::{Acknowledgement, Code, Codec, Command, Delivery, Native, SnapshotRows, codec_of};

const TABLE: RelationId = RelationId(1);
const FORMATS: [u8; 4] = [
    BROADCAST,
    POSTGRES_CHANGES,
    BROADCAST | STRINGS,
    POSTGRES_CHANGES | STRINGS,
];

/// Of `items (id int8 primary key, price numeric, n int4)`.
fn change(message: Message) -> Change {
    let column = |(name, type_oid)| Column {
        key: true,
        name: Bytes::from_static(name),
        type_oid,
        type_modifier: -1,
    };
    let columns: [(&[u8], u32); 3] = [(b"id", 20), (b"price", 1700), (b"n", 23)];
    let relation = Relation {
        id: TABLE,
        schema: "public".into(),
        name: "items".into(),
        identity: ReplicaIdentity::Full,
        columns: columns.into_iter().map(column).collect(),
    };
    let mut decoder = Decoder::new(Types::default());
    decoder.describe(&relation, Some(&["id".to_owned()]));
    let begin = Begin {
        final_lsn: Lsn(1),
        commit_time: PgTime(0),
        xid: Xid(7),
    };
    decoder.step(Message::Begin(begin)).expect("it begins");
    match decoder.step(message).expect("it fits the relation") {
        Step::Change(change) => change,
        other => panic!("not a change: {other:?}"),
    }
}

fn row(price: &str) -> Tuple {
    let cells: [&[u8]; 3] = [b"9007199254740993", price.as_bytes(), b"7"];
    encode::tuple(cells.map(Sent::Text))
}

fn update() -> Change {
    change(Message::Update(Update {
        relation: TABLE,
        old: OldRow::Full(row("1.50")),
        new: row("NaN"),
    }))
}

/// Texts, since a `Value` would read the numbers as doubles.
fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    write(&mut out);
    serde_json::from_slice::<Value>(&out).expect("valid JSON");
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// What follows the cursor of an event.
fn rows(change: &Change, view: &View, format: u8) -> String {
    let written = text(|out| {
        codec_of(format).delivery(
            &Delivery {
                change,
                view,
                epoch: Epoch(0xab),
                channel: "table:items",
                tag: 0,
                format,
            },
            out,
        );
    });
    let (head, rows) = written.split_once("@000000ab\"").expect("a cursor");
    let kind = match format & !STRINGS {
        POSTGRES_CHANGES => r#"{"type":"postgres_changes","channel""#,
        _ => r#"{"type":"broadcast","channel""#,
    };
    assert!(head.starts_with(kind), "{format}: {head}");
    rows.to_owned()
}

#[test]
fn all_rows_of_an_event_have_numbers_of_one_form() {
    let columns = Arc::new(ColumnSet::all(3));
    let delete = |old| {
        change(Message::Delete(Delete {
            relation: TABLE,
            old,
        }))
    };
    let insert = Message::Insert(Insert {
        relation: TABLE,
        new: row("1.50"),
    });
    let entered = |entered| View::Insert {
        columns: columns.clone(),
        entered,
    };
    let left = |left| View::Delete {
        columns: columns.clone(),
        left,
    };
    let updated = View::Update {
        columns: columns.clone(),
        old: Some(columns.clone()),
    };
    let old = r#""old_record":{"id":9007199254740993,"price":1.50,"n":7}"#;
    let new = r#""record":{"id":9007199254740993,"price":"NaN","n":7}"#;
    for (change, view, number) in [
        (
            change(insert),
            entered(false),
            r#","record":{"id":9007199254740993,"price":1.50,"n":7}}}"#.to_owned(),
        ),
        (
            update(),
            entered(true),
            format!(r#",{new},"reason":"entered"}}}}"#),
        ),
        (update(), updated, format!(",{new},{old}}}}}")),
        (
            delete(OldRow::Full(row("1.50"))),
            left(false),
            format!(",{old}}}}}"),
        ),
        (
            update(),
            left(true),
            r#","old_record":{"id":9007199254740993},"reason":"left"}}"#.to_owned(),
        ),
        (update(), View::Truncate, "}}".to_owned()),
    ] {
        let string = number
            .replace("9007199254740993", r#""9007199254740993""#)
            .replace("1.50", r#""1.50""#);
        for format in FORMATS {
            let expected = match format & STRINGS {
                0 => &number,
                _ => &string,
            };
            assert_eq!(&rows(&change, &view, format), expected, "{format} {view:?}");
        }
    }
}

#[test]
fn rows_of_a_snapshot_have_them_too() {
    let change = update();
    let shape = change.shape.clone();
    let read = [row("1.50"), row("NaN")];
    let read = read.map(|tuple| Row::new(shape.clone(), tuple).expect("it fits the shape"));
    for format in FORMATS {
        let written = text(|out| {
            let snapshot = SnapshotRows {
                channel: "table:items",
                id: SubscriptionId(7),
                rows: &read,
                format,
                columns: &ColumnSet::all(3),
                sent: 2,
            };
            codec_of(format).snapshot(&snapshot, out);
        });
        let expected = match format & STRINGS {
            0 => {
                r#"[{"id":9007199254740993,"price":1.50,"n":7},{"id":9007199254740993,"price":"NaN","n":7}]"#
            }
            _ => {
                r#"[{"id":"9007199254740993","price":"1.50","n":7},{"id":"9007199254740993","price":"NaN","n":7}]"#
            }
        };
        assert!(written.contains(expected), "{format}: {written}");
    }
}

fn subscribe(fields: &Value) -> Result<Subscribe, crate::Refusal> {
    let mut message = json!({ "type": "subscribe", "channel": "table:items" });
    for (name, value) in fields.as_object().expect("an object") {
        message[name] = value.clone();
    }
    match Native.decode(message.to_string().as_bytes())? {
        Command::Subscribe(subscribe) => Ok(subscribe),
        other => panic!("not about a table: {other:?}"),
    }
}

#[test]
fn both_styles_can_ask_for_both_forms() {
    let sdk = json!({ "table": "items" });
    for (fields, numbers, format) in [
        (json!({}), None, BROADCAST),
        (json!({ "config": sdk }), None, POSTGRES_CHANGES),
        (json!({ "numbers": null }), None, BROADCAST),
        (
            json!({ "numbers": "number" }),
            Some(Numbers::Number),
            BROADCAST,
        ),
        (
            json!({ "numbers": "string" }),
            Some(Numbers::String),
            BROADCAST | STRINGS,
        ),
        (
            json!({ "numbers": "string", "config": sdk }),
            Some(Numbers::String),
            POSTGRES_CHANGES | STRINGS,
        ),
    ] {
        let subscribe = subscribe(&fields).expect("a subscription");
        assert_eq!(subscribe.numbers, numbers, "{fields}");
        assert_eq!(subscribe.format(), format, "{fields}");
    }
}

#[test]
fn an_unknown_form_is_refused_with_those_there_are() {
    for (numbers, code) in [
        (json!("strings"), Code::SubscriptionFailed),
        (json!("String"), Code::SubscriptionFailed),
        (json!(""), Code::SubscriptionFailed),
        (json!(true), Code::InvalidMessage),
        (json!(["string"]), Code::InvalidMessage),
    ] {
        let refusal = subscribe(&json!({ "numbers": numbers })).expect_err("refused");
        assert_eq!(refusal.code, code, "{numbers}");
        if code == Code::SubscriptionFailed {
            let text = "unknown form of numbers (use number or string)";
            assert_eq!(refusal.message, text);
            assert_eq!(refusal.channel.as_deref(), Some("table:items"));
        }
    }
}

/// A server that does not know the option does not say this.
#[test]
fn the_acknowledgement_says_that_they_are_strings() {
    for (fields, said) in [
        (json!({}), Value::Null),
        (json!({ "numbers": "number" }), Value::Null),
        (json!({ "numbers": "string" }), json!("string")),
    ] {
        let subscribe = subscribe(&fields).expect("a subscription");
        let subscribed = Acknowledgement::Subscribed {
            id: SubscriptionId(7),
            subscribe: &subscribe,
            position: Position {
                cursor: Cursor::default(),
                epoch: Epoch(0),
            },
        };
        let ack = text(|out| Native.acknowledgement(&subscribed, out));
        let ack: Value = serde_json::from_str(&ack).expect("valid JSON");
        assert_eq!(ack["numbers"], said, "{fields}");
    }
}

/// One byte names the dialect and the style: none of these is another dialect's.
#[test]
fn these_formats_are_native() {
    for format in FORMATS {
        assert_eq!(Style::of_format(format), None, "{format}");
        let native = codec_of(format).closing(Closing::Slow);
        assert_eq!(native, Native.closing(Closing::Slow), "{format}");
    }
}
