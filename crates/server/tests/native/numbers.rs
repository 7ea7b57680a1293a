//! Numbers that a double may not hold, as numbers and as strings. The texts of the frames are
//! compared: a parser that reads doubles would not see what was lost.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use walcast_harness::Socket;

use crate::resume::{cursor, durable};
use crate::stage::{ALICE, DEADLINE, Stage, ask, subscribe, token};

const TABLE: &str = "
    create domain snowflake as bigint check (value > 0);
    create type entry as (id bigint, n int, price numeric);
    create table amounts (
        id bigint primary key, price numeric, many numeric[], flakes snowflake[], entry entry,
        nothing bigint, n int, f float8, info jsonb
    );
    grant select on amounts to authenticated;
    select enable_realtime('amounts')";
const INSERT: &str =
    "insert into amounts values (9007199254740993, 0.1234567890123456789, '{1.50,NULL,NaN}',
    '{9007199254740993}', '(9007199254740993,7,1.0)', null, 7, 0.5, '{\"a\": 9007199254740993}')";

const NUMBER: &str = r#"{"id":9007199254740993,"price":0.1234567890123456789,"many":[1.50,null,"NaN"],"flakes":[9007199254740993],"entry":{"id":9007199254740993,"n":7,"price":1.0},"nothing":null,"n":7,"f":0.5,"info":{"a": 9007199254740993}}"#;
const STRING: &str = r#"{"id":"9007199254740993","price":"0.1234567890123456789","many":["1.50",null,"NaN"],"flakes":["9007199254740993"],"entry":{"id":"9007199254740993","n":7,"price":"1.0"},"nothing":null,"n":7,"f":0.5,"info":{"a": 9007199254740993}}"#;

async fn stage() -> Result<Stage> {
    let stage = durable().await?;
    stage.execute(TABLE).await?;
    Ok(stage)
}

async fn text(socket: &mut Socket) -> Result<String> {
    match socket.next(DEADLINE).await? {
        Message::Text(text) => Ok(text.to_string()),
        other => anyhow::bail!("not a text: {other:?}"),
    }
}

async fn expect(socket: &mut Socket, part: &str) -> Result<()> {
    let text = text(socket).await?;
    anyhow::ensure!(text.contains(part), "no {part} in {text}");
    Ok(())
}

