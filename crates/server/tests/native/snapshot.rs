//! Subscriptions that begin with the rows that are there.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_harness::Socket;

use crate::stage::{ALICE, BOB, DEADLINE, Stage, subscribe};

/// The records of a snapshot and its last message; nothing else may come between.
async fn snapshot(socket: &mut Socket, fields: Value) -> Result<(Vec<Value>, Value)> {
    let (records, events, done) = snapshot_and_events(socket, fields).await?;
    assert!(events.is_empty(), "{events:?}");
    Ok((records, done))
}

/// The records, the events since that came before the last message, and this.
async fn snapshot_and_events(
    socket: &mut Socket,
    fields: Value,
) -> Result<(Vec<Value>, Vec<Value>, Value)> {
    let mut request = fields;
    request["snapshot"] = true.into();
    let ack = subscribe(socket, request).await?;
    assert_eq!(ack["snapshot"], true, "{ack}");
    let mut records = Vec::new();
    let mut events = Vec::new();
    loop {
        let message = socket.next_json(DEADLINE).await?;
        if message["event"] == "snapshot_complete" {
            assert_eq!(message["count"], records.len(), "{message}");
            return Ok((records, events, message));
        }
        if message["type"] == "broadcast" {
            events.push(message);
            continue;
        }
        assert!(events.is_empty(), "rows come first: {message}");
        let chunk = message["payload"]["records"].as_array();
        records.extend(chunk.with_context(|| format!("rows in {message}"))?.clone());
    }
}

fn ids(records: &[Value]) -> Vec<i64> {
    let mut ids: Vec<_> = records
        .iter()
        .filter_map(|row| row["id"].as_i64())
        .collect();
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn the_rows_that_may_be_seen_and_then_the_changes() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute(&format!(
            "insert into todos select n, case n % 2 when 0 then '{ALICE}' else '{BOB}' end::uuid, 'b', 's'
             from generate_series(1, 6) n"
        ))
        .await?;
    let mut socket = stage.connect(ALICE).await?;
    let (rows, done) = snapshot(&mut socket, json!({ "channel": "table:todos" })).await?;
    assert_eq!(ids(&rows), [2, 4, 6]);
    let row = rows.iter().find(|row| row["id"] == 2);
    assert_eq!(
        row,
        Some(&json!({ "id": 2, "user_id": ALICE, "body": "b" })),
        "no column without privilege"
    );
    assert!(done["cursor"].is_string());
    stage
        .execute("update todos set body = 'c' where id in (1, 2)")
        .await?;
    let event = socket.next_json(DEADLINE).await?;
    assert_eq!(event["payload"]["record"]["id"], 2, "{event}");
    let mut socket = stage.connect(BOB).await?;
    let filtered = json!({ "channel": "table:todos", "filter": "id=gt.3" });
    assert_eq!(ids(&snapshot(&mut socket, filtered).await?.0), [5]);
    Ok(())
}

#[tokio::test]
async fn many_rows_come_in_parts_and_a_table_may_be_empty() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.connect(ALICE).await?;
    let notes = || json!({ "channel": "table:notes" });
    assert_eq!(ids(&snapshot(&mut socket, notes()).await?.0), [0i64; 0]);
    stage
        .execute("insert into notes select n, repeat('x', 500) from generate_series(1, 20000) n")
        .await?;
    let mut socket = stage.connect(ALICE).await?;
    let (rows, _) = snapshot(&mut socket, notes()).await?;
    assert_eq!(ids(&rows), (1..=20000).collect::<Vec<i64>>());
    Ok(())
}

/// As by a page that is drawn twice: it is one subscription, and has its rows.
#[tokio::test]
async fn asking_again_while_the_rows_are_read_takes_nothing_away() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute("insert into notes select n, repeat('x', 500) from generate_series(1, 20000) n")
        .await?;
    let mut socket = stage.connect(ALICE).await?;
    for snapshot in [true, false] {
        let request =
            json!({ "type": "subscribe", "channel": "table:notes", "snapshot": snapshot });
        socket.send_json(&request).await?;
    }
    let done = |message: &Value| message["event"] == "snapshot_complete";
    assert_eq!(socket.expect(done, DEADLINE).await?["count"], 20000);
    stage
        .execute("insert into notes values (20001, 'x')")
        .await?;
    let event = socket
        .expect(|message| message["type"] == "broadcast", DEADLINE)
        .await?;
    assert_eq!(event["payload"]["record"]["id"], 20001, "{event}");
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_read_is_refused() -> Result<()> {
    let stage = Stage::new(&[("snapshot_rows_max", "3")]).await?;
    stage
        .execute("insert into notes select n, 'x' from generate_series(1, 4) n")
        .await?;
    let mut socket = stage.connect(ALICE).await?;
    for (channel, code) in [
        ("table:public.*", "SNAPSHOT_FAILED"),
        ("table:hidden", "FORBIDDEN"),
        ("table:nowhere", "FORBIDDEN"),
        ("table:notes", "SNAPSHOT_TOO_LARGE"),
    ] {
        let request = json!({ "type": "subscribe", "channel": channel, "snapshot": true });
        socket.send_json(&request).await?;
        let answer = socket
            .expect(|message| message["type"] == "error", DEADLINE)
            .await?;
        assert_eq!(answer["code"], code, "{answer}");
    }
    // Nothing is left of it: the same subscription can begin anew.
    let notes = json!({ "channel": "table:notes", "filter": "id=eq.1" });
    assert_eq!(ids(&snapshot(&mut socket, notes).await?.0), [1]);
    Ok(())
}

