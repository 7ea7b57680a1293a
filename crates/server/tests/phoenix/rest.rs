//! Broadcasts over HTTP.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::phone::{Phone, Version, as_user};
use crate::stage::{ALICE, BOB, DEADLINE, Stage, subscribe, token};

const ROOM: &str = "realtime:room";
const JSON: (&str, &str) = ("content-type", "application/json");

struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

async fn request(
    stage: &Stage,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Reply> {
    let mut stream = TcpStream::connect(stage.walcast.address()).await?;
    let mut head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n",
        body.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes()).await?;
    // A refusal may come before all of it is sent.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    // One that is refused early ends with a reset: the rest of its body was not read.
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await?;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("a head")?;
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1))
        .context("a status")?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    Ok(Reply {
        status: status.parse()?,
        headers: headers
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}

fn bearer(user: &str) -> String {
    format!("Bearer {}", token(user, "authenticated", 3600))
}

#[tokio::test]
async fn batches_and_single_messages_reach_every_dialect() -> Result<()> {
    let stage = Stage::new(&[("api_keys", "sb_publishable_x=anon")]).await?;
    let mut old = Phone::connect(&stage, Version::V1).await?;
    let mut new = Phone::connect(&stage, Version::V2).await?;
    let mut native = stage.connect(BOB).await?;
    for phone in [&mut old, &mut new] {
        phone.join(ROOM, json!({ "config": {} })).await?;
    }
    subscribe(&mut native, json!({ "channel": "broadcast:room" })).await?;
    let batch = json!({ "messages": [
        { "topic": "room", "event": "e", "payload": { "n": 1 }, "id": "i" },
        { "topic": "nobody", "event": "e", "payload": {} },
        { "topic": "room", "event": "f", "payload": {}, "private": false },
    ] });
    for prefix in ["", "/realtime/v1"] {
        let path = format!("{prefix}/api/broadcast?apikey=x&vsn=2.0.0");
        let authorization = bearer(ALICE);
        for key in [
            ("authorization", &*authorization),
            ("apikey", "sb_publishable_x"),
        ] {
            let reply = request(
                &stage,
                "POST",
                &path,
                &[key, JSON],
                batch.to_string().as_bytes(),
            )
            .await?;
            assert_eq!((reply.status, &*reply.body), (202, ""));
            assert_eq!(reply.headers["access-control-allow-origin"], "*");
            for phone in [&mut old, &mut new] {
                let first = phone.expect(ROOM, "broadcast").await?;
                assert_eq!(
                    first,
                    json!({ "type": "broadcast", "event": "e", "payload": { "n": 1 }, "meta": { "id": "i" } })
                );
                assert_eq!(phone.expect(ROOM, "broadcast").await?["event"], "f");
            }
            assert_eq!(native.next_json(DEADLINE).await?["event"], "e");
            assert_eq!(native.next_json(DEADLINE).await?["event"], "f");
        }
        let path = format!("{prefix}/api/broadcast/room/events/an%20event");
        let headers = [("apikey", "sb_publishable_x"), JSON];
        let reply = request(&stage, "POST", &path, &headers, br#"{"a":1.10}"#).await?;
        assert_eq!((reply.status, &*reply.body), (202, ""));
        let headers = [
            ("apikey", "sb_publishable_x"),
            ("content-type", "application/octet-stream"),
        ];
        assert_eq!(
            request(&stage, "POST", &path, &headers, &[7]).await?.status,
            202
        );
        for phone in [&mut old, &mut new] {
            let heard = phone.expect(ROOM, "broadcast").await?;
            assert_eq!(
                heard,
                json!({ "type": "broadcast", "event": "an event", "payload": { "a": 1.1 } })
            );
        }
        assert_eq!(new.expect(ROOM, "broadcast").await?["payload"], json!([7]));
        native.next_json(DEADLINE).await?;
        assert_eq!(native.next_json(DEADLINE).await?["payload"], "Bw==");
    }
    old.silent().await
}

#[tokio::test]
async fn what_is_refused() -> Result<()> {
    let limits = [
        ("supabase_message_bytes_max", "1KiB"),
        ("http_broadcasts_per_second_max", "1"),
    ];
    let stage = Stage::new(&limits).await?;
    let authorization = bearer(ALICE);
    let key = ("authorization", &*authorization);
    let batch = "/api/broadcast";
    let single = "/api/broadcast/room/events/e";
    let many =
        json!({ "messages": vec![json!({ "topic": "t", "event": "e", "payload": {} }); 11] })
            .to_string();
    let long = "x".repeat(2000);
    let message = |text: &str| json!({ "message": text });
    let blank = json!({ "errors": { "messages": [{ "payload": ["can't be blank"] }] } });
    let expired = format!("Bearer {}", token(ALICE, "authenticated", -600));
    for (path, headers, body, status, expected) in [
        (batch, vec![JSON], "{}", 401, message("Unauthorized")),
        (
            batch,
            vec![("authorization", &*expired)],
            "{}",
            401,
            message("Unauthorized"),
        ),
        (
            batch,
            vec![key],
            r#"{"messages":[{"topic":"t","event":"e"}]}"#,
            422,
            blank,
        ),
        (batch, vec![key], &long, 413, message("Payload Too Large")),
        (
            batch,
            vec![key],
            &many,
            429,
            message("Too many messages to broadcast, please reduce the batch size"),
        ),
        (
            single,
            vec![key, JSON],
            "[1",
            422,
            json!({ "errors": { "payload": ["is invalid"] } }),
        ),
        (
            "/api/broadcast/%20/events/e",
            vec![key, JSON],
            "{}",
            422,
            json!({ "errors": { "topic": ["is invalid"] } }),
        ),
        (
            single,
            vec![key, ("content-type", "text/plain")],
            "{}",
            415,
            json!({ "error": "Unsupported Media Type. Use application/json or application/octet-stream" }),
        ),
    ] {
        let reply = request(&stage, "POST", path, &headers, body.as_bytes()).await?;
        assert_eq!(
            (reply.status, reply.json()),
            (status, expected),
            "{path} {body}"
        );
        assert_eq!(reply.headers["access-control-allow-origin"], "*");
    }
    let mut over = None;
    for _ in 0..300 {
        let reply = request(&stage, "POST", single, &[key, JSON], b"{}").await?;
        if reply.status != 202 {
            over = Some((reply.status, reply.json()));
            break;
        }
    }
    assert_eq!(
        over,
        Some((429, message("You have exceeded your rate limit")))
    );
    assert_eq!(request(&stage, "GET", batch, &[], b"").await?.status, 405);
    let preflight = request(
        &stage,
        "OPTIONS",
        single,
        &[("origin", "https://a.example")],
        b"",
    )
    .await?;
    assert_eq!(preflight.status, 204);
    assert!(preflight.headers["access-control-allow-headers"].contains("apikey"));
    Ok(())
}

#[tokio::test]
async fn private_messages_need_the_right_to_write() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute("create policy reads on realtime.messages for select to authenticated using (true);
                  create policy writes on realtime.messages for insert to authenticated with check (realtime.topic() = 'open')")
        .await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    for topic in ["realtime:open", "realtime:shut"] {
        phone
            .join(topic, as_user(BOB, json!({ "private": true })))
            .await?;
    }
    let authorization = bearer(ALICE);
    let headers = [("authorization", &*authorization), JSON];
    let message = |topic: &str, event: &str| json!({ "topic": topic, "event": event, "payload": {}, "private": true });
    let batch = json!({ "messages": [message("shut", "a"), message("open", "b")] }).to_string();
    let reply = request(&stage, "POST", "/api/broadcast", &headers, batch.as_bytes()).await?;
    assert_eq!(reply.status, 202);
    assert_eq!(
        phone.expect("realtime:open", "broadcast").await?["event"],
        "b"
    );
    for (topic, status) in [("shut", 403), ("open", 202)] {
        let path = format!("/api/broadcast/{topic}/events/c?private=true");
        let reply = request(&stage, "POST", &path, &headers, b"{}").await?;
        assert_eq!(reply.status, status, "{}", reply.body);
    }
    assert_eq!(
        phone.expect("realtime:open", "broadcast").await?["event"],
        "c"
    );
    phone.silent().await
}

#[tokio::test]
async fn the_document_describes_what_is_there() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for prefix in ["", "/realtime/v1"] {
        let reply = request(&stage, "GET", &format!("{prefix}/api/openapi"), &[], b"").await?;
        assert_eq!(reply.status, 200);
        let document = reply.json();
        let paths = document["paths"].as_object().context("paths")?;
        assert_eq!(paths.len(), 2);
        for (path, item) in paths {
            let path = path.replace("{topic}", "room").replace("{event}", "e");
            let reply = request(&stage, "POST", &format!("{prefix}{path}"), &[JSON], b"{}").await?;
            assert_eq!(reply.status, 401, "{path} is there, and wants a token");
            let documented = &item["post"]["responses"];
            for status in ["202", "401", "413", "422", "429"] {
                assert!(documented[status].is_object(), "{path} {status}");
            }
        }
    }
    Ok(())
}
