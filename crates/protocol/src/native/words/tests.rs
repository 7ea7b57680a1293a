//! The messages of the protocol document about broadcast and presence, both ways.

use serde_json::json;
use walcast_hub::{Body, ChannelError, Class, Diff, Dot, KeyDiff, Meta, Roster};

use super::*;
use crate::{ChannelAcknowledgement, Codec, Command, Native};

fn channel(name: &str) -> Channel {
    Channel::parse(name).expect("a channel")
}

fn join_of(name: &str) -> Join {
    Join {
        channel: channel(name),
        format: BROADCAST,
        own: true,
        acknowledged: false,
        private: false,
        key: None,
        reference: None,
    }
}

fn number(number: u64) -> Option<Reference> {
    Some(Reference::Ref(number.into()))
}

fn message_id(text: &str) -> Option<Reference> {
    Some(Reference::MessageId(text.into()))
}

#[test]
fn commands() {
    let sent = |message, reference| {
        ChannelCommand::Broadcast(Broadcast {
            channel: channel("broadcast:chat"),
            message,
            reference,
        })
    };
    let track = |key: Option<&str>, state: &'static str, reference| ChannelCommand::Track {
        channel: channel("presence:room"),
        key: key.map(str::to_owned),
        state: state.into(),
        reference,
    };
    for (message, expected) in [
        (
            r#"{"type":"subscribe","channel":"broadcast:room:1"}"#,
            ChannelCommand::Join(join_of("broadcast:room:1")),
        ),
        (
            r#"{"type":"subscribe","channel":"broadcast:room","config":{"self":true,"ack":true},"ref":1}"#,
            ChannelCommand::Join(Join {
                format: POSTGRES_CHANGES,
                acknowledged: true,
                reference: number(1),
                ..join_of("broadcast:room")
            }),
        ),
        (
            r#"{"type":"subscribe","channel":"presence:room","config":{"key":"me","private":true}}"#,
            ChannelCommand::Join(Join {
                format: POSTGRES_CHANGES,
                own: false,
                private: true,
                key: Some("me".into()),
                ..join_of("presence:room")
            }),
        ),
        (
            r#"{"type":"subscribe","channel":"presence:room","key":"me"}"#,
            ChannelCommand::Join(Join {
                key: Some("me".into()),
                ..join_of("presence:room")
            }),
        ),
        (
            r#"{"type":"broadcast","channel":"broadcast:chat","event":"e","payload": {"a" : 1.50} ,"ref":"r"}"#,
            sent(
                Message::json("e", r#"{"a" : 1.50}"#),
                Some(Reference::Ref("r".into())),
            ),
        ),
        (
            r#"{"type":"broadcast","channel":"broadcast:chat","payload":{"message":"Hello World","user":"john"}}"#,
            sent(
                Message::json("broadcast", r#"{"message":"Hello World","user":"john"}"#),
                None,
            ),
        ),
        (
            r#"{"type":"broadcast","channel":"broadcast:chat","event":"e","encoding":"base64","payload":"AP8=","messageId":"msg_1"}"#,
            sent(Message::binary("e", vec![0, 255]), message_id("msg_1")),
        ),
        (
            r#"{"type":"presence","channel":"presence:room","event":"track","state":{"a":1},"ref":2}"#,
            track(None, r#"{"a":1}"#, number(2)),
        ),
        (
            r#"{"type":"presence","channel":"presence:room","event":"track","payload":{"key":"me","state":{"online":true}}}"#,
            track(Some("me"), r#"{"online":true}"#, None),
        ),
        (
            r#"{"type":"presence","channel":"presence:room","payload":{"event":"track","key":"me"}}"#,
            track(Some("me"), "{}", None),
        ),
        (
            r#"{"type":"presence","channel":"presence:room","event":"untrack","payload":{"key":"me"}}"#,
            ChannelCommand::Untrack {
                channel: channel("presence:room"),
                reference: None,
            },
        ),
    ] {
        let decoded = Native.decode(message.as_bytes());
        assert_eq!(decoded, Ok(Command::Channel(expected)), "{message}");
    }
    assert_eq!(channel("broadcast:a:b").topic(), "a:b");
}

#[test]
fn a_table_on_a_channel_of_any_name_stays_a_table() {
    let message =
        r#"{"type":"subscribe","channel":"broadcast:x","config":{"event":"*","table":"t"}}"#;
    let decoded = Native.decode(message.as_bytes());
    assert!(matches!(decoded, Ok(Command::Subscribe(_))), "{decoded:?}");
}

#[test]
fn bad_messages() {
    let long = "x".repeat(700);
    let long_channel = format!(r#"{{"type":"broadcast","channel":"broadcast:{long}","ref":1}}"#);
    let long_other = format!(r#"{{"type":"broadcast","channel":"{long}","ref":1}}"#);
    let long_ref = format!(r#"{{"type":"broadcast","channel":"broadcast:x","ref":"{long}"}}"#);
    for (message, code, reference) in [
        (
            r#"{"type":"subscribe","channel":"broadcast:"}"#,
            Code::InvalidChannel,
            None,
        ),
        (
            r#"{"type":"broadcast","channel":"table:x","ref":1}"#,
            Code::InvalidChannel,
            number(1),
        ),
        (r#"{"type":"broadcast"}"#, Code::InvalidChannel, None),
        (&long_channel, Code::InvalidChannel, number(1)),
        (&long_other, Code::InvalidChannel, number(1)),
        (&long_ref, Code::InvalidMessage, None),
        (
            r#"{"type":"broadcast","channel":"broadcast:x","ref":{}}"#,
            Code::InvalidMessage,
            None,
        ),
        (
            r#"{"type":"broadcast","channel":"broadcast:x","encoding":"base64","payload":1,"ref":1}"#,
            Code::InvalidMessage,
            number(1),
        ),
        (
            r#"{"type":"broadcast","channel":"broadcast:x","encoding":"rot13","messageId":"m"}"#,
            Code::InvalidMessage,
            message_id("m"),
        ),
        (
            r#"{"type":"broadcast","channel":"broadcast:x","payload":{"a":}}"#,
            Code::InvalidMessage,
            None,
        ),
        (
            r#"{"type":"presence","channel":"presence:x","event":"dance","ref":1}"#,
            Code::InvalidMessage,
            number(1),
        ),
        (
            r#"{"type":"presence","channel":"presence:x","event":"track","state":[1],"ref":1}"#,
            Code::InvalidMessage,
            number(1),
        ),
        (
            r#"{"type":"presence","channel":"presence:x","event":"track","payload":"me"}"#,
            Code::InvalidMessage,
            None,
        ),
    ] {
        let refusal = Native.decode(message.as_bytes()).expect_err(message);
        assert_eq!(
            (refusal.code, refusal.reference.map(|own| *own)),
            (code, reference),
            "{message:.80}"
        );
        assert!(refusal.channel.is_none_or(|channel| channel.len() <= 640));
    }
}

fn said(write: impl FnOnce(&mut Vec<u8>)) -> serde_json::Value {
    let mut out = Vec::new();
    write(&mut out);
    serde_json::from_slice(&out).expect("valid JSON")
}

fn class(format: u8, own: bool) -> Class<'static> {
    Class {
        format,
        label: "broadcast:\"chat\"",
        own,
    }
}

#[test]
fn broadcasts() {
    let written = |format, own, message: &Message| {
        said(|out| Native.broadcast(class(format, own), message, out))
    };
    let message = Message::json("e\"", r#"{"a": 1}"#);
    assert_eq!(
        written(POSTGRES_CHANGES, false, &message),
        json!({"type": "broadcast", "channel": "broadcast:\"chat\"", "event": "e\"", "payload": {"a": 1}})
    );
    assert_eq!(
        written(BROADCAST, true, &message),
        json!({"type": "broadcast", "channel": "broadcast:\"chat\"", "event": "e\"", "payload": {"a": 1}, "self": true,
            "broadcast": {"event": "e\"", "payload": {"a": 1}, "self": true}})
    );
    let stored = Message {
        meta: Some(r#"{"id":"1"}"#.into()),
        ..Message::binary("e", vec![0, 255])
    };
    assert_eq!(
        written(POSTGRES_CHANGES, false, &stored),
        json!({"type": "broadcast", "channel": "broadcast:\"chat\"", "event": "e", "encoding": "base64", "payload": "AP8=",
            "meta": {"id": "1"}})
    );
    let mut out = Vec::new();
    let exact = Message::json("e", r#"{ "n":1.0e2 }"#);
    Native.broadcast(class(POSTGRES_CHANGES, false), &exact, &mut out);
    let text = String::from_utf8(out).expect("text");
    assert!(text.contains(r#""payload":{ "n":1.0e2 }}"#), "{text}");
    assert!(matches!(exact.body, Body::Json(_)));
}

fn meta(counter: u64, previous: Option<u64>) -> Meta {
    let dot = |counter| Dot { node: 0, counter };
    Meta {
        dot: dot(counter),
        previous: previous.map(dot),
        payload: format!(r#"{{"n":{counter}}}"#).into(),
    }
}

#[test]
fn presences() {
    let key: std::sync::Arc<str> = "me".into();
    let mut roster = Roster::default();
    roster.insert(&key, meta(7, None));
    roster.insert(&key, meta(31, Some(8)));
    let change = |joins, leaves| Diff {
        keys: vec![KeyDiff {
            key: key.clone(),
            joins,
            leaves,
            before: 2,
            after: 2,
        }],
    };
    let update = change(vec![meta(31, Some(8))], vec![meta(8, None)]);
    let written = |format, diff: &Diff| {
        let mut said = Vec::new();
        Native.presence(class(format, false), diff, &roster, &mut |message| {
            said.push(serde_json::from_slice::<serde_json::Value>(message).expect("valid JSON"));
        });
        said
    };
    let at = "broadcast:\"chat\"";
    let new = json!({"ref": "0.1f", "previous": "0.8", "state": {"n": 31}});
    assert_eq!(
        written(POSTGRES_CHANGES, &update),
        [
            json!({"type": "presence", "channel": at, "event": "diff", "payload": {
            "joins": {"me": [new]}, "leaves": {"me": [{"ref": "0.8", "state": {"n": 8}}]}}})
        ]
    );
    let state = |format| said(|out| Native.presence_state(class(format, false), &roster, out));
    assert_eq!(
        state(POSTGRES_CHANGES),
        json!({"type": "presence", "channel": at, "event": "state",
            "payload": {"me": [{"ref": "0.7", "state": {"n": 7}}, new]}})
    );
    let current = json!({"me": [{"n": 7}, {"n": 31}]});
    assert_eq!(
        state(BROADCAST),
        json!({"type": "presence", "channel": at, "event": "sync",
            "presence": {"event": "sync", "currentPresences": current}})
    );
    for (event, diff, new, left) in [
        ("sync", update, json!([{"n": 31}]), json!([{"n": 8}])),
        (
            "join",
            change(vec![meta(31, None)], vec![]),
            json!([{"n": 31}]),
            json!([]),
        ),
        (
            "leave",
            change(vec![], vec![meta(8, None)]),
            json!([]),
            json!([{"n": 8}]),
        ),
    ] {
        assert_eq!(
            written(BROADCAST, &diff),
            [
                json!({"type": "presence", "channel": at, "event": event, "presence": {
                "event": event, "key": "me", "newPresences": new, "leftPresences": left,
                "currentPresences": current}})
            ]
        );
    }
}

#[test]
fn answers() {
    let (room, chat) = (channel("presence:room"), channel("broadcast:chat"));
    let answer = |acknowledgement, reference: Option<Reference>| {
        said(|out| {
            Native.channel_acknowledgement(&acknowledgement, reference.as_ref(), out);
        })
    };
    let joined = ChannelAcknowledgement::Joined {
        channel: &room,
        key: Some("me"),
    };
    assert_eq!(
        answer(joined, number(1)),
        json!({"type": "ack", "channel": "presence:room", "status": "subscribed", "ref": 1,
            "payload": {"subscribed": true, "channel": "presence:room", "key": "me"}})
    );
    assert_eq!(
        answer(ChannelAcknowledgement::Sent(&chat), None),
        json!({"type": "ack", "channel": "broadcast:chat", "status": "ok", "payload": {"status": "ok"}})
    );
    assert_eq!(
        answer(ChannelAcknowledgement::Sent(&chat), message_id("m")),
        json!({"type": "ack", "channel": "broadcast:chat", "status": "ok", "messageId": "m",
            "payload": {"status": "ok", "messageId": "m"}})
    );
    assert_eq!(
        answer(ChannelAcknowledgement::Tracked(&room, "me"), number(2)),
        json!({"type": "ack", "channel": "presence:room", "status": "tracked", "ref": 2, "payload": {"key": "me"}})
    );
    assert_eq!(
        answer(ChannelAcknowledgement::Untracked(&room), None),
        json!({"type": "ack", "channel": "presence:room", "status": "untracked", "payload": {}})
    );
    let error = ChannelError::Limit {
        name: "broadcast_bytes_max",
        max: 5,
    };
    let refusal = Refusal::from(error).on("broadcast:chat").about(number(3));
    assert_eq!(
        said(|out| Native.refusal(&refusal, out)),
        json!({"type": "error", "code": "RATE_LIMITED", "channel": "broadcast:chat", "ref": 3,
            "message": "broadcast_bytes_max reached: 5", "error": "broadcast_bytes_max reached: 5"})
    );
}
