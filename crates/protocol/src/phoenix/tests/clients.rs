//! What their clients send, word for word.

use super::*;

#[test]
fn messages_of_their_clients() {
    let json = |text: &'static str| Bytes::from_static(text.as_bytes());
    let v1 = r#"{"topic":"realtime:r","event":"broadcast","payload":{"type":"broadcast","event":"e","payload":{"x": 1},"more":[]},"ref":"4","join_ref":"1"}"#;
    let envelope = json(r#"{"type":"broadcast","event":"e","payload":{"x": 1},"more":[]}"#);
    let broadcast = Event::Broadcast(Sent {
        event: "e".into(),
        payload: Payload::Json(json(r#"{"x": 1}"#)),
        envelope: Some(envelope),
        metadata: None,
    });
    let unknown = |name: &str| Event::Unknown { name: name.into() };
    let track = |payload| Event::Track {
        payload: json(payload),
    };
    use Version::{V1, V2};
    for (version, frame, join_ref, reference_, topic, event) in [
        (
            V2,
            r#"[null,"5","phoenix","heartbeat",{}]"#,
            None,
            Some("5"),
            "phoenix",
            Event::Heartbeat,
        ),
        // The Python client's.
        (
            V1,
            r#"{"event":"heartbeat","payload":{},"topic":"phoenix","ref":null,"join_ref":null}"#,
            None,
            None,
            "phoenix",
            Event::Heartbeat,
        ),
        (V1, v1, Some("1"), Some("4"), "realtime:r", broadcast),
        (
            V2,
            r#"["1","6","realtime:r","phx_leave",{}]"#,
            Some("1"),
            Some("6"),
            "realtime:r",
            Event::Leave,
        ),
        (
            V2,
            r#" [ null , 7 , "realtime:r" , "heartbeat" , {} , "and", "more" ] "#,
            None,
            Some("7"),
            "realtime:r",
            unknown("heartbeat"),
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",{"type":"presence","event":"TRACK","payload":{"a":1}}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            track(r#"{"a":1}"#),
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",{"event":"track"}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            track("{}"),
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",{"event":"track","payload":"x"}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            Event::TrackNotMap,
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",{"event":"track","payload":null}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            Event::TrackNotMap,
        ),
        (
            V1,
            r#"{"topic":"realtime:r","event":"broadcast","ref":"2"}"#,
            None,
            Some("2"),
            "realtime:r",
            Event::Broadcast(Sent {
                event: String::new(),
                payload: Payload::Json(json("{}")),
                envelope: Some(json("{}")),
                metadata: None,
            }),
        ),
        (
            V2,
            r#"["1","2","realtime:r","broadcast",{"event":"e","payload":null}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            Event::Broadcast(Sent {
                event: "e".into(),
                payload: Payload::Json(json("null")),
                envelope: Some(json(r#"{"event":"e","payload":null}"#)),
                metadata: None,
            }),
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",{"event":"untrack"}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            Event::Untrack,
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",{"event":"dance"}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            Event::UnknownPresence,
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",{}]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            Event::EmptyPresence,
        ),
        (
            V2,
            r#"["1","2","realtime:r","presence",[]]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            Event::EmptyPresence,
        ),
        (
            V2,
            r#"["1","2","realtime:r","postgres_changes",null]"#,
            Some("1"),
            Some("2"),
            "realtime:r",
            unknown("postgres_changes"),
        ),
        (
            V1,
            r#"{"topic":"realtime:r","event":"x"}"#,
            None,
            None,
            "realtime:r",
            unknown("x"),
        ),
    ] {
        let incoming = text(version, frame).expect(frame);
        assert_eq!(
            incoming.join_ref.as_ref().map(Ref::as_str),
            join_ref,
            "{frame}"
        );
        assert_eq!(
            incoming.reference.as_ref().map(Ref::as_str),
            reference_,
            "{frame}"
        );
        assert_eq!(
            (incoming.topic.as_str(), incoming.event),
            (topic, event),
            "{frame}"
        );
    }
}

#[test]
fn tokens() {
    for (payload, expected) in [
        (r#"{"access_token":"a.b.c"}"#, Some("a.b.c")),
        (r#"{"access_token":""}"#, Some("")),
        (r#"{"access_token":"sb_publishable_x"}"#, None),
        (r#"{"access_token":null}"#, None),
        (r#"{"access_token":7}"#, None),
        ("{}", None),
        ("null", None),
    ] {
        let frame = format!(r#"["1","2","realtime:r","access_token",{payload}]"#);
        let incoming = text(Version::V2, &frame).expect("a frame");
        let Event::AccessToken(token) = incoming.event else {
            panic!("not a token: {payload}")
        };
        assert_eq!(token.as_ref().map(Token::as_str), expected, "{payload}");
        assert!(!format!("{token:?}").contains("a.b.c"));
    }
}

#[test]
fn malformed_frames() {
    let long = format!(r#"["{}","2","realtime:r","e",{{}}]"#, "1".repeat(256));
    let deep = format!(
        r#"[null,"2","t","broadcast",{{"a":{}{}}}]"#,
        "[".repeat(512),
        "]".repeat(512)
    );
    let deep_track = deep
        .replace("broadcast", "presence")
        .replace(r#"{"a":"#, r#"{"event":"track","payload":{"a":"#);
    let deep_track = deep_track.replace("}]", "}}]");
    use FrameError::{BadName, BadRef, BroadcastNotMap, NotArray, NotObject, TooDeep};
    for (version, frame, expected) in [
        (Version::V2, "", NotArray),
        (Version::V2, "nonsense", NotArray),
        (Version::V2, "{}", NotArray),
        (Version::V2, r#"["1","2","realtime:r","e"]"#, NotArray),
        (Version::V2, r#"["1","2","realtime:r","e",{}"#, NotArray),
        (Version::V2, r#"["1","2","realtime:r","e",{}] ]"#, NotArray),
        (Version::V2, r#"["1","2",7,"e",{}]"#, BadName),
        (Version::V2, r#"["1","2","realtime:r",null,{}]"#, BadName),
        (Version::V2, r#"["1",{},"realtime:r","e",{}]"#, BadRef),
        (Version::V2, r#"[true,"2","realtime:r","e",{}]"#, BadRef),
        (Version::V2, &long, BadRef),
        (
            Version::V2,
            r#"["1","2","realtime:r","broadcast",[]]"#,
            BroadcastNotMap,
        ),
        (
            Version::V2,
            r#"["1","2","realtime:r","broadcast","x"]"#,
            BroadcastNotMap,
        ),
        (Version::V2, &deep, TooDeep),
        (Version::V2, &deep_track, TooDeep),
        (Version::V1, "", NotObject),
        (Version::V1, r#"["1","2","realtime:r","e",{}]"#, NotObject),
        (
            Version::V1,
            r#"{"topic":"t","event":"e","payload":{},"ref":"1""#,
            NotObject,
        ),
        (
            Version::V1,
            r#"{"topic":"t","payload":{},"ref":"1"}"#,
            BadName,
        ),
        (
            Version::V1,
            r#"{"event":"e","payload":{},"ref":"1"}"#,
            BadName,
        ),
        (
            Version::V1,
            r#"{"topic":"t","event":"e","payload":{},"ref":[]}"#,
            BadRef,
        ),
    ] {
        assert_eq!(text(version, frame), Err(expected), "{frame}");
    }
    let no_text = Bytes::from_static(b"[null,null,\"\xff\",\"e\",{}]");
    assert_eq!(decode_text(Version::V2, &no_text), Err(FrameError::NotUtf8));
}

#[test]
fn version_1_reads_binary_frames_as_text() {
    let frame = r#"{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}"#;
    let frame = Bytes::from_static(frame.as_bytes());
    assert_eq!(
        decode_binary(Version::V1, &frame),
        decode_text(Version::V1, &frame)
    );
}
