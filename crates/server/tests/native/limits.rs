//! What one client may take, and that the others don't feel it.

use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::{Message, Socket, eventually};

use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, closed_for, subscribe, token};

#[tokio::test]
async fn connections_of_one_user_and_of_one_address() -> Result<()> {
    let settings = [
        ("connections_per_user_max", "2"),
        ("connections_per_address_max", "4"),
    ];
    let stage = Stage::new(&settings).await?;
    let mut open: Vec<Socket> = Vec::new();
    for _ in 0..2 {
        open.push(stage.subscriber(ALICE, "table:notes").await?);
    }
    let mut third = stage.connect(ALICE).await?;
    assert_eq!(third.next_json(DEADLINE).await?["code"], "RATE_LIMITED");
    assert_eq!(third.closed(DEADLINE).await?.0, 4029);
    drop(third);
    // The third one's place is free when the server has seen its end.
    let bob = || {
        eventually(DEADLINE, async || {
            stage.subscriber(BOB, "table:notes").await.ok()
        })
    };
    for _ in 0..2 {
        open.push(bob().await?);
    }
    let mut fifth = stage.connect("somebody else").await?;
    assert_eq!(fifth.next_json(DEADLINE).await?["code"], "RATE_LIMITED");
    // A place that is given back can be taken again.
    open.pop();
    bob().await.map(drop)
}

#[tokio::test]
async fn subscriptions_and_messages() -> Result<()> {
    let settings = [
        ("subscriptions_per_connection_max", "2"),
        ("messages_per_minute_max", "10"),
    ];
    let stage = Stage::new(&settings).await?;
    let mut socket = stage.connect(ALICE).await?;
    for filter in ["id=eq.1", "id=eq.2"] {
        subscribe(
            &mut socket,
            json!({ "channel": "table:notes", "filter": filter }),
        )
        .await?;
    }
    let again = subscribe(
        &mut socket,
        json!({ "channel": "table:notes", "filter": "id=eq.1" }),
    )
    .await?;
    assert_eq!(
        again["status"], "subscribed",
        "the same one is no third one"
    );
    let third = json!({ "type": "subscribe", "channel": "table:notes" });
    assert_eq!(
        ask(&mut socket, third.clone()).await?["code"],
        "RATE_LIMITED"
    );
    let ended = ask(
        &mut socket,
        json!({ "type": "unsubscribe", "channel": "table:notes" }),
    )
    .await?;
    assert_eq!(ended["status"], "unsubscribed");
    assert_eq!(ask(&mut socket, third).await?["type"], "ack");
    for _ in 0..4 {
        assert_eq!(
            ask(&mut socket, json!({ "type": "ping" })).await?["type"],
            "pong"
        );
    }
    // The eleventh message, where the ten did not take so long that more are allowed by now.
    for _ in 0..100 {
        socket.send_json(&json!({ "type": "ping" })).await?;
    }
    let mut answers = Vec::new();
    for _ in 0..100 {
        answers.push(socket.next_json(DEADLINE).await?);
    }
    let limited = |answer: &Value| answer["code"] == "RATE_LIMITED";
    assert!(
        answers.iter().filter(|one| limited(one)).count() > 50,
        "{answers:?}"
    );
    stage
        .execute("insert into notes values (1, 'still heard')")
        .await?;
    assert_eq!(
        socket.next_json(DEADLINE).await?["payload"]["record"]["id"],
        1
    );
    Ok(())
}

#[tokio::test]
async fn the_same_subscription_again_is_acknowledged_where_the_stream_is() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    // Nobody subscribed to these: they are published to no one, and the place moves on all the same.
    stage.execute("insert into hidden values (1)").await?;
    let first = subscribe(&mut socket, json!({ "channel": "table:todos" })).await?;
    stage.execute("insert into notes values (1, 'x')").await?;
    let event = socket.next_json(DEADLINE).await?;
    let again = subscribe(&mut socket, json!({ "channel": "table:todos" })).await?;
    assert_eq!(first["subscription_id"], again["subscription_id"]);
    let cursor = |message: &serde_json::Value| -> walcast_change::Cursor {
        let text = message["cursor"].as_str().unwrap_or_default();
        let position: walcast_change::Position = text.parse().expect("a position");
        position.cursor
    };
    assert!(cursor(&first) <= cursor(&event["payload"]));
    assert!(cursor(&event["payload"]) <= cursor(&again));
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 's')"
        ))
        .await?;
    let own = ("todos", format!("'{ALICE}'"));
    let events = stage.events_until_marks(&mut socket, 2, own).await?;
    assert_eq!(events.len(), 1, "{events:?}");
    Ok(())
}

