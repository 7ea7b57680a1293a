//! The messages of the protocol document, both ways.

use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Change, ColumnSet, Cursor, Decoder, Epoch, Position, Step, Types};
use walcast_hub::{Events, Filter, SubscriptionId, View};
use walcast_pgoutput::{
    Begin, Column, Delete, Insert, Lsn, Message, OldRow, PgTime, Relation, RelationId,
    ReplicaIdentity, Update, Value, Xid, encode,
};

use super::*;
use crate::{Code, Subscribe, parse_channel};

/// Changes of `public.users (id int4 primary key, name text)`.
fn change(message: Message) -> Change {
    let mut decoder = Decoder::new(Types::default());
    let column = |name: &'static str, type_oid| Column {
        key: true,
        name: Bytes::from(name),
        type_oid,
        type_modifier: -1,
    };
    let relation = Relation {
        id: RelationId(1),
        schema: "public".into(),
        name: "users".into(),
        identity: ReplicaIdentity::Full,
        columns: vec![column("id", 23), column("name", 25)],
    };
    decoder.describe(&relation, Some(&["id".to_owned()]));
    let begin = Begin {
        final_lsn: Lsn(0x16B3748),
        commit_time: PgTime(0),
        xid: Xid(7),
    };
    decoder
        .step(Message::Begin(begin))
        .expect("a stream begins with it");
    match decoder.step(message).expect("it fits the relation") {
        Step::Change(change) => change,
        Step::Truncate(mut changes) => changes.remove(0),
        other => panic!("not a change: {other:?}"),
    }
}

fn row(id: &str, name: Option<&str>) -> walcast_pgoutput::Tuple {
    let name = name.map_or(Value::Null, |name| Value::Text(name.as_bytes()));
    encode::tuple([Value::Text(id.as_bytes()), name])
}

fn update() -> Change {
    let (old, new) = (
        OldRow::Full(row("123", Some("John"))),
        row("123", Some("John \"D\"")),
    );
    change(Message::Update(Update {
        relation: RelationId(1),
        old,
        new,
    }))
}

fn written(change: &Change, view: View, format: u8) -> serde_json::Value {
    let mut out = Vec::new();
    let delivery = Delivery {
        change,
        view: &view,
        epoch: Epoch(0xab),
        channel: "table:\"users\"",
        tag: 0,
        format,
    };
    Native.delivery(&delivery, &mut out);
    serde_json::from_slice(&out).expect("valid JSON")
}

fn both() -> Arc<ColumnSet> {
    Arc::new(ColumnSet::all(2))
}

fn payload(fields: serde_json::Value) -> serde_json::Value {
    let mut payload = serde_json::json!({
        "schema": "public", "table": "users",
        "commit_timestamp": "2000-01-01T00:00:00.000000Z", "cursor": "0/16B3748:0@000000ab",
    });
    for (name, value) in fields.as_object().expect("an object") {
        payload[name] = value.clone();
    }
    serde_json::json!({ "type": "broadcast", "channel": "table:\"users\"", "payload": payload })
}

