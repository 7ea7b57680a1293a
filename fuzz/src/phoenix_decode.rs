//! `walcast_protocol::phoenix`: whatever a client sends is a message or an error; what is passed on
//! of it to other clients is what their parsers take; answers are JSON that finds back.
//!
//! The first byte of the data says which version, and whether the frame is binary.

use bytes::Bytes;
use walcast_protocol::phoenix::{
    Body, Broadcast, Event, Incoming, Join, Meta, Opcode, Payload, Sent, Version, decode_binary,
    decode_text, write_broadcast, write_joined, write_ok, write_presence_state,
};

pub fn run(data: &[u8]) {
    let Some((&how, frame)) = data.split_first() else {
        return;
    };
    let version = match how & 1 {
        0 => Version::V1,
        _ => Version::V2,
    };
    let frame = Bytes::copy_from_slice(frame);
    let decoded = match how & 2 {
        0 => decode_text(version, &frame),
        _ => decode_binary(version, &frame),
    };
    let Ok(incoming) = decoded else { return };
    answered(version, &incoming);
    match &incoming.event {
        Event::Join(join) => joined(version, &incoming, join),
        Event::Broadcast(sent) => passed_on(&incoming.topic, sent),
        Event::Track { payload } => tracked(payload),
        _ => {}
    }
}

fn json(text: &[u8]) -> serde_json::Value {
    // Deeper than serde_json builds a value, but not deeper than what is let through.
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    deserializer.disable_recursion_limit();
    let value = serde::Deserialize::deserialize(&mut deserializer).expect("JSON");
    deserializer.end().expect("one value");
    value
}

fn answered(version: Version, incoming: &Incoming) {
    let mut ok = Vec::new();
    write_ok(incoming.address(version), &mut ok);
    let read = decode_text(version, &ok.into()).expect("an answer is a frame");
    assert_eq!(
        (&read.topic, &read.reference),
        (&incoming.topic, &incoming.reference)
    );
    if version == Version::V2 {
        assert_eq!(read.join_ref, incoming.join_ref);
    }
}

fn joined(version: Version, incoming: &Incoming, join: &Join) {
    let bindings = &join.changes.bindings;
    let mut reply = Vec::new();
    write_joined(incoming.address(version), bindings, &mut reply);
    let reply = json(&reply);
    let payload = reply.get("payload").unwrap_or(&reply[4]);
    let echoed = payload["response"]["postgres_changes"].as_array();
    let echoed = echoed.expect("an array");
    assert_eq!(echoed.len(), bindings.len());
    for (echo, binding) in echoed.iter().zip(bindings) {
        assert_eq!(echo["id"], binding.id);
        assert!((1..1 << 27).contains(&binding.id));
    }
}

fn passed_on(topic: &str, sent: &Sent) {
    let body = match &sent.payload {
        Payload::Json(bytes) => Body::Json(bytes),
        Payload::Binary(bytes) => Body::Binary(bytes),
    };
    let broadcast = Broadcast {
        topic,
        event: &sent.event,
        body,
        meta: None,
        envelope: sent.envelope.as_deref(),
    };
    for version in [Version::V1, Version::V2] {
        let mut out = Vec::new();
        match write_broadcast(version, &broadcast, &mut out) {
            Some(Opcode::Text) => drop(json(&out)),
            Some(Opcode::Binary) => assert_eq!(out.first(), Some(&4)),
            None => assert!(out.is_empty() && matches!(body, Body::Binary(_))),
        }
    }
    if let Body::Json(bytes) = body {
        json(bytes);
    }
}

fn tracked(payload: &[u8]) {
    let meta = Meta {
        phx_ref: "ours",
        phx_ref_prev: None,
        fields: payload,
    };
    let mut out = Vec::new();
    write_presence_state(Version::V2, None, "t", [("key", [meta])], &mut out);
    assert_eq!(json(&out)[4]["key"]["metas"][0]["phx_ref"], "ours");
}

pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let text = |version: u8, frame: &str| [&[version], frame.as_bytes()].concat();
    vec![
        (
            "heartbeat_v1",
            text(
                0,
                r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1","join_ref":null}"#,
            ),
        ),
        (
            "heartbeat_v2",
            text(1, r#"[null,"5","phoenix","heartbeat",{}]"#),
        ),
        (
            "join",
            text(
                1,
                r#"["1","1","realtime:r","phx_join",{"config":{"broadcast":{"ack":true,"self":"True","replay":{"since":7,"limit":10}},"presence":{"key":"","enabled":false},"postgres_changes":[{"event":"*","schema":"public","table":"t","filter":"id=eq.1","select":["id"]},null],"postgres_changes_options":{"wait":true,"timeout":15000},"private":false},"access_token":"a.b.c"}]"#,
            ),
        ),
        (
            "join_without_config",
            text(
                0,
                r#"{"topic":"realtime:public:t:id=eq.1","event":"phx_join","payload":{"user_token":"x"},"ref":"1"}"#,
            ),
        ),
        (
            "broadcast",
            text(
                1,
                r#"["1","2","realtime:r","broadcast",{"type":"broadcast","event":"e","payload":{"a":[1,"é\n"]}}]"#,
            ),
        ),
        (
            "broadcast_without_payload",
            text(0, r#"{"topic":"realtime:r","event":"broadcast","ref":"1"}"#),
        ),
        (
            "track",
            text(
                1,
                r#"["1","2","realtime:r","presence",{"event":"track","payload":{"a":1,"phx_ref":"mine"}}]"#,
            ),
        ),
        (
            "push_json",
            b"\x03\x03\x02\x01\x03\x0a\x10\x01101topuser-event{\"persist\":true}{\"a\":\"b\"}"
                .to_vec(),
        ),
        (
            "push_binary",
            b"\x03\x03\x02\x01\x03\x0a\x00\x00101topuser-event\x01\x02\x03".to_vec(),
        ),
        (
            "push_of_bytes",
            b"\x03\x00\x01\x01\x07\x0912phoenixheartbeat".to_vec(),
        ),
    ]
}
