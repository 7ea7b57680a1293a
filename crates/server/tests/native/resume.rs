//! Clients that come back and go on from their last cursor.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_harness::{Postgres, Socket, eventually};

use crate::stage::{ALICE, BOB, DEADLINE, Stage, subscribe};

/// With a slot that outlives the server.
pub(crate) async fn durable() -> Result<Stage> {
    let postgres = Postgres::shared().await;
    Stage::on(postgres, &[("slot_mode", "durable")]).await
}

pub(crate) fn cursor(message: &Value) -> Result<String> {
    let inner = message["payload"]["cursor"].as_str();
    let text = inner.or(message["cursor"].as_str());
    Ok(text
        .with_context(|| format!("a cursor in {message}"))?
        .to_owned())
}

/// The ids of the rows that come before `caught_up`, and its cursor.
pub(crate) async fn missed(socket: &mut Socket) -> Result<(Vec<i64>, String)> {
    let mut ids = Vec::new();
    loop {
        // Who is far back goes on in another walk now and then, and waits for its turn there.
        let message = socket.next_json(4 * DEADLINE).await?;
        if message["event"] == "caught_up" {
            return Ok((ids, cursor(&message)?));
        }
        let id = message["payload"]["record"]["id"].as_i64();
        ids.push(id.with_context(|| format!("a record in {message}"))?);
    }
}

pub(crate) async fn resume(
    stage: &Stage,
    user: &str,
    channel: &str,
    since: &str,
) -> Result<(Socket, Value)> {
    let mut socket = stage.connect(user).await?;
    let request = json!({ "channel": channel, "since": since });
    let ack = subscribe(&mut socket, request).await?;
    Ok((socket, ack))
}

async fn refused(stage: &Stage, request: Value) -> Result<Value> {
    let mut socket = stage.connect(ALICE).await?;
    let mut message = json!({ "type": "subscribe" });
    for (name, value) in request.as_object().context("an object")? {
        message[name] = value.clone();
    }
    socket.send_json(&message).await?;
    socket.next_json(DEADLINE).await
}

#[tokio::test]
async fn what_was_missed_comes_in_order_and_then_what_is_live() -> Result<()> {
    let stage = durable().await?;
    let mut socket = stage.subscriber(ALICE, "table:todos").await?;
    let insert = |from: i32, to: i32| {
        format!(
            "insert into todos select n, case n % 2 when 0 then '{ALICE}' else '{BOB}' end::uuid, 'x'
             from generate_series({from}, {to}) n"
        )
    };
    stage.execute(&insert(1, 4)).await?;
    let first = socket.next_json(DEADLINE).await?;
    assert_eq!(first["payload"]["record"]["id"], 2);
    drop(socket);
    stage.execute(&insert(5, 8)).await?;
    stage.execute(&insert(9, 10)).await?;
    stage.settled().await?;
    let (mut socket, ack) = resume(&stage, ALICE, "table:todos", &cursor(&first)?).await?;
    assert_eq!(ack["recovered"], true, "{ack}");
    let (ids, at) = missed(&mut socket).await?;
    assert_eq!(ids, [4, 6, 8, 10]);
    stage.execute(&insert(11, 12)).await?;
    let live = socket.next_json(DEADLINE).await?;
    assert_eq!(live["payload"]["record"]["id"], 12);
    // From where it was caught up nothing is missing but what came since.
    let (mut socket, _) = resume(&stage, ALICE, "table:todos", &at).await?;
    assert_eq!(missed(&mut socket).await?.0, [12]);
    let (mut socket, _) = resume(&stage, ALICE, "table:todos", &cursor(&live)?).await?;
    assert_eq!(missed(&mut socket).await?.0, [0i64; 0]);
    Ok(())
}