/// Takes an event into what a client shows.
fn apply(shown: &mut BTreeMap<i64, String>, event: &Value) -> Result<()> {
    let row = |name: &str| event["payload"][name].clone();
    let id = |row: &Value| row["id"].as_i64().context("an id");
    match event["payload"]["type"].as_str() {
        Some("DELETE") => {
            let gone = shown.remove(&id(&row("old_record"))?);
            anyhow::ensure!(gone.is_some(), "a delete of what was not there: {event}");
        }
        Some("INSERT") => {
            let record = row("record");
            let body = record["body"].as_str().context("a body")?;
            let before = shown.insert(id(&record)?, body.to_owned());
            anyhow::ensure!(before.is_none(), "an insert of what was there: {event}");
        }
        Some("UPDATE") => {
            let record = row("record");
            let body = record["body"].as_str().context("a body")?;
            let before = shown.insert(id(&record)?, body.to_owned());
            anyhow::ensure!(before.is_some(), "an update of what was not there: {event}");
        }
        _ => anyhow::bail!("not an event of a row: {event}"),
    }
    Ok(())
}

#[tokio::test]
async fn rows_and_changes_meet_without_a_gap_or_a_repetition() -> Result<()> {
    const ROUNDS: i32 = 400;
    const ROUNDS_MAX: i32 = 99_000;
    const END: i64 = 99_999;
    const SNAPSHOTS: usize = 5;
    let taken = AtomicUsize::new(0);
    let stage = Stage::new(&[("connections_per_user_max", "0")]).await?;
    stage
        .execute("insert into notes select n, '0' from generate_series(-200, -1) n")
        .await?;
    let writing = async {
        for n in 1..=ROUNDS_MAX {
            if n > ROUNDS && taken.load(Ordering::Relaxed) >= SNAPSHOTS {
                break;
            }
            let (old, id) = (n - 10, n);
            stage
                .execute(&format!(
                    "begin; insert into notes values ({id}, 'a'); update notes set body = '{n}' where id = {id} - 201;
                     delete from notes where id = {old}; commit"
                ))
                .await?;
        }
        stage
            .execute(&format!("insert into notes values ({END}, 'end')"))
            .await
    };
    let reading = async {
        let mut seen: Vec<tokio::task::JoinHandle<Result<_>>> = Vec::new();
        loop {
            let mut socket = stage.connect(ALICE).await?;
            let notes = json!({ "channel": "table:notes" });
            let (rows, events, _) = snapshot_and_events(&mut socket, notes).await?;
            let mut shown = BTreeMap::new();
            for row in &rows {
                let id = row["id"].as_i64().context("an id")?;
                let body = row["body"].as_str().context("a body")?;
                shown.insert(id, body.to_owned());
            }
            for event in &events {
                apply(&mut shown, event)?;
            }
            let ended = shown.contains_key(&END);
            // It goes on reading, or it would be cut.
            seen.push(tokio::spawn(async move {
                while !shown.contains_key(&END) {
                    let event = socket.next_json(DEADLINE).await?;
                    apply(&mut shown, &event)?;
                }
                Ok(shown)
            }));
            taken.store(seen.len(), Ordering::Relaxed);
            if ended {
                return anyhow::Ok(seen);
            }
        }
    };
    let (written, seen) = tokio::join!(writing, reading);
    written?;
    let seen = seen?;
    assert!(
        seen.len() >= SNAPSHOTS,
        "only {} snapshots beside the writer",
        seen.len()
    );
    let rows = stage.sql.query("select id, body from notes", &[]).await?;
    let table: BTreeMap<i64, String> = rows
        .iter()
        .map(|row| (i64::from(row.get::<_, i32>(0)), row.get(1)))
        .collect();
    for client in seen {
        assert_eq!(client.await??, table);
    }
    Ok(())
}
