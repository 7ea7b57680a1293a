//! Broadcast and presence, through real sockets.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::Socket;

use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, subscribe};

const CHAT: &str = "broadcast:chat";
const ROOM: &str = "presence:room";

async fn in_chat(stage: &Stage, user: &str, config: Value) -> Result<Socket> {
    let mut socket = stage.connect(user).await?;
    let ack = subscribe(&mut socket, json!({ "channel": CHAT, "config": config })).await?;
    assert_eq!(
        (&ack["status"], &ack["channel"]),
        (&json!("subscribed"), &json!(CHAT))
    );
    Ok(socket)
}

fn said(event: &str, payload: Value) -> Value {
    json!({ "type": "broadcast", "channel": CHAT, "event": event, "payload": payload })
}

fn with(mut message: Value, name: &str, value: Value) -> Value {
    message[name] = value;
    message
}

#[tokio::test]
async fn broadcasts_reach_who_subscribed_and_nobody_else() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut alice = in_chat(&stage, ALICE, json!({ "self": true, "ack": true })).await?;
    let mut bob = in_chat(&stage, BOB, json!({})).await?;
    let mut outsider = stage.connect(BOB).await?;
    let other = json!({ "channel": "broadcast:other" });
    subscribe(&mut outsider, other).await?;

    // To the others as it was written, to herself as well, and then she is told that it was taken.
    let raw = r#"{"type":"broadcast","channel":"broadcast:chat","event":"e","payload":{"n":1.10,"n2":[]},"ref":7}"#;
    alice.send(walcast_harness::Message::text(raw)).await?;
    let expected = said("e", json!({ "n": 1.1, "n2": [] }));
    assert_eq!(bob.next_json(DEADLINE).await?, expected);
    let own = with(expected, "self", json!(true));
    assert_eq!(alice.next_json(DEADLINE).await?, own);
    let ack = alice.next_json(DEADLINE).await?;
    assert_eq!(
        (&ack["type"], &ack["status"], &ack["ref"]),
        (&json!("ack"), &json!("ok"), &json!(7))
    );

    // He hears nothing of his own; what he gets next is an answer, or what another sent.
    let bytes = with(said("b", json!("AP8=")), "encoding", json!("base64"));
    let ack = ask(&mut bob, with(bytes.clone(), "ref", json!("x"))).await?;
    assert_eq!((&ack["type"], &ack["ref"]), (&json!("ack"), &json!("x")));
    assert_eq!(alice.next_json(DEADLINE).await?, bytes);

    // Whoever may join may send.
    outsider
        .send_json(&said("from outside", Value::Null))
        .await?;
    for socket in [&mut alice, &mut bob] {
        assert_eq!(socket.next_json(DEADLINE).await?["event"], "from outside");
    }

    let left = ask(&mut bob, json!({ "type": "unsubscribe", "channel": CHAT })).await?;
    assert_eq!(left["status"], "unsubscribed");
    outsider.send_json(&said("late", Value::Null)).await?;
    assert_eq!(alice.next_json(DEADLINE).await?["event"], "late");
    for socket in [&mut bob, &mut outsider] {
        let pong = ask(socket, json!({ "type": "ping" })).await?;
        assert_eq!(pong, json!({ "type": "pong" }), "nothing else waits");
    }
    Ok(())
}

#[tokio::test]
async fn all_receivers_hear_two_senders_in_one_order() -> Result<()> {
    const EACH: usize = 300;
    let stage = Stage::new(&[("messages_per_minute_max", "0")]).await?;
    let mut receivers = Vec::new();
    for _ in 0..3 {
        receivers.push(in_chat(&stage, "a receiver", json!({})).await?);
    }
    let send = async |name: &'static str, user: &str| -> Result<Socket> {
        let mut socket = in_chat(&stage, user, json!({})).await?;
        for nth in 0..EACH {
            socket.send_json(&said(name, json!(nth))).await?;
        }
        Ok(socket)
    };
    let (one, two) = tokio::join!(send("one", ALICE), send("two", BOB));
    let mut orders: Vec<Vec<(String, u64)>> = Vec::new();
    for receiver in &mut receivers {
        let mut order = Vec::new();
        while order.len() < 2 * EACH {
            let message = receiver.next_json(DEADLINE).await?;
            let event = message["event"].as_str().unwrap_or_default();
            order.push((
                event.to_owned(),
                message["payload"].as_u64().unwrap_or(u64::MAX),
            ));
        }
        orders.push(order);
    }
    assert!(
        orders[1..].iter().all(|order| *order == orders[0]),
        "another order"
    );
    for name in ["one", "two"] {
        let own = orders[0].iter().filter(|(event, _)| event == name);
        assert!(own.map(|(_, nth)| *nth).eq(0..EACH as u64), "{name}");
    }
    drop((one?, two?));
    Ok(())
}

fn track(state: Value) -> Value {
    json!({ "type": "presence", "channel": ROOM, "event": "track", "state": state, "ref": 1 })
}

