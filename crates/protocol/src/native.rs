//! The native protocol: JSON messages with a `type`. Documented in `proto-docs/native.md`.

use std::borrow::Cow;

use serde::Deserialize;
use walcast_change::{Change, ColumnSet, Row, unchanged, write_record, write_string};
use walcast_hub::{Closing, Events, Filter, Target, View};

use crate::{Acknowledgement, Code, Codec, Command, Delivery, Notice, Refusal, Subscribe};
use crate::{parse_channel, write_timestamp};

/// `{"type":"broadcast","channel":…,"payload":{change}}`.
const BROADCAST: u8 = 0;
/// `{"type":"postgres_changes",…}`, for clients that subscribe with a `config` object.
const POSTGRES_CHANGES: u8 = 1;

/// The native dialect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

#[derive(Deserialize)]
struct Incoming<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    channel: Option<String>,
    event: Option<String>,
    events: Option<Vec<String>>,
    schema: Option<String>,
    table: Option<String>,
    filter: Option<String>,
    config: Option<Config>,
    token: Option<String>,
    subscription_id: Option<IdText>,
}

/// How the Fluxbase SDK names a table.
#[derive(Deserialize)]
struct Config {
    event: Option<String>,
    schema: Option<String>,
    table: Option<String>,
    filter: Option<String>,
}

/// We give ids as strings; a number is as good.
#[derive(Deserialize)]
#[serde(untagged)]
enum IdText {
    Text(String),
    Number(u64),
}

impl Codec for Native {
    fn decode(&self, message: &[u8]) -> Result<Command, Refusal> {
        let incoming: Incoming<'_> = serde_json::from_slice(message).map_err(malformed)?;
        match &*incoming.kind {
            "subscribe" => subscribe(incoming).map(Command::Subscribe),
            "unsubscribe" => unsubscribe(incoming),
            "ping" => Ok(Command::Ping),
            "heartbeat" => Ok(Command::Heartbeat),
            "access_token" => match incoming.token {
                Some(token) => Ok(Command::AccessToken { token }),
                None => Err(invalid("token is required for access_token")),
            },
            "broadcast" | "presence" => {
                let channel = incoming.channel.unwrap_or_default();
                let text = "this server has no broadcast and presence channels yet";
                Err(Refusal::new(Code::InvalidChannel, text).on(channel))
            }
            _ => Err(invalid(
                "unknown message type (use subscribe, unsubscribe, access_token, ping or heartbeat)",
            )),
        }
    }

