//! What their clients check, word for word.

use serde_json::json;

use super::*;

/// Every answer, in both versions: version 1 has `ref` alone.
#[test]
fn answers() {
    let join = reference("1");
    let message = reference("2");
    let address = |version| Address {
        version,
        join_ref: join.as_ref(),
        reference: message.as_ref(),
        topic: "realtime:room",
    };
    let unauthorized = Reason::Unauthorized {
        topic: "room".into(),
    };
    let expired = Reason::TokenExpired { seconds: 7 };
    type Write<'a> = Box<dyn Fn(Address<'_>, &mut Vec<u8>) + 'a>;
    let refuse = |reason: Reason| -> Write<'_> {
        Box::new(move |address, out| write_refused(address, &reason, out))
    };
    let cases: Vec<(Write<'_>, &str)> = vec![
        (Box::new(write_ok), r#"{"status":"ok","response":{}}"#),
        (
            Box::new(|address, out| write_joined(address, &[], out)),
            r#"{"status":"ok","response":{"postgres_changes":[]}}"#,
        ),
        (
            Box::new(|address, out| write_reply(address, Status::Error, br#"{"error":"x"}"#, out)),
            r#"{"status":"error","response":{"error":"x"}}"#,
        ),
        (
            refuse(Reason::TopicNameRequired),
            r#"{"status":"error","response":{"reason":"TopicNameRequired: You must provide a topic name"}}"#,
        ),
        (
            refuse(Reason::UnmatchedTopic),
            r#"{"status":"error","response":{"reason":"unmatched topic"}}"#,
        ),
        (
            refuse(unauthorized),
            r#"{"status":"error","response":{"reason":"Unauthorized: You do not have permissions to read from this Channel topic: room"}}"#,
        ),
        (
            refuse(expired),
            r#"{"status":"error","response":{"reason":"InvalidJWTToken: Token has expired 7 seconds ago"}}"#,
        ),
        (
            refuse(Reason::PayloadSizeExceeded),
            r#"{"status":"error","response":"payload_size_exceeded"}"#,
        ),
        (
            refuse(Reason::TrackNotMap),
            r#"{"status":"error","response":{"reason":"Presence track payload must be a map"}}"#,
        ),
        (
            refuse(Reason::Unexplained),
            r#"{"status":"error","response":{}}"#,
        ),
    ];
    for (write, payload) in cases {
        let v1 = format!(
            r#"{{"ref":"2","topic":"realtime:room","event":"phx_reply","payload":{payload}}}"#
        );
        let v2 = format!(r#"["1","2","realtime:room","phx_reply",{payload}]"#);
        assert_eq!(written(|out| write(address(Version::V1), out)), v1);
        assert_eq!(written(|out| write(address(Version::V2), out)), v2);
    }
}

#[test]
fn refs_are_echoed_as_they_were_given() {
    let incoming = text(Version::V2, r#"[null,7,"phoenix","heartbeat",{}]"#).expect("a frame");
    let ok = written(|out| write_ok(incoming.address(Version::V2), out));
    assert_eq!(
        ok,
        r#"[null,7,"phoenix","phx_reply",{"status":"ok","response":{}}]"#
    );
    let incoming = text(Version::V2, r#"[1.50,"\"\u0041\n","t","x",{}]"#).expect("a frame");
    let ok = written(|out| write_ok(incoming.address(Version::V2), out));
    assert!(ok.starts_with(r#"[1.50,"\"A\n","t""#), "{ok}");
}

#[test]
fn system_messages() {
    let join = reference("1");
    let params = || r#"{"event":"INSERT","schema":"public"}"#.to_owned();
    for (system, extension, status, message) in [
        (
            System::Subscribed,
            "postgres_changes",
            "ok",
            "Subscribed to PostgreSQL",
        ),
        (
            System::ReplicationReady,
            "system",
            "ok",
            "Replication connection established",
        ),
        (
            System::Shutdown(Shutdown::TokenExpired { seconds: 3 }),
            "system",
            "error",
            "Token has expired 3 seconds ago",
        ),
        (
            System::Malformed(BindingError::Filter {
                reason: r#"["foo", "hey"]"#.into(),
            }),
            "postgres_changes",
            "error",
            r#"Error parsing `filter` params: ["foo", "hey"]"#,
        ),
        (
            System::NotEnabled { params: params() },
            "postgres_changes",
            "error",
            r#"Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: [{"event":"INSERT","schema":"public"}]"#,
        ),
        (
            System::NotFitting {
                params: params(),
                reason: "invalid column for filter xyz".into(),
            },
            "postgres_changes",
            "error",
            r#"Unable to subscribe to changes with given parameters. An exception happened so please check your connect parameters: [{"event":"INSERT","schema":"public"}]. Exception: ERROR P0001 (raise_exception) invalid column for filter xyz"#,
        ),
    ] {
        let payload = json!({
            "extension": extension, "status": status, "message": message, "channel": "a:b",
        });
        for (version, expected) in [
            (
                Version::V1,
                json!({"ref": null, "topic": "realtime:a:b", "event": "system", "payload": payload}),
            ),
            (
                Version::V2,
                json!(["1", null, "realtime:a:b", "system", payload]),
            ),
        ] {
            let frame =
                written(|out| write_system(version, join.as_ref(), "realtime:a:b", &system, out));
            let frame: serde_json::Value = serde_json::from_str(&frame).expect("JSON");
            assert_eq!(frame, expected);
        }
    }
}

#[test]
fn the_end_of_a_channel() {
    let join = reference("1");
    let join = join.as_ref();
    for (frame, expected) in [
        (
            written(|out| write_close(Version::V2, join, "realtime:r", out)),
            r#"["1","1","realtime:r","phx_close",{}]"#,
        ),
        (
            written(|out| write_close(Version::V1, join, "realtime:r", out)),
            r#"{"ref":"1","topic":"realtime:r","event":"phx_close","payload":{}}"#,
        ),
        (
            written(|out| write_error(Version::V2, join, "realtime:r", out)),
            r#"["1","1","realtime:r","phx_error",{"reason":"channel_crash"}]"#,
        ),
        (
            written(|out| write_error(Version::V1, join, "realtime:r", out)),
            r#"{"ref":"1","topic":"realtime:r","event":"phx_error","payload":{"reason":"channel_crash"}}"#,
        ),
        (
            written(|out| write_disconnect(Version::V2, "realtime:r", out)),
            r#"[null,null,"realtime:r","system",{"extension":"system","status":"ok","message":"Server requested disconnect"}]"#,
        ),
        (
            written(|out| write_push(Version::V2, None, "realtime:r", "e", b"[1]", out)),
            r#"[null,null,"realtime:r","e",[1]]"#,
        ),
    ] {
        assert_eq!(frame, expected);
    }
    let expired = Shutdown::TokenExpired { seconds: 1 };
    let revoked = Shutdown::PermissionRevoked { topic: "r".into() };
    assert_eq!(
        [expired.ending(), revoked.ending()],
        [Ending::Error, Ending::Close]
    );
}

#[test]
fn presence() {
    let meta = |phx_ref, phx_ref_prev, fields: &'static [u8]| Meta {
        phx_ref,
        phx_ref_prev,
        fields,
    };
    let present = || {
        [
            (
                "a\"b",
                vec![
                    meta("r1", None, br#" {"x":[1] } "#),
                    meta("r2", None, b"{ }"),
                ],
            ),
            ("c", vec![meta("r4", Some("r3"), br#"{"phx_ref":"mine"}"#)]),
        ]
    };
    let join = reference("1");
    let state = written(|out| {
        write_presence_state(Version::V2, join.as_ref(), "realtime:r", present(), out);
    });
    let keys = r#"{"a\"b":{"metas":[{"x":[1],"phx_ref":"r1"},{"phx_ref":"r2"}]},"c":{"metas":[{"phx_ref":"mine","phx_ref":"r4","phx_ref_prev":"r3"}]}}"#;
    assert_eq!(
        state,
        format!(r#"["1",null,"realtime:r","presence_state",{keys}]"#)
    );
    let left = [("c", vec![meta("r3", None, b"{}")])];
    let diff = written(|out| write_presence_diff(Version::V1, "realtime:r", present(), left, out));
    assert_eq!(
        diff,
        format!(
            r#"{{"ref":null,"topic":"realtime:r","event":"presence_diff","payload":{{"joins":{keys},"leaves":{{"c":{{"metas":[{{"phx_ref":"r3"}}]}}}}}}}}"#
        )
    );
    let parsed: serde_json::Value = serde_json::from_str(&diff).expect("JSON");
    assert_eq!(parsed["payload"]["joins"]["c"]["metas"][0]["phx_ref"], "r4");
    let nobody: [(&str, Vec<Meta<'_, &str>>); 0] = [];
    let state = written(|out| write_presence_state(Version::V2, None, "realtime:r", nobody, out));
    assert_eq!(state, r#"[null,null,"realtime:r","presence_state",{}]"#);
}