#[tokio::test]
async fn what_was_committed_while_no_server_ran_is_not_lost() -> Result<()> {
    let mut stage = durable().await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    stage.execute("insert into notes values (1, 'x')").await?;
    let before = socket.next_json(DEADLINE).await?;
    for round in 0..3 {
        stage.walcast.kill9().await?;
        let id = 2 + round;
        stage
            .execute(&format!("insert into notes values ({id}, 'x')"))
            .await?;
        stage.start_again().await?;
        let (mut socket, _) = resume(&stage, ALICE, "table:notes", &cursor(&before)?).await?;
        let expected: Vec<i64> = (2..=id).collect();
        // The stream may still be on its way: then the last ones come live.
        let (mut ids, _) = missed(&mut socket).await?;
        while ids.len() < expected.len() {
            let live = socket.next_json(DEADLINE).await?;
            ids.extend(live["payload"]["record"]["id"].as_i64());
        }
        assert_eq!(ids, expected);
    }
    Ok(())
}

#[tokio::test]
async fn coming_back_again_and_again_under_load_loses_and_repeats_nothing() -> Result<()> {
    const ROWS: i64 = 3000;
    let stage = durable().await?;
    let mut socket = stage.connect(ALICE).await?;
    let ack = subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    let mut at = cursor(&ack)?;
    let writing = async {
        for n in 1..=ROWS {
            let row = "insert into notes values ($1, 'x')";
            stage.sql.execute(row, &[&(n as i32)]).await?;
        }
        anyhow::Ok(())
    };
    let reading = async {
        let mut expected = 1;
        let mut taken = 0;
        while expected <= ROWS {
            let message = socket.next_json(DEADLINE).await?;
            if message["event"] == "caught_up" {
                at = cursor(&message)?;
                continue;
            }
            let id = message["payload"]["record"]["id"].as_i64();
            assert_eq!(id, Some(expected), "{message}");
            expected += 1;
            taken += 1;
            at = cursor(&message)?;
            if taken == 40 {
                taken = 0;
                (socket, _) = resume(&stage, ALICE, "table:notes", &at).await?;
            }
        }
        anyhow::Ok(())
    };
    let (written, read) = tokio::join!(writing, reading);
    written?;
    read
}

#[tokio::test]
async fn a_crowd_comes_back_at_once() -> Result<()> {
    const CLIENTS: usize = 200;
    let limits = [
        ("slot_mode", "durable"),
        ("connections_per_user_max", "0"),
        ("connections_per_address_max", "0"),
    ];
    let stage = Stage::on(Postgres::shared().await, &limits).await?;
    let mut first = stage.connect(ALICE).await?;
    let ack = subscribe(&mut first, json!({ "channel": "table:notes" })).await?;
    let at = cursor(&ack)?;
    let insert = "insert into notes select n, 'x' from generate_series(1, 100) n";
    stage.execute(insert).await?;
    stage.settled().await?;
    let clients = (0..CLIENTS).map(|n| {
        let (stage, at) = (&stage, &at);
        async move {
            let user = format!("00000000-0000-4000-8000-{n:012}");
            let (mut socket, _) = resume(stage, &user, "table:notes", at).await?;
            let (ids, _) = missed(&mut socket).await?;
            assert_eq!(ids, (1..=100).collect::<Vec<i64>>());
            anyhow::Ok(socket)
        }
    });
    let sockets = futures_util::future::try_join_all(clients).await?;
    stage.execute("insert into notes values (101, 'x')").await?;
    for mut socket in sockets {
        let live = socket.next_json(DEADLINE).await?;
        assert_eq!(live["payload"]["record"]["id"], 101);
    }
    Ok(())
}

#[tokio::test]
async fn filters_and_policies_of_now_decide_what_is_told_of_then() -> Result<()> {
    let stage = durable().await?;
    let mut socket = stage.connect(ALICE).await?;
    let ack = subscribe(&mut socket, json!({ "channel": "table:todos" })).await?;
    let at = cursor(&ack)?;
    let insert = format!("insert into todos select n, '{ALICE}', 'x' from generate_series(1, 9) n");
    stage.execute(&insert).await?;
    let last = |message: &Value| message["payload"]["record"]["id"] == 9;
    socket.expect(last, DEADLINE).await?;
    let mut socket = stage.connect(ALICE).await?;
    let request = json!({ "channel": "table:todos", "filter": "id=in.(3,5)", "since": at });
    subscribe(&mut socket, request).await?;
    assert_eq!(missed(&mut socket).await?.0, [3, 5]);
    stage
        .execute(
            "drop policy own_rows on todos;
             create policy few on todos for select to authenticated using (id > 7)",
        )
        .await?;
    let (mut socket, _) = resume(&stage, BOB, "table:todos", &at).await?;
    assert_eq!(missed(&mut socket).await?.0, [8, 9]);
    Ok(())
}

