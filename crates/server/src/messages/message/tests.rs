use walcast_change::{Decoder, Step, Types};
use walcast_pgoutput::encode::tuple;
use walcast_pgoutput::{
    Begin, Column, Delete, Insert, Lsn, OldRow, PgTime, Relation, RelationId, ReplicaIdentity,
    Value, Xid,
};

use super::*;

const TEXT: u32 = 25;
const JSONB: u32 = 3802;
const UUID: u32 = 2950;
const BOOL: u32 = 16;
const BYTEA: u32 = 17;

type Field = (&'static str, u32, Option<&'static [u8]>);

/// The change that an INSERT of these columns is; or their DELETE.
fn change(schema: &'static str, table: &'static str, fields: &[Field], insert: bool) -> Change {
    let relation = Relation {
        id: RelationId(7),
        schema: Bytes::from_static(schema.as_bytes()),
        name: Bytes::from_static(table.as_bytes()),
        identity: ReplicaIdentity::Full,
        columns: fields
            .iter()
            .map(|(name, type_oid, _)| Column {
                key: true,
                name: Bytes::from_static(name.as_bytes()),
                type_oid: *type_oid,
                type_modifier: -1,
            })
            .collect(),
    };
    let values = fields
        .iter()
        .map(|(_, _, value)| value.map_or(Value::Null, Value::Text));
    let row = tuple(values);
    let mut decoder = Decoder::new(Types::default());
    let begin = Begin {
        final_lsn: Lsn(1),
        commit_time: PgTime(0),
        xid: Xid(1),
    };
    decoder
        .step(walcast_pgoutput::Message::Begin(begin))
        .unwrap();
    decoder.describe(&relation, None);
    let message = match insert {
        true => walcast_pgoutput::Message::Insert(Insert {
            relation: relation.id,
            new: row,
        }),
        false => walcast_pgoutput::Message::Delete(Delete {
            relation: relation.id,
            old: OldRow::Full(row),
        }),
    };
    match decoder.step(message).unwrap() {
        Step::Change(change) => change,
        other => panic!("{other:?}"),
    }
}

const ID: Field = ("id", UUID, Some(b"0f4c6b1e-0000-4000-8000-000000000001"));

fn read_all(fields: &[Field]) -> Result<DatabaseMessage, MessageError> {
    DatabaseMessage::read(&change("realtime", "messages", fields, true)).expect("it is a message")
}

#[test]
fn a_message_in_walcasts_own_table() {
    let message = read_all(&[
        ("topic", TEXT, Some(b"room-1")),
        ("extension", TEXT, Some(b"broadcast")),
        ("payload", JSONB, Some(br#"{"a": 12345678901234567890.10}"#)),
        ("event", TEXT, Some(b"say")),
        ("private", BOOL, Some(b"t")),
        ("inserted_at", 1114, Some(b"2026-11-21 13:35:11.926311")),
        ID,
        ("binary_payload", BYTEA, None),
        ("event_name", TEXT, Some(b"say")),
        ("channel_name", TEXT, Some(b"room-1")),
        ("sender_type", TEXT, Some(b"user")),
        ("sender_id", UUID, None),
    ])
    .unwrap();
    let expected = DatabaseMessage {
        id: "0f4c6b1e-0000-4000-8000-000000000001".into(),
        topic: "room-1".into(),
        event: "say".into(),
        private: true,
        extension: "broadcast".into(),
        body: Body::Json(Bytes::from_static(br#"{"a": 12345678901234567890.10}"#)),
        inserted_at: Some("2026-11-21 13:35:11.926311".into()),
        sender_type: Some("user".into()),
        sender_id: None,
    };
    assert_eq!(message, expected);
    let hub = message.to_message();
    let meta = hub.meta.as_deref();
    let id: &[u8] = br#"{"id":"0f4c6b1e-0000-4000-8000-000000000001"}"#;
    assert_eq!((&*hub.event, meta), ("say", Some(id)));
}

#[test]
fn tables_of_others() {
    let supabase = read_all(&[
        ID,
        ("topic", TEXT, Some(b"t")),
        ("payload", JSONB, None),
        ("event", TEXT, None),
        ("private", BOOL, Some(b"f")),
        ("extension", TEXT, Some(b"presence")),
    ])
    .unwrap();
    assert_eq!((&*supabase.event, supabase.private), ("", false));
    assert_eq!(&*supabase.extension, "presence");
    assert_eq!(supabase.body, Body::Json(Bytes::from_static(b"{}")));

    let insforge = read_all(&[
        ID,
        ("event_name", TEXT, Some(b"e")),
        ("channel_name", TEXT, Some(b"chat:1")),
        ("payload", JSONB, Some(b"[]")),
        ("created_at", 1184, Some(b"2026-11-21 13:35:11+00")),
    ])
    .unwrap();
    assert_eq!((&*insforge.topic, &*insforge.event), ("chat:1", "e"));
    assert_eq!(&*insforge.extension, "broadcast");
    assert_eq!(
        insforge.inserted_at.as_deref(),
        Some("2026-11-21 13:35:11+00")
    );
}

#[test]
fn what_is_no_message() {
    let fields = [ID, ("topic", TEXT, Some(&b"t"[..]))];
    for (schema, table, insert) in [
        ("public", "messages", true),
        ("realtime", "messages_2026_11_21", true),
        ("realtime", "messages", false),
    ] {
        let change = change(schema, table, &fields, insert);
        assert_eq!(DatabaseMessage::read(&change), None, "{schema}.{table}");
    }
}

#[test]
fn what_is_broken_says_so() {
    let lacks = |column| Err(MessageError::Lacks { column });
    assert_eq!(read_all(&[ID]), lacks("topic"));
    assert_eq!(read_all(&[("topic", TEXT, Some(b"t"))]), lacks("id"));
    let topic: Field = ("topic", TEXT, Some(b"\xff"));
    assert_eq!(
        read_all(&[ID, topic]),
        Err(MessageError::Text { column: "topic" })
    );
    let binary: Field = ("binary_payload", BYTEA, Some(b"\\xabc"));
    let topic: Field = ("topic", TEXT, Some(b"t"));
    assert_eq!(read_all(&[ID, topic, binary]), Err(MessageError::Binary));
}

#[test]
fn bytes_in_both_formats() {
    let check = |printed: &[u8], expected: Option<&[u8]>| {
        assert_eq!(bytea(printed).as_deref(), expected, "{printed:?}");
    };
    check(b"\\x", Some(b""));
    check(b"\\x00fFA0", Some(b"\x00\xff\xa0"));
    check(b"\\x0", None);
    check(b"\\x0g", None);
    check(b"", Some(b""));
    check(b"a\\\\b\\000\\377", Some(b"a\\b\x00\xff"));
    check(b"\\", None);
    check(b"\\01", None);
    check(b"\\400", None);
    check(b"\\09x", None);
}