    fn delivery(&self, delivery: &Delivery<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(match delivery.format {
            POSTGRES_CHANGES => br#"{"type":"postgres_changes","channel":"#,
            _ => br#"{"type":"broadcast","channel":"#,
        });
        write_string(delivery.channel.as_bytes(), out);
        out.extend_from_slice(br#","payload":{"type":""#);
        out.extend_from_slice(event_name(delivery.view).as_bytes());
        if delivery.format == POSTGRES_CHANGES {
            out.extend_from_slice(br#"","eventType":""#);
            out.extend_from_slice(event_name(delivery.view).as_bytes());
        }
        out.extend_from_slice(br#"","schema":"#);
        write_string(delivery.change.shape.schema.as_bytes(), out);
        out.extend_from_slice(br#","table":"#);
        write_string(delivery.change.shape.table.as_bytes(), out);
        out.extend_from_slice(br#","commit_timestamp":""#);
        write_timestamp(delivery.change.commit_time, out);
        out.extend_from_slice(br#"","cursor":""#);
        out.extend_from_slice(delivery.change.cursor.to_string().as_bytes());
        out.push(b'"');
        rows(delivery.change, delivery.view, out);
        out.extend_from_slice(b"}}");
    }

    fn acknowledgement(&self, acknowledgement: &Acknowledgement<'_>, out: &mut Vec<u8>) {
        let value = match acknowledgement {
            Acknowledgement::Subscribed {
                id,
                subscribe,
                cursor,
            } => serde_json::json!({
                "type": "ack",
                "channel": subscribe.channel,
                "status": "subscribed",
                "subscription_id": id.to_string(),
                "cursor": cursor.to_string(),
                "payload": {
                    "subscribed": true,
                    "subscription_id": id.to_string(),
                    "schema": &*subscribe.target.schema,
                    "table": subscribe.target.table.as_deref().unwrap_or("*"),
                },
            }),
            Acknowledgement::Unsubscribed { channel, id } => serde_json::json!({
                "type": "ack",
                "channel": channel,
                "status": "unsubscribed",
                "payload": {
                    "unsubscribed": true,
                    "subscription_id": id.map(|id| id.to_string()),
                },
            }),
            Acknowledgement::TokenAccepted => serde_json::json!({
                "type": "ack",
                "status": "updated",
                "payload": { "type": "access_token", "updated": true },
            }),
            Acknowledgement::Pong => serde_json::json!({ "type": "pong" }),
        };
        write_value(&value, out);
    }

    fn refusal(&self, refusal: &Refusal, out: &mut Vec<u8>) {
        let mut value = serde_json::json!({
            "type": "error",
            "code": refusal.code.as_str(),
            "message": refusal.message,
            "error": refusal.message,
        });
        if let Some(channel) = &refusal.channel {
            value["channel"] = channel.as_str().into();
        }
        write_value(&value, out);
    }

    fn notice(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        let value = match notice {
            Notice::TokenExpiring { expires_at } => serde_json::json!({
                "type": "system", "event": "token_expiring", "expires_at": expires_at,
                "message": "the token expires soon; send a new one with access_token",
            }),
            Notice::Downgraded { role } => serde_json::json!({
                "type": "system", "event": "token_expired", "role": role,
                "message": "the token has expired; the connection goes on without it",
            }),
            Notice::Gap { reason } => serde_json::json!({
                "type": "system", "event": "gap", "reason": reason,
                "message": "changes were lost; read the tables again",
            }),
            Notice::Shutdown => serde_json::json!({
                "type": "system", "event": "shutdown",
                "message": "the server stops; connect again in a moment",
            }),
        };
        write_value(&value, out);
    }

    fn closing(&self, closing: Closing) -> (u16, &'static str) {
        match closing {
            Closing::Slow => (
                4008,
                "connection too slow; reconnect and resume from your cursor",
            ),
            Closing::Shutdown => (1001, "server stops; reconnect"),
            Closing::Expired => (4001, "token expired; reconnect with a new one"),
            Closing::Idle => (4002, "nothing heard for too long; send ping messages"),
            Closing::Unauthenticated => (4001, "no token in time"),
            Closing::Full => (4029, "too many connections"),
            Closing::Done => (1000, ""),
        }
    }
}

fn subscribe(incoming: Incoming<'_>) -> Result<Subscribe, Refusal> {
    let channel = incoming.channel.unwrap_or_default();
    let (format, named) = match incoming.config {
        Some(config) => (POSTGRES_CHANGES, config),
        None => {
            let Incoming {
                event,
                schema,
                table,
                filter,
                ..
            } = incoming;
            (
                BROADCAST,
                Config {
                    event,
                    schema,
                    table,
                    filter,
                },
            )
        }
    };
    let target = match named.table {
        Some(table) => Target {
            schema: named.schema.as_deref().unwrap_or("public").into(),
            table: (table != "*").then(|| table.into()),
        },
        None => parse_channel(&channel)?,
    };
    if target.schema.len() > NAME_BYTES_MAX
        || target
            .table
            .as_ref()
            .is_some_and(|table| table.len() > NAME_BYTES_MAX)
        || channel.len() > CHANNEL_BYTES_MAX
    {
        return Err(Refusal::new(
            Code::InvalidChannel,
            "the channel or table name is too long",
        ));
    }
    let failed = |text: String| Refusal::new(Code::SubscriptionFailed, text).on(&*channel);
    let events = events(named.event, incoming.events).map_err(|text| failed(text.to_owned()))?;
    let filter = named.filter.filter(|text| !text.is_empty());
    let filter = filter.map(|text| Filter::parse(&text)).transpose();
    let filter = filter.map_err(|error| failed(error.to_string()))?;
    if filter.is_some() && target.table.is_none() {
        return Err(failed(
            "a filter needs one table; schema.* has none".to_owned(),
        ));
    }
    Ok(Subscribe {
        channel,
        target,
        events,
        filter,
        format,
    })
}

/// A name of 63 characters takes at most this many bytes.
const NAME_BYTES_MAX: usize = 252;
const CHANNEL_BYTES_MAX: usize = 640;

fn events(one: Option<String>, many: Option<Vec<String>>) -> Result<Events, &'static str> {
    const UNKNOWN: &str = "unknown event (use *, INSERT, UPDATE, DELETE or TRUNCATE)";
    let names = one.into_iter().chain(many.into_iter().flatten());
    let mut events = Events::NONE;
    for name in names {
        events = events.union(Events::parse(&name).ok_or(UNKNOWN)?);
    }
    Ok(if events == Events::NONE {
        Events::ALL
    } else {
        events
    })
}

fn unsubscribe(incoming: Incoming<'_>) -> Result<Command, Refusal> {
    let subscription = match incoming.subscription_id {
        None => None,
        Some(IdText::Number(id)) => Some(id),
        Some(IdText::Text(text)) => Some(
            text.parse()
                .map_err(|_| invalid("subscription_id is not one of this server"))?,
        ),
    };
    Ok(Command::Unsubscribe {
        channel: incoming.channel,
        subscription,
    })
}

/// serde's text can quote the input; a client's own bytes are no secret from it, but the position
/// is all it needs.
fn malformed(error: serde_json::Error) -> Refusal {
    use serde_json::error::Category;
    let column = error.column();
    match error.classify() {
        Category::Data => invalid(&format!(
            "the message is no object with a string `type`, or a field has the wrong type (near byte {column})"
        )),
        _ => invalid(&format!(
            "the message is no valid JSON (near byte {column})"
        )),
    }
}

fn invalid(text: &str) -> Refusal {
    Refusal::new(Code::InvalidMessage, text)
}

fn event_name(view: &View) -> &'static str {
    match view {
        View::Insert { .. } => "INSERT",
        View::Update { .. } => "UPDATE",
        View::Delete { .. } => "DELETE",
        View::Truncate => "TRUNCATE",
    }
}

fn rows(change: &Change, view: &View, out: &mut Vec<u8>) {
    match view {
        View::Insert { columns, entered } => {
            record("record", change.new(), columns, out);
            if *entered {
                out.extend_from_slice(br#","reason":"entered""#);
            }
            unchanged_columns(change.new(), columns, out);
        }
        View::Update { columns, old } => {
            record("record", change.new(), columns, out);
            if let Some(old) = old {
                record("old_record", change.old(), old, out);
            }
            unchanged_columns(change.new(), columns, out);
        }
        View::Delete {
            columns,
            left: false,
        } => record("old_record", change.old(), columns, out),
        View::Delete {
            columns,
            left: true,
        } => {
            record(
                "old_record",
                change.old(),
                &columns.intersection(&change.shape.key),
                out,
            );
            out.extend_from_slice(br#","reason":"left""#);
        }
        View::Truncate => {}
    }
}

fn record(name: &str, row: Option<&Row>, columns: &ColumnSet, out: &mut Vec<u8>) {
    let Some(row) = row else { return };
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    write_record(row, columns, out);
}

fn unchanged_columns(row: Option<&Row>, columns: &ColumnSet, out: &mut Vec<u8>) {
    let Some(row) = row else { return };
    for (nth, name) in unchanged(row, columns).enumerate() {
        out.extend_from_slice(if nth == 0 { br#","unchanged":["# } else { b"," });
        write_string(name.as_bytes(), out);
    }
    if unchanged(row, columns).next().is_some() {
        out.push(b']');
    }
}

fn write_value(value: &serde_json::Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a value made of texts and numbers can be written");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use walcast_change::{Cursor, Decoder, Step, Types};
    use walcast_hub::SubscriptionId;
    use walcast_pgoutput::{
        Begin, Column, Delete, Insert, Lsn, Message, OldRow, PgTime, Relation, RelationId,
        ReplicaIdentity, Update, Value, Xid, encode,
    };

    use super::*;

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
            channel: "table:\"users\"",
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
            "commit_timestamp": "2000-01-01T00:00:00.000000Z", "cursor": "0/16B3748:0",
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
            format: BROADCAST,
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
                    format: POSTGRES_CHANGES,
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
                r#"{"type":"broadcast","channel":"broadcast:x","payload":{}}"#,
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
            format: BROADCAST,
        };
        let cursor = Cursor {
            commit_lsn: Lsn(1),
            ordinal: 2,
        };
        let subscribed = Acknowledgement::Subscribed {
            id: SubscriptionId(7),
            subscribe: &subscribe,
            cursor,
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
        assert_eq!(ack["cursor"], "0/1:2");
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
}