#[tokio::test]
async fn cursors_that_are_of_no_use_are_refused_with_the_reason() -> Result<()> {
    let mut stage = durable().await?;
    let mut socket = stage.connect(ALICE).await?;
    let ack = subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    let at = cursor(&ack)?;
    let (lsn, epoch) = at.split_once('@').context("an epoch")?;
    let other = format!(
        "{lsn}@{:08x}",
        u32::from_str_radix(epoch, 16)?.wrapping_add(1)
    );
    for (request, code) in [
        (json!({ "since": other }), "EPOCH_CHANGED"),
        (json!({ "since": lsn }), "SUBSCRIPTION_FAILED"),
        (json!({ "since": "yesterday" }), "SUBSCRIPTION_FAILED"),
        (
            json!({ "since": at, "snapshot": true }),
            "SUBSCRIPTION_FAILED",
        ),
        (json!({ "since": 5 }), "INVALID_MESSAGE"),
    ] {
        let mut request = request;
        request["channel"] = "table:notes".into();
        let answer = refused(&stage, request.clone()).await?;
        assert_eq!(answer["code"], code, "{request} {answer}");
    }
    stage.walcast.kill9().await?;
    stage.set("log_dir", "off");
    stage.start_again().await?;
    let answer = refused(&stage, json!({ "channel": "table:notes", "since": at })).await?;
    assert_eq!(answer["code"], "CURSOR_TOO_OLD", "{answer}");
    Ok(())
}

#[tokio::test]
async fn a_cursor_older_than_the_log_is_refused_with_the_oldest() -> Result<()> {
    let settings = [("slot_mode", "durable"), ("log_bytes_max", "2MiB")];
    let stage = Stage::on(Postgres::shared().await, &settings).await?;
    let mut socket = stage.connect(ALICE).await?;
    let ack = subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    let at = cursor(&ack)?;
    let answer = eventually(DEADLINE, async || {
        let rows = "insert into notes select (select coalesce(max(id), 0) from notes) + n, repeat('x', 5000)
             from generate_series(1, 200) n";
        stage.execute(rows).await.ok()?;
        let request = json!({ "channel": "table:notes", "since": at });
        let answer = refused(&stage, request).await.ok()?;
        (answer["code"] == "CURSOR_TOO_OLD").then_some(answer)
    })
    .await?;
    assert!(answer["oldest"].is_string(), "{answer}");
    // What was inserted last may still be on its way and push the oldest out.
    let mut oldest = answer["oldest"].clone();
    eventually(DEADLINE, async || {
        let request = json!({ "channel": "table:notes", "since": oldest });
        let answer = refused(&stage, request).await.ok()?;
        if answer["code"] == "CURSOR_TOO_OLD" {
            oldest = answer["oldest"].clone();
        }
        (answer["recovered"] == true).then_some(())
    })
    .await
}

/// Judging `todos` needs another table, which can be locked.
async fn of_members() -> Result<Stage> {
    let stage = durable().await?;
    stage
        .execute(&format!(
            "create table members (user_id uuid);
             grant select on members to authenticated;
             insert into members values ('{ALICE}');
             drop policy own_rows on todos;
             create policy of_members on todos for select to authenticated using (
                 exists (select from members m where m.user_id = auth.uid() and m.user_id = todos.user_id))"
        ))
        .await?;
    Ok(stage)
}