#[test]
fn the_changes_of_the_protocol_document() {
    let insert = change(Message::Insert(Insert {
        relation: RelationId(1),
        new: row("123", None),
    }));
    let old = OldRow::Full(row("123", Some("John")));
    let delete = change(Message::Delete(Delete {
        relation: RelationId(1),
        old,
    }));
    let update = update();
    let id_only = Arc::new(ColumnSet::all(1));
    for (change, view, expected) in [
        (
            &insert,
            View::Insert {
                columns: both(),
                entered: false,
            },
            serde_json::json!({"type": "INSERT", "record": {"id": 123, "name": null}}),
        ),
        (
            &insert,
            View::Insert {
                columns: id_only.clone(),
                entered: false,
            },
            serde_json::json!({"type": "INSERT", "record": {"id": 123}}),
        ),
        (
            &update,
            View::Update {
                columns: both(),
                old: Some(both()),
            },
            serde_json::json!({"type": "UPDATE", "record": {"id": 123, "name": "John \"D\""},
                               "old_record": {"id": 123, "name": "John"}}),
        ),
        (
            &update,
            View::Update {
                columns: both(),
                old: None,
            },
            serde_json::json!({"type": "UPDATE", "record": {"id": 123, "name": "John \"D\""}}),
        ),
        (
            &update,
            View::Insert {
                columns: both(),
                entered: true,
            },
            serde_json::json!({"type": "INSERT", "record": {"id": 123, "name": "John \"D\""},
                               "reason": "entered"}),
        ),
        (
            &update,
            View::Delete {
                columns: both(),
                left: true,
            },
            serde_json::json!({"type": "DELETE", "old_record": {"id": 123}, "reason": "left"}),
        ),
        (
            &delete,
            View::Delete {
                columns: both(),
                left: false,
            },
            serde_json::json!({"type": "DELETE", "old_record": {"id": 123, "name": "John"}}),
        ),
        (
            &delete,
            View::Truncate,
            serde_json::json!({"type": "TRUNCATE"}),
        ),
    ] {
        assert_eq!(
            written(change, view.clone(), BROADCAST),
            payload(expected),
            "{view:?}"
        );
    }
}

#[test]
fn a_change_for_the_fluxbase_sdk() {
    let value = written(
        &update(),
        View::Update {
            columns: both(),
            old: None,
        },
        POSTGRES_CHANGES,
    );
    assert_eq!(value["type"], "postgres_changes");
    assert_eq!(value["payload"]["eventType"], "UPDATE");
    assert_eq!(value["payload"]["type"], "UPDATE");
}