#[tokio::test]
async fn presence_comes_changes_and_ends_with_the_connection() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut alice = stage.connect(ALICE).await?;
    let room = |key: &str| json!({ "channel": ROOM, "config": { "key": key } });
    let ack = subscribe(&mut alice, room("alice")).await?;
    assert_eq!(ack["payload"]["key"], "alice");
    let state = alice.next_json(DEADLINE).await?;
    assert_eq!(
        (&state["event"], &state["payload"]),
        (&json!("state"), &json!({}))
    );

    let diff = ask(&mut alice, track(json!({ "n": 1 }))).await?;
    assert_eq!(diff["event"], "diff");
    let first = diff["payload"]["joins"]["alice"][0].clone();
    assert_eq!(first["state"], json!({ "n": 1 }));
    assert_eq!(alice.next_json(DEADLINE).await?["status"], "tracked");
    let again = ask(&mut alice, track(json!({ "n": 1 }))).await?;
    assert_eq!(again["status"], "tracked", "the same again is no news");

    // Two connections under one key; the second finds the first.
    let mut second = stage.connect(ALICE).await?;
    subscribe(&mut second, room("alice")).await?;
    let state = second.next_json(DEADLINE).await?;
    assert_eq!(state["payload"], json!({ "alice": [first] }));
    second.send_json(&track(json!({ "n": 2 }))).await?;
    let joined = alice.next_json(DEADLINE).await?["payload"]["joins"]["alice"][0].clone();
    assert_eq!(joined["state"], json!({ "n": 2 }));

    let update = ask(&mut alice, track(json!({ "n": 3 }))).await?;
    assert_eq!(update["payload"]["leaves"], json!({ "alice": [first] }));
    let now = &update["payload"]["joins"]["alice"][0];
    assert_eq!(
        (&now["state"], &now["previous"]),
        (&json!({ "n": 3 }), &first["ref"])
    );
    assert_eq!(alice.next_json(DEADLINE).await?["status"], "tracked");

    // Cut without a word.
    drop(second);
    let gone = alice.next_json(DEADLINE).await?;
    assert_eq!(
        gone["payload"],
        json!({ "joins": {}, "leaves": { "alice": [joined] } })
    );

    let untrack = json!({ "type": "presence", "channel": ROOM, "event": "untrack", "ref": 2 });
    let left = ask(&mut alice, untrack.clone()).await?;
    assert_eq!(
        left["payload"]["leaves"]["alice"][0]["state"],
        json!({ "n": 3 })
    );
    assert_eq!(alice.next_json(DEADLINE).await?["status"], "untracked");
    assert_eq!(ask(&mut alice, untrack).await?["status"], "untracked");
    Ok(())
}

#[tokio::test]
async fn the_fluxbase_sdk_is_spoken_to_in_its_words() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut one = stage.subscriber(ALICE, ROOM).await?;
    let sync = one.next_json(DEADLINE).await?;
    assert_eq!(
        sync["presence"],
        json!({ "event": "sync", "currentPresences": {} })
    );
    let mut two = stage.subscriber(BOB, ROOM).await?;
    two.next_json(DEADLINE).await?;
    let track = |online: bool| {
        json!({ "type": "presence", "channel": ROOM, "event": "track",
            "payload": { "key": "bob", "state": { "online": online } } })
    };
    let heard = |event: &str, new: Value, left: Value, current: Value| {
        json!({ "event": event, "key": "bob", "newPresences": new, "leftPresences": left,
            "currentPresences": current })
    };
    let (on, off) = (json!([{ "online": true }]), json!([{ "online": false }]));
    two.send_json(&track(true)).await?;
    two.send_json(&track(false)).await?;
    for expected in [
        heard("join", on.clone(), json!([]), json!({ "bob": on })),
        heard("sync", off.clone(), on, json!({ "bob": off })),
    ] {
        assert_eq!(one.next_json(DEADLINE).await?["presence"], expected);
    }
    // Not before: an answer that it can't be given ends a connection, whatever is still to be read.
    drop(two);
    let left = heard("leave", json!([]), off, json!({}));
    assert_eq!(one.next_json(DEADLINE).await?["presence"], left);

    subscribe(&mut one, json!({ "channel": CHAT })).await?;
    let sent = with(said("e", json!({ "x": 1 })), "messageId", json!("msg_1"));
    let echo = ask(&mut one, sent).await?;
    let content = json!({ "event": "e", "payload": { "x": 1 }, "self": true });
    assert_eq!(
        (&echo["type"], &echo["broadcast"]),
        (&json!("broadcast"), &content)
    );
    let ack = one.next_json(DEADLINE).await?;
    assert_eq!(
        (&ack["messageId"], &ack["status"]),
        (&json!("msg_1"), &json!("ok"))
    );
    Ok(())
}

