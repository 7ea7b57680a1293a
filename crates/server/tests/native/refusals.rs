//! Bad input of every kind, each with its own clear answer, none of it fatal.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::{Message, Socket};

use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, subscribe, token, token_with};

#[tokio::test]
async fn messages_that_make_no_sense() -> Result<()> {
    let stage = Stage::new(&[("messages_per_minute_max", "0")]).await?;
    let mut socket = stage.connect(ALICE).await?;
    let subscribe_to =
        |channel: &str| json!({ "type": "subscribe", "channel": channel }).to_string();
    let filtered = |filter: &str| {
        json!({ "type": "subscribe", "channel": "table:todos", "filter": filter }).to_string()
    };
    for (message, code) in [
        ("".to_owned(), "INVALID_MESSAGE"),
        ("nonsense".to_owned(), "INVALID_MESSAGE"),
        ("[]".to_owned(), "INVALID_MESSAGE"),
        ("{\"type\":5}".to_owned(), "INVALID_MESSAGE"),
        ("{\"type\":\"fly\"}".to_owned(), "INVALID_MESSAGE"),
        ("{\"type\":\"ping\"".to_owned(), "INVALID_MESSAGE"),
        (
            format!("{{\"type\":\"ping\",\"x\":{}", "[".repeat(60_000)),
            "INVALID_MESSAGE",
        ),
        (subscribe_to("users"), "INVALID_CHANNEL"),
        (subscribe_to("table:"), "INVALID_CHANNEL"),
        (subscribe_to("table:a.b.c"), "INVALID_CHANNEL"),
        (
            subscribe_to(&format!("table:{}", "x".repeat(1000))),
            "INVALID_CHANNEL",
        ),
        (subscribe_to("table:nowhere"), "FORBIDDEN"),
        (subscribe_to("table:hidden"), "FORBIDDEN"),
        (subscribe_to("table:unpublished"), "FORBIDDEN"),
        (subscribe_to("table:pg_catalog.pg_authid"), "FORBIDDEN"),
        (subscribe_to("table:todos; drop table todos"), "FORBIDDEN"),
        (
            subscribe_to("table:\"todos\"\"; drop table todos; --\""),
            "FORBIDDEN",
        ),
        (filtered("nothing"), "SUBSCRIPTION_FAILED"),
        (filtered("id=about.1"), "SUBSCRIPTION_FAILED"),
        (filtered("id=eq.one"), "SUBSCRIPTION_FAILED"),
        (filtered("secret=eq.x"), "FORBIDDEN"),
        (filtered("nosuch=eq.x"), "FORBIDDEN"),
    ] {
        socket.send(Message::text(message.clone())).await?;
        let answer = socket.next_json(DEADLINE).await?;
        assert_eq!(answer["type"], "error", "{message:.80}");
        assert_eq!(answer["code"], code, "{message:.80} → {answer}");
        assert!(
            answer["message"]
                .as_str()
                .is_some_and(|text| text.len() > 10),
            "{answer}"
        );
        assert_eq!(answer["error"], answer["message"]);
    }
    assert_eq!(
        ask(&mut socket, json!({ "type": "ping" })).await?,
        json!({ "type": "pong" })
    );
    subscribe(&mut socket, json!({ "channel": "table:todos" })).await?;
    Ok(())
}

/// What exists and what does not must look the same to who may not know.
#[tokio::test]
async fn nobody_learns_what_exists() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.connect(ALICE).await?;
    let mut answers: Vec<Value> = Vec::new();
    for table in ["nowhere", "hidden", "unpublished"] {
        let channel = format!("table:{table}");
        let mut answer = ask(
            &mut socket,
            json!({ "type": "subscribe", "channel": channel }),
        )
        .await?;
        assert_eq!(answer["channel"], channel);
        answer["channel"] = Value::Null;
        let text = answer.to_string().replace(table, "…");
        answers.push(Value::String(text));
    }
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    Ok(())
}

#[tokio::test]
async fn broken_frames_end_the_connection_with_their_code() -> Result<()> {
    let stage = Stage::new(&[("message_bytes_max", "1KiB")]).await?;
    let mut socket = stage.connect(ALICE).await?;
    socket.send(Message::text("x".repeat(2000))).await?;
    assert_eq!(socket.closed(DEADLINE).await?.0, 1009);
    // Raw bytes after the handshake: an unmasked frame, a reserved bit, text that is no UTF-8.
    for (bytes, code) in [
        (&[0x81, 0x01, b'x'][..], 1002),
        (&[0xC1, 0x81, 0, 0, 0, 0, b'x'][..], 1002),
        (&[0x83, 0x80, 0, 0, 0, 0][..], 1002),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xFF][..], 1007),
    ] {
        let answer = raw(&stage, bytes).await?;
        let close = [0x88, answer.get(1).copied().unwrap_or(0)];
        assert_eq!(
            answer.get(..2),
            Some(&close[..]),
            "a close frame: {answer:?}"
        );
        let found = u16::from_be_bytes([answer[2], answer[3]]);
        assert_eq!(found, code, "{bytes:?}");
    }
    stage.connect(ALICE).await?;
    Ok(())
}

