//! What is true of every frame.

use proptest::prelude::*;

use super::*;

/// A frame of kind 3, as the JavaScript client writes it.
fn user_broadcast_push(fields: [&str; 4], metadata: &str, encoding: u8, payload: &[u8]) -> Bytes {
    let [join_ref, reference, topic, event] = fields;
    let texts = [join_ref, reference, topic, event, metadata];
    let mut frame = vec![3];
    frame.extend(texts.map(|text| u8::try_from(text.len()).expect("short")));
    frame.push(encoding);
    texts.iter().for_each(|text| frame.extend(text.as_bytes()));
    frame.extend(payload);
    frame.into()
}

fn short() -> impl Strategy<Value = String> {
    "\\PC{0,60}"
}

fn json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        ".{0,9}".prop_map(Into::into),
    ];
    let value = leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
            prop::collection::btree_map(".{0,5}", inner, 0..5)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    });
    value.prop_map(|value| value.to_string())
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes: Vec<u8>, kind in 0u8..6) {
        for version in [Version::V1, Version::V2] {
            let frame = Bytes::from([&[kind][..], &bytes].concat());
            let _ = decode_binary(version, &frame);
            let _ = decode_binary(version, &frame.slice(1..));
            let _ = decode_text(version, &frame.slice(1..));
        }
    }

    /// What one client sends in binary is what another of the same version gets.
    #[test]
    fn binary_broadcasts_go_through(
        join_ref in short(), reference in short(), topic in short(), event in short(),
        payload: Vec<u8>, json in json(), is_json: bool,
    ) {
        let sent = if is_json { json.as_bytes() } else { &payload };
        let fields = [&*join_ref, &reference, &topic, &event];
        let frame = user_broadcast_push(fields, "", u8::from(is_json), sent);
        let incoming = decode_binary(Version::V2, &frame).expect("a frame");
        prop_assert_eq!(incoming.reference.as_ref().map_or("", Ref::as_str), &reference);
        prop_assert_eq!(incoming.join_ref.as_ref().map_or("", Ref::as_str), &join_ref);
        let Event::Broadcast(found) = &incoming.event else { panic!("not a broadcast") };
        let body = match &found.payload {
            Payload::Json(bytes) => Body::Json(bytes),
            Payload::Binary(bytes) => Body::Binary(bytes),
        };
        let broadcast = Broadcast {
            topic: &incoming.topic, event: &found.event, body, meta: None, envelope: None,
        };
        let mut out = Vec::new();
        let opcode = write_broadcast(Version::V2, &broadcast, &mut out);
        prop_assert_eq!(opcode, Some(Opcode::Binary));
        let header = [4, topic.len() as u8, event.len() as u8, 0, u8::from(is_json)];
        prop_assert_eq!(out, [&header, topic.as_bytes(), event.as_bytes(), sent].concat());
    }

    /// A text broadcast's payload is the same bytes in every frame that is made of it.
    #[test]
    fn text_broadcasts_go_through(topic in ".{0,20}", event in ".{0,20}", inner in json(), more in json()) {
        let name = serde_json::to_string(&event).expect("a string");
        let envelope = format!(r#"{{"event":{name}, "payload": {inner},"more":{more}}}"#);
        let topic_json = serde_json::to_string(&topic).expect("a string");
        let frame = format!(r#"["1","2",{topic_json},"broadcast", {envelope} ]"#);
        let incoming = text(Version::V2, &frame).expect("a frame");
        prop_assert_eq!(&incoming.topic, &topic);
        let Event::Broadcast(sent) = incoming.event else { panic!("not a broadcast") };
        prop_assert_eq!(&sent.event, &event);
        prop_assert_eq!(sent.payload, Payload::Json(inner.into()));
        prop_assert_eq!(sent.envelope.as_deref(), Some(envelope.as_bytes()));
        let broadcast = Broadcast {
            topic: &topic, event: &sent.event, body: Body::Json(b"1"), meta: None,
            envelope: sent.envelope.as_deref(),
        };
        for version in [Version::V1, Version::V2] {
            let mut out = Vec::new();
            prop_assert_eq!(write_broadcast(version, &broadcast, &mut out), Some(Opcode::Text));
            let read = text(version, std::str::from_utf8(&out).expect("UTF-8")).expect("a frame");
            let Event::Broadcast(again) = read.event else { panic!("not a broadcast") };
            prop_assert_eq!(again.envelope.as_deref(), Some(envelope.as_bytes()));
        }
    }

    /// Answers carry the refs and the topic that they answer, in both versions.
    #[test]
    fn answers_find_back(topic in ".{0,20}", join_ref in ".{0,20}", reference in ".{0,20}") {
        let frame = serde_json::json!([join_ref, reference, topic, "x", {}]).to_string();
        let incoming = text(Version::V2, &frame).expect("a frame");
        for version in [Version::V1, Version::V2] {
            let ok = written(|out| write_ok(incoming.address(version), out));
            let read = text(version, &ok).expect("a frame");
            prop_assert_eq!(&read.topic, &incoming.topic);
            prop_assert_eq!(&read.reference, &incoming.reference);
            if version == Version::V2 {
                prop_assert_eq!(&read.join_ref, &incoming.join_ref);
            }
        }
    }

    /// Any join is answered with as many bindings as were asked for, each with an id of its own.
    #[test]
    fn any_join_is_a_join(config in json(), tables in prop::collection::vec("[a-c]{0,2}", 0..9)) {
        let frame = format!(r#"["1","1","realtime:r","phx_join",{{"config":{config}}}]"#);
        prop_assert!(matches!(text(Version::V2, &frame).expect("a frame").event, Event::Join(_)));
        let bindings: Vec<_> = tables.iter().map(|table| serde_json::json!({"table": table})).collect();
        let frame = serde_json::json!(["1", "1", "realtime:r", "phx_join",
            {"config": {"postgres_changes": bindings}}]).to_string();
        let Event::Join(join) = text(Version::V2, &frame).expect("a frame").event else {
            panic!("not a join")
        };
        prop_assert_eq!(join.changes.bindings.len(), tables.len());
        for (a, one) in join.changes.bindings.iter().zip(&tables) {
            for (b, other) in join.changes.bindings.iter().zip(&tables) {
                prop_assert_eq!(a.id == b.id, one == other);
            }
        }
    }
}