#[tokio::test]
async fn what_is_refused_says_why_and_to_what() -> Result<()> {
    let stage = Stage::new(&[("channels_per_connection_max", "3")]).await?;
    let mut socket = stage.connect(ALICE).await?;
    let long = format!("broadcast:{}", "x".repeat(256));
    let big = json!({ "x": "x".repeat(17 << 10) });
    for (message, code, text) in [
        (
            json!({ "type": "subscribe", "channel": long }),
            "INVALID_CHANNEL",
            "topic_bytes_max",
        ),
        (
            json!({ "type": "subscribe", "channel": CHAT, "config": { "private": true } }),
            "FORBIDDEN",
            "private",
        ),
        (track(json!({})), "SUBSCRIPTION_FAILED", "subscribe"),
        (
            said(&"e".repeat(256), Value::Null),
            "RATE_LIMITED",
            "event_bytes_max",
        ),
    ] {
        let refusal = ask(&mut socket, with(message.clone(), "ref", json!("r"))).await?;
        assert_eq!(
            (&refusal["code"], &refusal["ref"]),
            (&json!(code), &json!("r"))
        );
        assert_eq!(refusal["channel"], message["channel"]);
        let said = refusal["message"].as_str().unwrap_or_default();
        assert!(said.contains(text), "{said}");
    }
    subscribe(&mut socket, json!({ "channel": ROOM, "config": {} })).await?;
    socket.next_json(DEADLINE).await?;
    let refusal = ask(&mut socket, track(big)).await?;
    assert_eq!(refusal["message"], "presence_meta_bytes_max reached: 16384");

    for nth in 1..3 {
        let channel = format!("broadcast:{nth}");
        subscribe(&mut socket, json!({ "channel": channel })).await?;
    }
    let next = json!({ "type": "subscribe", "channel": "broadcast:3", "ref": 1 });
    let refusal = ask(&mut socket, next.clone()).await?;
    assert_eq!(refusal["message"], "channels_per_connection_max reached: 3");
    let again = json!({ "type": "subscribe", "channel": "broadcast:1" });
    assert_eq!(ask(&mut socket, again).await?["type"], "ack", "no new one");
    ask(
        &mut socket,
        json!({ "type": "unsubscribe", "channel": "broadcast:1" }),
    )
    .await?;
    assert_eq!(ask(&mut socket, next).await?["type"], "ack");
    Ok(())
}

#[tokio::test]
async fn nobody_without_a_token_joins_or_sends() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut nobody = Socket::connect(&stage.walcast.websocket("/realtime")).await?;
    let join = json!({ "type": "subscribe", "channel": CHAT });
    for message in [join, said("e", Value::Null), track(json!({}))] {
        assert_eq!(ask(&mut nobody, message).await?["code"], "UNAUTHORIZED");
    }
    Ok(())
}

#[tokio::test]
async fn a_burst_larger_than_any_outbox_reaches_who_reads_and_cuts_who_does_not() -> Result<()> {
    // Where messages come slowly, who does not read is not to be cut for a write that waits.
    let settings = [("messages_per_minute_max", "0"), ("write_timeout", "2m")];
    let stage = Stage::new(&settings).await?;
    // A reader that the machine keeps from reading for a moment is one that does not read.
    let mut tries = Vec::new();
    while tries.len() < 5 {
        match burst(&stage).await? {
            Ok(()) => return Ok(()),
            Err(cut) => tries.push(cut),
        }
    }
    anyhow::bail!("none of these reached who reads: {tries:?}")
}

/// What happened to those who read; who does not is always cut.
async fn burst(stage: &Stage) -> Result<Result<()>> {
    const MESSAGES: usize = 1_000;
    let mut readers = Vec::new();
    for _ in 0..2 {
        let mut reader = in_chat(stage, "a reader", json!({})).await?;
        readers.push(tokio::spawn(async move {
            for nth in 0..MESSAGES {
                // Unparsed: a debug build of the parser is no quick reader.
                let message = reader.next(DEADLINE).await?.into_data();
                let expected = format!(r#""event":"{nth}""#);
                let head = String::from_utf8_lossy(&message[..message.len().min(99)]);
                anyhow::ensure!(head.contains(&expected), "not {nth}: {head}");
            }
            anyhow::Ok(())
        }));
    }
    let mut idle = stage.narrow_subscriber(BOB, CHAT).await?;
    let mut sender = in_chat(stage, ALICE, json!({})).await?;
    let text = "x".repeat(16 << 10);
    for nth in 0..MESSAGES {
        sender
            .send_json(&said(&nth.to_string(), json!(text)))
            .await?;
    }
    let mut read = Ok(());
    for reader in readers {
        read = read.and(reader.await?);
    }
    // What it had not read is gone, and the reason with it if it read nothing for long.
    let (code, _) = idle.closed(DEADLINE).await.unwrap_or((1006, String::new()));
    assert!(code == 4008 || code == 1006, "{code}");
    let (_, metrics) = stage.walcast.get("/metrics").await?;
    let nobody = "walcast_connections_closed_total{kind=\"slow\"} 0";
    assert!(!metrics.contains(nobody), "{metrics}");
    Ok(read)
}