/// Sends `bytes` right behind the handshake; what comes back after the response's head.
async fn raw(stage: &Stage, bytes: &[u8]) -> Result<Vec<u8>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(stage.walcast.address()).await?;
    let token = token(ALICE, "authenticated", 3600);
    let head = format!(
        "GET /realtime?token={token} HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await??;
    let end = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .map_or(answer.len(), |at| at + 4);
    Ok(answer.split_off(end))
}

#[tokio::test]
async fn tokens_that_are_not_accepted() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let forged = walcast_auth::sign_hs256("another secret, also at least 32 bytes long", "{}")?;
    for bad in [
        "nonsense".to_owned(),
        "a.b.c".to_owned(),
        forged,
        token(ALICE, "authenticated", -3600),
        token(ALICE, "postgres", 3600),
        token(ALICE, "none", 3600),
        token(ALICE, "walcast_checks", 3600),
        token_with(json!({ "sub": ALICE })),
        "x".repeat(10_000),
    ] {
        let mut socket = stage.connect_with_token(&bad).await?;
        let error = socket.next_json(DEADLINE).await?;
        assert_eq!(error["code"], "UNAUTHORIZED", "{bad:.40} → {error}");
        assert_eq!(socket.closed(DEADLINE).await?.0, 4001);
    }
    let mut nobody = Socket::connect(&stage.walcast.websocket("/realtime")).await?;
    let error = ask(
        &mut nobody,
        json!({ "type": "subscribe", "channel": "table:todos" }),
    )
    .await?;
    assert_eq!(error["code"], "UNAUTHORIZED");
    let log = stage.walcast.log();
    assert!(!log.contains("eyJ"), "no token in a log:\n{log}");
    Ok(())
}

#[tokio::test]
async fn handshakes_that_are_none() -> Result<()> {
    let stage = Stage::new(&[("allowed_origins", "https://good.example")]).await?;
    let (status, body) = stage.walcast.get("/realtime").await?;
    assert_eq!(status, 426, "{body}");
    assert_eq!(stage.walcast.get("/nowhere").await?.0, 404);
    let url = stage.walcast.websocket("/realtime");
    for (origin, allowed) in [
        ("https://good.example", true),
        ("https://evil.example", false),
        ("null", false),
    ] {
        let connected = Socket::connect_with(&url, &[("origin", origin)]).await;
        assert_eq!(connected.is_ok(), allowed, "{origin}");
    }
    Ok(())
}

#[tokio::test]
async fn a_policy_that_fails_hides_its_rows_and_nothing_else() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute(
            "create table fragile (id int primary key, divisor int);
             alter table fragile enable row level security;
             create policy divides on fragile for select using (1 / divisor = 1);
             grant select on fragile to authenticated;
             select enable_realtime('fragile');",
        )
        .await?;
    let mut socket = stage.subscriber(BOB, "table:fragile").await?;
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    stage
        .execute(
            "begin; insert into fragile values (1, 1), (2, 0), (3, 1);
             insert into notes values (1, 'beside it'); commit;",
        )
        .await?;
    let events = stage
        .events_until_marks(&mut socket, 2, ("fragile", "1"))
        .await?;
    let ids_of = |table: &str| {
        let of_table = events.iter().filter(|event| event["table"] == table);
        let ids = of_table.map(|event| event["record"]["id"].clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(ids_of("fragile"), [json!(1), json!(3)]);
    assert_eq!(ids_of("notes"), [json!(1)]);
    Ok(())
}

/// Neither claims, nor tokens, nor values, whatever a policy shouts.
#[tokio::test]
async fn nothing_of_a_row_reaches_the_log() -> Result<()> {
    let stage = Stage::new(&[("log_level", "debug")]).await?;
    stage
        .execute(
            "create table loud (id int primary key, body text);
             create function shouts(body text) returns bool language plpgsql as $$
             begin raise info 'info %', body; raise warning 'warning %', body;
               if body like '%fail%' then raise exception 'error %', body; end if; return true; end $$;
             alter table loud enable row level security;
             create policy shouting on loud for select using (shouts(body));
             grant select on loud to authenticated;
             select enable_realtime('loud');",
        )
        .await?;
    let mut socket = stage.subscriber(ALICE, "table:loud").await?;
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    stage
        .execute("insert into loud values (1, 'the butler did it'), (2, 'the butler will fail')")
        .await?;
    let events = stage
        .events_until_marks(&mut socket, 1, ("loud", "'quiet'"))
        .await?;
    assert_eq!(events.len(), 1, "the second row's policy fails: {events:?}");
    let log = stage.walcast.log();
    assert!(!log.contains("butler"), "{log}");
    assert!(!log.contains(ALICE) && !log.contains("eyJ"), "{log}");
    Ok(())
}