fn amounts(fields: Value) -> Value {
    let mut request = json!({ "channel": "table:amounts" });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

async fn subscriber(stage: &Stage, fields: Value) -> Result<(Socket, Value)> {
    let mut socket = stage.connect(ALICE).await?;
    let ack = subscribe(&mut socket, amounts(fields)).await?;
    Ok((socket, ack))
}

/// What happens to the row of [`INSERT`], and what is told of it.
fn story(row: &str) -> [(&'static str, String); 4] {
    let changed = row.replace(r#""n":7,"f""#, r#""n":8,"f""#);
    [
        (INSERT, format!(r#""record":{row}}}}}"#)),
        (
            "update amounts set n = 8",
            format!(r#""record":{changed},"old_record":{row}}}}}"#),
        ),
        (
            "delete from amounts",
            format!(r#""old_record":{changed}}}}}"#),
        ),
        ("truncate amounts", r#""type":"TRUNCATE""#.to_owned()),
    ]
}

#[tokio::test]
async fn each_subscription_has_its_own_form() -> Result<()> {
    let stage = stage().await?;
    let (mut numbers, _) = subscriber(&stage, json!({})).await?;
    let (mut strings, ack) = subscriber(&stage, json!({ "numbers": "string" })).await?;
    assert_eq!(ack["numbers"], "string", "{ack}");
    let (mut both, ack) = subscriber(&stage, json!({ "numbers": "number" })).await?;
    assert_eq!(ack["numbers"], Value::Null, "{ack}");
    let second = subscribe(&mut both, amounts(json!({ "numbers": "string" }))).await?;
    assert_ne!(ack["subscription_id"], second["subscription_id"]);
    // The same once more is the same.
    let again = subscribe(&mut both, amounts(json!({ "numbers": "string" }))).await?;
    assert_eq!(again["subscription_id"], second["subscription_id"]);
    let sdk = json!({ "numbers": "string", "config": { "table": "amounts" } });
    let (mut sdk, _) = subscriber(&stage, sdk).await?;
    for ((sql, number), (_, string)) in story(NUMBER).into_iter().zip(story(STRING)) {
        stage.execute(sql).await?;
        expect(&mut numbers, &number).await?;
        expect(&mut strings, &string).await?;
        let of_sdk = text(&mut sdk).await?;
        assert!(of_sdk.starts_with(r#"{"type":"postgres_changes","#));
        assert!(of_sdk.contains(&string), "{of_sdk}");
        // Of two subscriptions of one connection either may come first.
        let two = [text(&mut both).await?, text(&mut both).await?];
        let have = |part: &str| two.iter().filter(|text| text.contains(part)).count();
        match number == string {
            true => assert_eq!(have(&number), 2, "{two:?}"),
            false => assert_eq!((have(&number), have(&string)), (1, 1), "{two:?}"),
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_key_alone_is_a_string_too() -> Result<()> {
    let stage = stage().await?;
    let filtered = json!({ "numbers": "string", "filter": "n=eq.7,id=eq.9007199254740993" });
    let (mut leaving, _) = subscriber(&stage, filtered).await?;
    let (mut strings, _) = subscriber(&stage, json!({ "numbers": "string" })).await?;
    stage.execute(INSERT).await?;
    stage.execute("update amounts set n = 8").await?;
    expect(&mut leaving, STRING).await?;
    let left = r#""old_record":{"id":"9007199254740993"},"reason":"left"}}"#;
    expect(&mut leaving, left).await?;
    let key_only = "alter table amounts replica identity default; delete from amounts";
    stage.execute(key_only).await?;
    for part in [
        STRING,
        r#""n":8,"f""#,
        r#""old_record":{"id":"9007199254740993"}}}"#,
    ] {
        expect(&mut strings, part).await?;
    }
    Ok(())
}

#[tokio::test]
async fn the_rows_of_a_snapshot_and_what_was_missed_have_it() -> Result<()> {
    let mut stage = stage().await?;
    stage.execute(INSERT).await?;
    for (form, row) in [("number", NUMBER), ("string", STRING)] {
        let fields = json!({ "numbers": form, "snapshot": true });
        let (mut socket, ack) = subscriber(&stage, fields).await?;
        assert_eq!(ack["snapshot"], true, "{ack}");
        expect(&mut socket, &format!(r#""records":[{row}],"sent":1"#)).await?;
        expect(&mut socket, "snapshot_complete").await?;
        stage.execute("update amounts set f = f").await?;
        expect(
            &mut socket,
            &format!(r#""record":{row},"old_record":{row}"#),
        )
        .await?;
    }
    let (mut socket, ack) = subscriber(&stage, json!({})).await?;
    let since = cursor(&ack)?;
    stage.execute("delete from amounts").await?;
    expect(&mut socket, &format!(r#""old_record":{NUMBER}"#)).await?;
    // A server that has the table's columns from its log.
    stage.walcast.kill9().await?;
    stage.start_again().await?;
    stage.settled().await?;
    let mut back = Vec::new();
    for (form, row) in [("string", STRING), ("number", NUMBER)] {
        let fields = json!({ "numbers": form, "since": since });
        let (mut socket, ack) = subscriber(&stage, fields).await?;
        assert_eq!(ack["recovered"], true, "{ack}");
        expect(&mut socket, &format!(r#""old_record":{row}"#)).await?;
        expect(&mut socket, "caught_up").await?;
        back.push((socket, row));
    }
    stage.execute(INSERT).await?;
    for (mut socket, row) in back {
        expect(&mut socket, &format!(r#""record":{row}"#)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_connection_can_ask_for_all_its_subscriptions() -> Result<()> {
    let stage = stage().await?;
    let token = token(ALICE, "authenticated", 3600);
    let connect = async |numbers: &str| {
        let path = format!("/realtime?token={token}&numbers={numbers}");
        Socket::connect(&stage.walcast.websocket(&path)).await
    };
    let mut strings = connect("string").await?;
    let ack = subscribe(&mut strings, amounts(json!({}))).await?;
    assert_eq!(ack["numbers"], "string", "{ack}");
    let mut numbers = connect("string").await?;
    let ack = subscribe(&mut numbers, amounts(json!({ "numbers": "number" }))).await?;
    assert_eq!(ack["numbers"], Value::Null, "{ack}");
    let mut plain = connect("number").await?;
    subscribe(&mut plain, amounts(json!({}))).await?;
    stage.execute(INSERT).await?;
    expect(&mut strings, STRING).await?;
    expect(&mut numbers, NUMBER).await?;
    expect(&mut plain, NUMBER).await?;

    // Nobody is given wrong numbers for a slip of the pen in the URL.
    let mut mistaken = connect("strings").await?;
    let mut request = amounts(json!({}));
    request["type"] = "subscribe".into();
    let answer = ask(&mut mistaken, request).await?;
    assert_eq!(answer["code"], "SUBSCRIPTION_FAILED", "{answer}");
    assert_eq!(answer["channel"], "table:amounts", "{answer}");
    let text = answer["message"].as_str().context("a message")?;
    assert!(text.contains("in the URL") && text.contains("number or string"));
    subscribe(&mut mistaken, amounts(json!({ "numbers": "string" }))).await?;
    stage.execute("update amounts set n = 8").await?;
    expect(&mut mistaken, &format!(r#""old_record":{STRING}"#)).await
}

#[tokio::test]
async fn an_unknown_form_is_refused() -> Result<()> {
    let stage = stage().await?;
    let mut socket = stage.connect(ALICE).await?;
    let mut request = amounts(json!({ "numbers": "bigint" }));
    request["type"] = "subscribe".into();
    let answer = ask(&mut socket, request).await?;
    let expected = json!({
        "type": "error", "code": "SUBSCRIPTION_FAILED", "channel": "table:amounts",
        "message": "unknown form of numbers (use number or string)",
        "error": "unknown form of numbers (use number or string)",
    });
    assert_eq!(answer, expected);
    Ok(())
}
