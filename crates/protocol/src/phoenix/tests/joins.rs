//! Joins: those that their clients send, and those that Supabase's server is kind to.

use super::*;

fn join_of(topic: &str, payload: &str) -> Join {
    let frame = format!(r#"["1","1",{topic:?},"phx_join",{payload}]"#);
    let incoming = text(Version::V2, &frame).expect("a frame");
    assert_eq!(incoming.subtopic(), topic.strip_prefix("realtime:"));
    match incoming.event {
        Event::Join(join) => *join,
        other => panic!("not a join: {other:?}"),
    }
}

fn join(payload: &str) -> Join {
    join_of("realtime:room", payload)
}

fn config(config: &str) -> Join {
    join(&format!(r#"{{"config":{config}}}"#))
}

fn malformed(join: &Join) -> Vec<String> {
    join.malformed.iter().map(ToString::to_string).collect()
}

/// Of the JavaScript client, with all that it can ask for.
const FULL: &str = r#"{"config":{
    "broadcast":{"ack":true,"self":true,"replay":{"since":1700000000000,"limit":10},"replication_ready":true},
    "presence":{"key":"me","enabled":true},
    "postgres_changes":[
        {"event":"*","schema":"public","table":"t","filter":"id=eq.1","select":["id","x"]},
        {"event":"INSERT","schema":"public"}],
    "postgres_changes_options":{"wait":true,"timeout":15000},
    "private":true},
  "access_token":"a.b.c","version":"realtime-js/2.119.0"}"#;

#[test]
fn a_join_with_everything() {
    let join = join(FULL);
    let replay = Replay {
        since_ms: 1_700_000_000_000,
        limit: 10,
    };
    assert_eq!(
        join.broadcast,
        BroadcastConfig {
            ack: true,
            own: true,
            replay: Some(Ok(replay)),
            replication_ready: true,
        }
    );
    assert_eq!(
        join.presence,
        PresenceConfig {
            key: Some("me".to_owned()),
            enabled: true,
        }
    );
    assert_eq!((join.private, join.legacy), (true, false));
    assert_eq!(join.token.as_ref().map(Token::as_str), Some("a.b.c"));
    assert_eq!(
        (join.changes.wait, join.changes.timeout_ms),
        (true, Some(15_000))
    );
    assert_eq!(malformed(&join), [""; 0]);
    let filters = join.changes.bindings.iter().map(|binding| {
        let wanted = binding.wanted.as_ref().expect("well-formed");
        (wanted.table.as_deref(), wanted.filter.as_deref())
    });
    let filters: Vec<_> = filters.collect();
    assert_eq!(filters, [(Some("t"), Some("id=eq.1")), (None, None)]);
}

/// Same order, same length, each entry as it was written, and an integer that is not 0.
#[test]
fn the_answer_echoes_the_bindings() {
    let join = join(FULL);
    let [first, second] = &join.changes.bindings[..] else {
        panic!("two bindings")
    };
    let (a, b) = (first.id, second.id);
    assert!(a != b && a > 0 && a < 1 << 27);
    let one = reference("1");
    let address = Address {
        version: Version::V2,
        join_ref: one.as_ref(),
        reference: one.as_ref(),
        topic: "realtime:room",
    };
    let reply = written(|out| write_joined(address, &join.changes.bindings, out));
    assert_eq!(
        reply,
        format!(
            r#"["1","1","realtime:room","phx_reply",{{"status":"ok","response":{{"postgres_changes":[{{"event":"*","schema":"public","table":"t","filter":"id=eq.1","select":["id","x"],"id":{a}}},{{"event":"INSERT","schema":"public","id":{b}}}]}}}}]"#
        )
    );
}

/// Of the Python client: nulls where nothing was said.
#[test]
fn nulls_are_defaults() {
    let join = config(
        r#"{"broadcast":null,"presence":null,"postgres_changes":null,"postgres_changes_options":null,"private":false}"#,
    );
    assert_eq!(join, Join::default());
    assert_eq!(config("null"), Join::default());
    let join = config(r#"{"postgres_changes":[null,{"table":"t"},null]}"#);
    assert_eq!(join.changes.bindings.len(), 1);
    assert_eq!(malformed(&join), [""; 0]);
    let join = config(r#"{"broadcast":{"ack":null,"replay":null},"presence":{"key":""}}"#);
    assert_eq!(join, Join::default());
}

#[test]
fn bad_parts_have_their_defaults_and_are_named() {
    for (payload, expected) in [
        ("7", &["payload: expected a map"][..]),
        ("[]", &["payload: expected a map"]),
        ("null", &["payload: expected a map"]),
        (r#"{"config":"x"}"#, &["config: expected a map"]),
        (r#"{"config":[]}"#, &["config: expected a map"]),
        (
            r#"{"config":{},"access_token":7}"#,
            &["access_token: expected a string"],
        ),
        (
            r#"{"config":{"broadcast":true,"presence":"x","private":"maybe"}}"#,
            &[
                "config.broadcast: expected a map",
                "config.presence: expected a map",
                "config.private: expected a boolean",
            ],
        ),
        (
            r#"{"config":{"broadcast":{"ack":1,"self":"","replication_ready":[]},"presence":{"enabled":{}}}}"#,
            &[
                "config.broadcast.ack: expected a boolean",
                "config.broadcast.self: expected a boolean",
                "config.broadcast.replication_ready: expected a boolean",
                "config.presence.enabled: expected a boolean",
            ],
        ),
        (
            r#"{"config":{"postgres_changes":{"table":"t"}}}"#,
            &["config.postgres_changes: expected an array of maps"],
        ),
        (
            r#"{"config":{"postgres_changes":["t",7,[]]}}"#,
            &["config.postgres_changes: expected an array of maps"],
        ),
        (
            r#"{"config":{"postgres_changes_options":{"wait":7,"timeout":"x"}}}"#,
            &[
                "config.postgres_changes_options.timeout: expected milliseconds",
                "config.postgres_changes_options.wait: expected a boolean",
            ],
        ),
    ] {
        let found = join(payload);
        let mut listed = malformed(&found);
        listed.sort();
        let mut expected: Vec<_> = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(listed, expected, "{payload}");
        let rest = Join {
            malformed: Vec::new(),
            ..found
        };
        assert_eq!(rest, Join::default(), "{payload}");
    }
}

#[test]
fn a_bad_part_costs_no_other() {
    let join = config(
        r#"{"broadcast":{"ack":"TRUE","self":7},"presence":7,"postgres_changes":[7,{"table":"t"}],"private":"True"}"#,
    );
    assert!(join.broadcast.ack && join.private && !join.broadcast.own);
    assert_eq!(join.changes.bindings.len(), 1);
    assert_eq!(join.malformed.len(), 3);
}

#[test]
fn presence_keys_of_any_type() {
    for (key, expected) in [
        (r#""a""#, Some("a")),
        (r#""""#, None),
        ("null", None),
        ("7", Some("7")),
        ("true", Some("true")),
        (r#"{"a":1}"#, Some(r#"{"a":1}"#)),
    ] {
        let join = config(&format!(r#"{{"presence":{{"key":{key}}}}}"#));
        assert_eq!(join.presence.key.as_deref(), expected, "{key}");
        assert_eq!(malformed(&join), [""; 0]);
    }
}

#[test]
fn replays() {
    for (replay, expected) in [
        (r#"{"since":7}"#, Ok((7, 25))),
        (r#"{"since":0,"limit":1}"#, Ok((0, 1))),
        (r#"{"since":-1,"limit":1000}"#, Ok((-1, 25))),
        (r#"{"since":7,"limit":-3}"#, Ok((7, 1))),
        ("{}", Err(())),
        (r#"{"limit":3}"#, Err(())),
        (r#"{"since":"7"}"#, Err(())),
        (r#"{"since":7.5}"#, Err(())),
        (r#"{"since":7,"limit":"x"}"#, Err(())),
        ("7", Err(())),
    ] {
        let join = config(&format!(r#"{{"broadcast":{{"replay":{replay}}}}}"#));
        let expected = expected.map(|(since_ms, limit)| Replay { since_ms, limit });
        assert_eq!(join.broadcast.replay, Some(expected), "{replay}");
    }
}

#[test]
fn which_token_counts() {
    for (payload, expected) in [
        (r#"{"config":{}}"#, None),
        (r#"{"config":{},"access_token":"a"}"#, Some("a")),
        (
            r#"{"config":{},"access_token":"a","user_token":"u"}"#,
            Some("u"),
        ),
        (
            r#"{"config":{},"access_token":"a","user_token":7}"#,
            Some("a"),
        ),
        (r#"{"config":{},"access_token":"sb_publishable_x"}"#, None),
        (r#"{"config":{},"access_token":null}"#, None),
    ] {
        let join = join(payload);
        assert_eq!(
            join.token.as_ref().map(Token::as_str),
            expected,
            "{payload}"
        );
    }
}

#[test]
fn joins_without_config_mean_their_topic() {
    for (topic, schema, table, filter) in [
        ("realtime:public", Some("public"), None, None),
        ("realtime:*", None, None, None),
        ("realtime:public:t", Some("public"), Some("t"), None),
        (
            "realtime:public:t:id=eq.1",
            Some("public"),
            Some("t"),
            Some("id=eq.1"),
        ),
    ] {
        let join = join_of(topic, r#"{"user_token":"u"}"#);
        assert!(join.legacy);
        let wanted = join.changes.bindings[0].wanted.as_ref().expect(topic);
        assert_eq!(wanted.schema.as_deref(), schema, "{topic}");
        assert_eq!(wanted.table.as_deref(), table, "{topic}");
        assert_eq!(wanted.filter.as_deref(), filter, "{topic}");
    }
}

#[test]
fn a_join_takes_in_so_many_bindings_and_no_more() {
    let entries = vec![r#"{"table":"t"}"#; 1001].join(",");
    let join = config(&format!(r#"{{"postgres_changes":[{entries}]}}"#));
    assert_eq!(join.changes.bindings.len(), 1000);
    assert_eq!(
        malformed(&join),
        ["config.postgres_changes: expected fewer entries"]
    );
}