#[test]
fn commands() {
    let users = || parse_channel("table:public.users").expect("a channel");
    let plain = |channel: &str| Subscribe {
        channel: channel.into(),
        target: users(),
        events: Events::ALL,
        filter: None,
        style: BROADCAST,
        numbers: None,
        start: Start::Now,
    };
    let filter = Some(Filter::parse("id=eq.1").expect("a filter"));
    for (message, expected) in [
        (
            r#"{"type":"subscribe","channel":"table:public.users"}"#,
            Command::Subscribe(plain("table:public.users")),
        ),
        (
            r#"{"type":"subscribe","channel":"table:users"}"#,
            Command::Subscribe(plain("table:users")),
        ),
        (
            r#"{"type":"subscribe","channel":"table:users","event":"INSERT","filter":"id=eq.1","other":[]}"#,
            Command::Subscribe(Subscribe {
                events: Events::INSERT,
                filter: filter.clone(),
                ..plain("table:users")
            }),
        ),
        (
            r#"{"type":"subscribe","channel":"table:users","events":["insert","DELETE"]}"#,
            Command::Subscribe(Subscribe {
                events: Events::INSERT.union(Events::DELETE),
                ..plain("table:users")
            }),
        ),
        (
            r#"{"type":"subscribe","channel":"x","config":{"event":"*","schema":"public","table":"users","filter":"id=eq.1"}}"#,
            Command::Subscribe(Subscribe {
                filter,
                style: POSTGRES_CHANGES,
                ..plain("x")
            }),
        ),
        (
            r#"{"type":"unsubscribe","channel":"table:users"}"#,
            Command::Unsubscribe {
                channel: Some("table:users".into()),
                subscription: None,
            },
        ),
        (
            r#"{"type":"unsubscribe","channel":"x","subscription_id":"7"}"#,
            Command::Unsubscribe {
                channel: Some("x".into()),
                subscription: Some(7),
            },
        ),
        (
            r#"{"type":"unsubscribe"}"#,
            Command::Unsubscribe {
                channel: None,
                subscription: None,
            },
        ),
        (r#"{"type":"ping"}"#, Command::Ping),
        (r#" {"type":"heartb\u0065at"} "#, Command::Heartbeat),
        (
            r#"{"type":"access_token","token":"t"}"#,
            Command::AccessToken { token: "t".into() },
        ),
    ] {
        assert_eq!(Native.decode(message.as_bytes()), Ok(expected), "{message}");
    }
}

#[test]
fn bad_messages() {
    let deep = format!("{{\"type\":\"ping\",\"x\":{}", "[".repeat(100_000));
    let long = format!(
        r#"{{"type":"subscribe","channel":"x","config":{{"table":"{}"}}}}"#,
        "t".repeat(300)
    );
    for (message, code) in [
        ("", Code::InvalidMessage),
        ("nonsense", Code::InvalidMessage),
        ("[]", Code::InvalidMessage),
        ("null", Code::InvalidMessage),
        ("{}", Code::InvalidMessage),
        (r#"{"type":1}"#, Code::InvalidMessage),
        (r#"{"type":"ping"} x"#, Code::InvalidMessage),
        (r#"{"type":"shutdown"}"#, Code::InvalidMessage),
        (r#"{"type":"subscribe","channel":5}"#, Code::InvalidMessage),
        (r#"{"type":"access_token"}"#, Code::InvalidMessage),
        (
            r#"{"type":"unsubscribe","subscription_id":"sub-x"}"#,
            Code::InvalidMessage,
        ),
        (&deep, Code::InvalidMessage),
        (r#"{"type":"subscribe"}"#, Code::InvalidChannel),
        (
            r#"{"type":"subscribe","channel":"users"}"#,
            Code::InvalidChannel,
        ),
        (
            r#"{"type":"broadcast","channel":"table:x","payload":{}}"#,
            Code::InvalidChannel,
        ),
        (&long, Code::InvalidChannel),
        (
            r#"{"type":"subscribe","channel":"table:users","event":"SELECT"}"#,
            Code::SubscriptionFailed,
        ),
        (
            r#"{"type":"subscribe","channel":"table:users","filter":"id"}"#,
            Code::SubscriptionFailed,
        ),
        (
            r#"{"type":"subscribe","channel":"table:users","filter":"id=xx.1"}"#,
            Code::SubscriptionFailed,
        ),
        (
            r#"{"type":"subscribe","channel":"table:a.*","filter":"id=eq.1"}"#,
            Code::SubscriptionFailed,
        ),
    ] {
        let refusal = Native.decode(message.as_bytes()).expect_err(message);
        assert_eq!(refusal.code, code, "{message:.80}");
        assert!(!refusal.message.is_empty());
    }
    assert!(Native.decode(&[0xFF, 0xFE]).is_err());
}

#[test]
fn what_the_server_says() {
    let subscribe = Subscribe {
        channel: "table:users".into(),
        target: parse_channel("table:users").expect("a channel"),
        events: Events::ALL,
        filter: None,
        style: BROADCAST,
        numbers: None,
        start: Start::Now,
    };
    let position = Position {
        cursor: Cursor {
            commit_lsn: Lsn(1),
            ordinal: 2,
        },
        epoch: Epoch(0xab),
    };
    let subscribed = Acknowledgement::Subscribed {
        id: SubscriptionId(7),
        subscribe: &subscribe,
        position,
    };
    let said = |write: &dyn Fn(&mut Vec<u8>)| -> serde_json::Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).expect("valid JSON")
    };
    let ack = said(&|out| Native.acknowledgement(&subscribed, out));
    assert_eq!(ack["type"], "ack");
    assert_eq!(ack["channel"], "table:users");
    assert_eq!(ack["status"], "subscribed");
    assert_eq!(ack["cursor"], "0/1:2@000000ab");
    assert_eq!(ack["subscription_id"], ack["payload"]["subscription_id"]);
    let pong = said(&|out| Native.acknowledgement(&Acknowledgement::Pong, out));
    assert_eq!(pong, serde_json::json!({"type": "pong"}));
    let refusal = Refusal::new(Code::Unauthorized, "Invalid or expired token").on("c");
    let error = said(&|out| Native.refusal(&refusal, out));
    assert_eq!(
        error,
        serde_json::json!({"type": "error", "code": "UNAUTHORIZED", "channel": "c",
            "message": "Invalid or expired token", "error": "Invalid or expired token"})
    );
}