async fn nobody_is_set_aside(stage: &Stage) -> Result<bool> {
    let (_, metrics) = stage.walcast.get("/metrics").await?;
    Ok(metrics.contains("walcast_subscriptions_set_aside_total 0"))
}

async fn somebody_is_set_aside(stage: &Stage) -> Result<()> {
    eventually(DEADLINE, async || {
        let nobody = nobody_is_set_aside(stage).await.ok()?;
        (!nobody).then_some(())
    })
    .await
}

#[tokio::test]
async fn who_is_being_caught_up_may_ask_again_and_gets_nothing_twice() -> Result<()> {
    let stage = of_members().await?;
    let mut alice = stage.connect(ALICE).await?;
    let channel = json!({ "channel": "table:todos" });
    let first = subscribe(&mut alice, channel.clone()).await?;
    subscribe(&mut alice, json!({ "channel": "table:notes" })).await?;
    let insert = |id: i32| format!("insert into todos values ({id}, '{ALICE}', 'x', 's')");
    stage.execute(&insert(1)).await?;
    let event = alice.next_json(DEADLINE).await?;
    assert_eq!(event["payload"]["record"]["id"], 1);
    let postgres = Postgres::shared().await;
    let holder = postgres.connect("postgres", &stage.database).await?;
    holder
        .batch_execute("begin; lock table members in access exclusive mode")
        .await?;
    stage.execute(&insert(2)).await?;
    somebody_is_set_aside(&stage).await?;
    let again = subscribe(&mut alice, channel).await?;
    assert_eq!(again["subscription_id"], first["subscription_id"]);
    holder.batch_execute("rollback").await?;
    stage.execute(&insert(3)).await?;
    let mut ids = Vec::new();
    while ids.last() != Some(&json!(3)) {
        let event = alice.next_json(DEADLINE).await?;
        ids.push(event["payload"]["record"]["id"].clone());
    }
    assert_eq!(ids, [json!(2), json!(3)]);
    let more = stage.events_until_mark(&mut alice, 9).await?;
    assert_eq!(more, Vec::<Value>::new());
    // The second acknowledgement did not promise what had not been sent.
    let (mut socket, _) = resume(&stage, ALICE, "table:todos", &cursor(&again)?).await?;
    assert_eq!(missed(&mut socket).await?.0, [2, 3]);
    Ok(())
}

#[tokio::test]
async fn who_can_not_be_judged_for_a_while_is_caught_up_and_delays_nobody() -> Result<()> {
    let stage = of_members().await?;
    let mut alice = stage.subscriber(ALICE, "table:todos").await?;
    let mut bob = stage.subscriber(BOB, "table:notes").await?;
    let insert = |id: i32| format!("insert into todos values ({id}, '{ALICE}', 'x', 's')");
    stage.execute(&insert(1)).await?;
    assert_eq!(
        alice.next_json(DEADLINE).await?["payload"]["record"]["id"],
        1
    );
    // Whoever asks the policy from here on waits for a lock, and gives up.
    let postgres = Postgres::shared().await;
    let holder = postgres.connect("postgres", &stage.database).await?;
    holder
        .batch_execute("begin; lock table members in access exclusive mode")
        .await?;
    for id in 2..5 {
        stage.execute(&insert(id)).await?;
        stage
            .execute(&format!("insert into notes values ({id}, 'x')"))
            .await?;
        let note = bob.next_json(DEADLINE).await?;
        assert_eq!(note["payload"]["record"]["id"], id, "{note}");
    }
    somebody_is_set_aside(&stage).await?;
    holder.batch_execute("rollback").await?;
    stage.execute(&insert(5)).await?;
    for id in 2..6 {
        let event = alice.next_json(DEADLINE).await?;
        assert_eq!(event["payload"]["record"]["id"], id, "{event}");
    }
    stage.execute(&insert(6)).await?;
    let event = alice.next_json(DEADLINE).await?;
    assert_eq!(event["payload"]["record"]["id"], 6, "{event}");
    Ok(())
}