#[tokio::test]
async fn an_ended_subscription_is_silent() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:todos").await?;
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    ask(
        &mut socket,
        json!({ "type": "unsubscribe", "channel": "table:todos" }),
    )
    .await?;
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 's')"
        ))
        .await?;
    assert!(stage.events_until_mark(&mut socket, 1).await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn the_fluxbase_sdks_forms() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.connect(ALICE).await?;
    let config =
        json!({ "event": "INSERT", "schema": "public", "table": "notes", "filter": "id=gt.1" });
    let ack = subscribe(
        &mut socket,
        json!({ "channel": "any name", "config": config }),
    )
    .await?;
    let id = ack["payload"]["subscription_id"].clone();
    assert!(id.is_string());
    socket.send_json(&json!({ "type": "heartbeat" })).await?;
    stage
        .execute("insert into notes values (1, 'no'), (2, 'yes')")
        .await?;
    let event = socket.next_json(DEADLINE).await?;
    assert_eq!(event["type"], "postgres_changes");
    assert_eq!(event["payload"]["eventType"], "INSERT");
    assert_eq!(event["payload"]["record"]["id"], 2);
    let ended = json!({ "type": "unsubscribe", "channel": "any name", "subscription_id": id });
    assert_eq!(
        ask(&mut socket, ended).await?["payload"]["unsubscribed"],
        true
    );
    assert_eq!(socket.closed(DEADLINE).await?.0, 1000);
    Ok(())
}

#[tokio::test]
async fn a_slow_reader_is_cut_and_the_others_get_everything() -> Result<()> {
    // A transaction below fits: a busy machine's reader is not to be cut for being a moment late. And where
    // the rows come slowly, it is not for a write that waits that the other one is cut.
    let settings = [("outbox_bytes_max", "2MiB"), ("write_timeout", "2m")];
    let stage = Stage::new(&settings).await?;
    // It never reads: the kernel's buffers fill up first, then the outbox.
    let mut slow = stage.narrow_subscriber(BOB, "table:notes").await?;
    let mut good = stage.subscriber(ALICE, "table:notes").await?;
    const ROWS: i64 = 3000;
    for first in (0..ROWS).step_by(100) {
        stage
            .execute(&format!(
                "insert into notes select i, repeat('x', 10000) from generate_series({first}, {}) i",
                first + 99
            ))
            .await?;
        for id in first..first + 100 {
            assert_eq!(
                good.next_json(DEADLINE).await?["payload"]["record"]["id"],
                id
            );
        }
    }
    let (code, reason) = slow
        .closed(DEADLINE)
        .await
        .unwrap_or((1006, "cut while it did not read".into()));
    assert!(code == 4008 || code == 1006, "{code} {reason}");
    closed_for(&stage, "slow", 1).await
}

#[tokio::test]
async fn a_reader_that_stands_still_is_told_so_once_it_reads_again() -> Result<()> {
    let settings = [("outbox_bytes_max", "1GiB"), ("write_timeout", "8s")];
    let stage = Stage::new(&settings).await?;
    let mut slow = stage.narrow_subscriber(ALICE, "table:notes").await?;
    let mut first = 0;
    let ended = "walcast_connections_closed_total{kind=\"slow\"} 1";
    eventually(DEADLINE, async || {
        // Until the kernel's buffers are full, whatever they take.
        if first < 5000 {
            let rows = format!(
                "insert into notes select i, repeat('x', 10000) from generate_series({first}, {}) i",
                first + 99
            );
            stage.execute(&rows).await.ok()?;
            first += 100;
        }
        let (_, metrics) = stage.walcast.get("/metrics").await.ok()?;
        metrics.contains(ended).then_some(())
    })
    .await?;
    let (code, reason) = slow
        .closed(DEADLINE)
        .await
        .unwrap_or((1006, "it came too late to be told".into()));
    assert!(code == 4008 || code == 1006, "{code} {reason}");
    Ok(())
}

#[tokio::test]
async fn silence_is_ended_and_life_is_not() -> Result<()> {
    // A client is alive that answers within some seconds, whatever else the machine does.
    let stage = Stage::new(&[("idle_timeout", "12s"), ("ping_interval", "500ms")]).await?;
    let mut alive = stage.subscriber(ALICE, "table:notes").await?;
    // Never read, it answers no ping.
    let _silent = stage.connect(BOB).await?;
    let idle_closed = "walcast_connections_closed_total{kind=\"idle\"} 1";
    let ended = eventually(DEADLINE, async || {
        // Reading lets the client answer pings, which is all that it does.
        let read = tokio::time::timeout(Duration::from_millis(100), alive.next(DEADLINE)).await;
        assert!(read.is_err(), "nothing but pings comes: {read:?}");
        let (_, metrics) = stage.walcast.get("/metrics").await.ok()?;
        metrics.contains(idle_closed).then_some(())
    });
    ended.await?;
    stage.execute("insert into notes values (1, 'x')").await?;
    assert_eq!(
        alive.next_json(DEADLINE).await?["payload"]["record"]["id"],
        1
    );
    Ok(())
}

#[tokio::test]
async fn pings_are_answered_and_a_close_is_returned() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.connect(ALICE).await?;
    socket.send(Message::Ping("are you there".into())).await?;
    assert_eq!(
        ask(&mut socket, json!({ "type": "ping" })).await?["type"],
        "pong"
    );
    socket.send(Message::Close(None)).await?;
    assert_eq!(socket.closed(DEADLINE).await?.0, 1000);
    Ok(())
}

#[tokio::test]
async fn stopping_tells_the_clients() -> Result<()> {
    let mut stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    let mut nobody = stage
        .connect_with_token(&token(BOB, "authenticated", 3600))
        .await?;
    let status = stage.walcast.terminate().await?;
    assert!(status.success(), "{status}");
    assert_eq!(socket.closed(DEADLINE).await?.0, 1001);
    assert_eq!(nobody.closed(DEADLINE).await?.0, 1001);
    Ok(())
}