#[tokio::test]
async fn a_slow_policy_delays_its_own_table_only() -> Result<()> {
    // It takes two to find out, and more where the machine is slow itself.
    const FOUND_OUT_MAX: usize = 6;
    const ROUNDS: usize = 5;
    let stage = durable().await?;
    stage
        .execute(
            "create function slow() returns bool language plpgsql volatile as $$
             begin perform pg_sleep(2); return true; end $$;
             drop policy own_rows on todos;
             create policy slow on todos for select to authenticated using (slow())",
        )
        .await?;
    let mut alice = stage.subscriber(ALICE, "table:todos").await?;
    let mut bob = stage.subscriber(BOB, "table:notes").await?;
    let mut round = async |id: i32| {
        stage
            .execute(&format!(
                "insert into todos values ({id}, '{ALICE}', 'x', 's')"
            ))
            .await?;
        let begun = std::time::Instant::now();
        stage
            .execute(&format!("insert into notes values ({id}, 'x')"))
            .await?;
        let note = bob.next_json(DEADLINE).await?;
        assert_eq!(note["payload"]["record"]["id"], id, "{note}");
        anyhow::Ok(begun.elapsed().as_millis())
    };
    let mut ids = 0..;
    for id in ids.by_ref().take(FOUND_OUT_MAX) {
        round(id).await?;
        if !nobody_is_set_aside(&stage).await? {
            break;
        }
    }
    assert!(!nobody_is_set_aside(&stage).await?);
    let mut waits = Vec::new();
    for id in ids.by_ref().take(ROUNDS) {
        waits.push(round(id).await?);
    }
    let delayed = waits.iter().filter(|wait| **wait > 1900).count();
    assert!(delayed <= 2, "{waits:?}");
    for id in 0..ids.start {
        let event = alice.next_json(DEADLINE).await?;
        assert_eq!(event["payload"]["record"]["id"], id, "{event}");
    }
    Ok(())
}

#[tokio::test]
async fn a_truncation_that_can_not_be_judged_for_a_while_is_told_later() -> Result<()> {
    let stage = durable().await?;
    let mut bob = stage.subscriber(BOB, "table:notes").await?;
    let postgres = Postgres::shared().await;
    let holder = postgres.connect("postgres", &stage.database).await?;
    // Nobody can find out who may read what.
    holder
        .batch_execute("begin; lock table pg_catalog.pg_policy in access exclusive mode")
        .await?;
    stage.execute("truncate notes").await?;
    somebody_is_set_aside(&stage).await?;
    holder.batch_execute("rollback").await?;
    let event = bob.next_json(DEADLINE).await?;
    assert_eq!(event["payload"]["type"], "TRUNCATE", "{event}");
    Ok(())
}

#[tokio::test]
async fn who_is_set_aside_may_leave_at_once_and_hears_nothing_more() -> Result<()> {
    let stage = of_members().await?;
    let mut alice = stage.subscriber(ALICE, "table:todos").await?;
    subscribe(&mut alice, json!({ "channel": "table:notes" })).await?;
    let postgres = Postgres::shared().await;
    let holder = postgres.connect("postgres", &stage.database).await?;
    holder
        .batch_execute("begin; lock table members in access exclusive mode")
        .await?;
    let insert = |id: i32| format!("insert into todos values ({id}, '{ALICE}', 'x', 's')");
    stage.execute(&insert(1)).await?;
    somebody_is_set_aside(&stage).await?;
    // Its table is asked about for half a minute, in which nobody else has a say there.
    let leave = json!({ "type": "unsubscribe", "channel": "table:todos" });
    alice.send_json(&leave).await?;
    let answer = alice
        .next_json(std::time::Duration::from_secs(25))
        .await
        .context("it is waited for the table")?;
    assert_eq!(answer["status"], "unsubscribed", "{answer}");
    holder.batch_execute("rollback").await?;
    stage.execute(&insert(2)).await?;
    let more = stage.events_until_mark(&mut alice, 9).await?;
    assert_eq!(more, Vec::<Value>::new());
    Ok(())
}
