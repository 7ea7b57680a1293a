//! Postgres restarts, crashes, is another one, or an older one of itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::sleep;
use walcast_harness::{
    Postgres, Proxy, Role, Socket, StopMode, Subscriber, Weather, Writer, eventually,
};

use crate::report::{by_form, within};
use crate::stage::{DEADLINE, DURABLE, OWNERS, PATIENT, SECRET, SLOT, Stage, usual};

/// From the moment Postgres accepts connections to the first event.
const RECOVERY: Duration = Duration::from_secs(3);
/// Nobody can be judged while Postgres is away. After half a minute of trying clients are told so, by a
/// gap: a disk that is so slow shows only that they are, and that nothing is wrong afterwards.
const UNTOLD: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a6_restarted_under_load() -> Result<()> {
    restarts("A6 Postgres restart", StopMode::Fast, by_form(2, 10)).await
}

/// The slot may have forgotten what was acknowledged: it is sent again, and nobody may get it twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a7_crashes_after_acknowledgements() -> Result<()> {
    restarts("A7 Postgres crash", StopMode::Immediate, by_form(2, 10)).await
}

async fn restarts(scenario: &'static str, mode: StopMode, times: usize) -> Result<()> {
    let mut stage = Stage::new(scenario, DURABLE, PATIENT).await?;
    stage.record(12).await?;
    // Longer than all of it takes on a slow disk: each restart waits for a new event.
    let load = stage.load(usual(3600)).await?;
    let mut stops = Vec::new();
    for _ in 0..times {
        sleep(Duration::from_millis(1500)).await;
        // The table's key is asked for once, when the stream first tells of the table. A server that was
        // kept from running until Postgres is gone has to take the whole row for it.
        stage.quiet().await?;
        let stopping = Instant::now();
        stage.postgres.stop(mode).await?;
        stops.push(stopping.elapsed().as_secs());
        let events: Vec<_> = stage.recorders.iter().map(|one| one.now().events).collect();
        stage.postgres.start_again().await?;
        let begin = Instant::now();
        stage.gaps_allowed |= stopping.elapsed() > UNTOLD;
        let first = stage
            .recorders
            .iter()
            .zip(events)
            .map(|(recorder, events)| {
                Box::pin(recorder.heeds(move |heed| heed.events > events, DEADLINE))
            });
        futures_util::future::select_ok(first).await?;
        stage.figures.first.push(begin.elapsed());
        stage.figures.faults += 1;
    }
    let book = load.finish().await?;
    stage.figures.notes.push(format!(
        "{} outcomes asked; Postgres stopped in {stops:?} s",
        book.asked()
    ));
    let slowest = stage.figures.first.iter().max().copied();
    let connections = stage.acknowledged();
    let stayed = stage.gaps_allowed || connections.iter().all(|count| *count == 1);
    stage.judge(book).await?;
    assert!(stayed, "clients stayed: {connections:?}");
    within(slowest, RECOVERY)
}

/// Commits are decoded well before other sessions see them: a synchronous standby is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d45_decoded_before_visible() -> Result<()> {
    let (mut stage, standby, link) = beside_a_standby("D45 synchronous standby").await?;
    stage.record(12).await?;
    link.set(Weather::Slow(Duration::from_millis(10)));
    sync_names(&stage, "standby").await?;
    let load = stage.load(usual(by_form(5, 20))).await?;
    sleep(Duration::from_secs(by_form(5, 20))).await;
    let book = load.finish().await?;
    // It may just have come back.
    let waits = "select from pg_stat_replication where sync_state = 'sync'";
    eventually(DEADLINE, async || {
        stage.sql.query_one(waits, &[]).await.ok()
    })
    .await
    .context("the standby is a synchronous one")?;
    sync_names(&stage, "").await?;
    drop((standby, link));
    stage.judge(book).await.map(drop)
}

/// The server starts anew beside a commit that it has delivered and that waits for its standby. A
/// snapshot does not see it, and the stream is behind it: who has both would lack it for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d45_a_snapshot_after_a_restart() -> Result<()> {
    let (mut stage, standby, link) = beside_a_standby("D45 restart beside a standby").await?;
    let token = Subscriber::new(Role::Service, 1).token(SECRET)?;
    let url = format!("ws://{}/realtime?token={token}", stage.address);
    let ask = json!({ "type": "subscribe", "channel": "table:ledger" });
    let mut live = Socket::connect(&url).await?;
    live.send_json(&ask).await?;
    live.expect(|answer| answer["type"] == "ack", DEADLINE)
        .await?;
    let open = stage.postgres.connect("postgres", &stage.database).await?;
    open.batch_execute("begin; select pg_current_xact_id()")
        .await?;
    sync_names(&stage, "standby").await?;
    link.set(Weather::Blackhole);
    let writer = stage.postgres.connect("postgres", &stage.database).await?;
    let commit = tokio::spawn(async move {
        let insert = "insert into ledger values (1, ledger_user(0), 2, 'x')";
        writer.batch_execute(insert).await
    });
    let is_row = |message: &Value| message["payload"]["record"]["id"] == 1;
    let event = live.expect(is_row, DEADLINE).await?;
    let at = event["payload"]["cursor"].as_str().unwrap_or_default();
    let at = at.split(':').next().unwrap_or_default();
    let acknowledged = format!(
        "select confirmed_flush_lsn > '{at}' from pg_replication_slots where slot_name = '{SLOT}'"
    );
    eventually(DEADLINE, async || {
        let row = stage.sql.query_one(&acknowledged, &[]).await.ok()?;
        row.get::<_, bool>(0).then_some(())
    })
    .await?;
    stage.server_mut().kill9().await?;
    stage.start().await?;
    stage.server().ready().await?;
    stage.figures.faults += 1;

    let mut ask = ask;
    ask["snapshot"] = true.into();
    let mut socket = Socket::connect(&url).await?;
    socket.send_json(&ask).await?;
    let answer = socket.next_json(DEADLINE).await?;
    assert_eq!(answer["code"], "SNAPSHOT_FAILED", "{answer}");
    assert!(!commit.is_finished(), "nobody sees it so far");
    link.set(Weather::Fair);
    commit.await??;
    // One that is still open, and not in the log, is not waited for.
    socket.send_json(&ask).await?;
    let is_complete = |message: &Value| message["event"] == "snapshot_complete";
    let messages = socket.until(is_complete, DEADLINE).await?;
    let chunks = messages.iter().filter(|one| one["type"] == "snapshot");
    let rows: Vec<_> = chunks
        .flat_map(|one| one["payload"]["records"].as_array())
        .flatten()
        .map(|row| &row["id"])
        .collect();
    assert_eq!(rows, [1], "{messages:?}");
    drop((open, standby));
    stage.passed();
    Ok(())
}

/// From when this returns, commits wait for the standby of this name. For nobody: `""`.
async fn sync_names(stage: &Stage, names: &str) -> Result<()> {
    // ALTER SYSTEM refuses to run beside other statements.
    stage
        .execute(&format!(
            "alter system set synchronous_standby_names = '{names}'"
        ))
        .await?;
    stage.execute("select pg_reload_conf()").await?;
    in_force(stage).await
}

/// The checkpointer tells committing sessions whether they wait, and reads a changed setting when it
/// is not busy with a checkpoint. It does so before it begins one, if the postmaster passed the
/// signal on; and that comes before its next connection.
pub(crate) async fn in_force(stage: &Stage) -> Result<()> {
    let new = stage.postgres.connect("postgres", &stage.database).await?;
    new.batch_execute("checkpoint").await?;
    Ok(())
}

/// A stage whose server runs, and a standby behind a proxy that nobody waits for yet.
async fn beside_a_standby(scenario: &'static str) -> Result<(Stage, Postgres, Proxy)> {
    let mut stage = Stage::unstarted(scenario, DURABLE, &[]).await?;
    let (standby, link) = stage.standby().await?;
    stage.start().await?;
    stage.server().ready().await?;
    stage.witness.renew(&stage.sql).await?;
    Ok((stage, standby, link))
}

/// Yesterday's copy under the same address: what clients know is not in its past.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b27_an_older_copy() -> Result<()> {
    let mut stage = Stage::new("B27 older copy", DURABLE, &[]).await?;
    stage.gaps_allowed = true;
    stage.record(6).await?;
    let mut writer = Writer::new(&stage.url(), 1, stage.seed, OWNERS);
    writer.insert(20).await?;
    stage.quiet().await?;
    stage.postgres.stop(StopMode::Fast).await?;
    stage.postgres.save("yesterday").await?;
    stage.postgres.start_again().await?;
    let mut lost = Writer::new(&stage.url(), 2, stage.seed, OWNERS);
    for _ in 0..50 {
        lost.insert(20).await?;
    }
    stage.quiet().await?;
    stage.postgres.stop(StopMode::Immediate).await?;
    stage.postgres.restore("yesterday").await?;
    stage.postgres.start_again().await?;
    stage.reconnect().await?;
    for recorder in &stage.recorders {
        recorder
            .heeds(|heed| heed.began > 1 && heed.connected, DEADLINE)
            .await?;
    }
    let told = |line: &str| line.contains("changes were lost");
    stage.server().logged(told, DEADLINE).await?;
    stage.figures.faults += 1;
    stage.figures.notes.push("everybody began anew".into());
    // LSNs and numbers of transactions begin again where the copy was made: the oracle's order has
    // them twice. What is asked here is that each client shows what is there.
    stage.shows_what_is_there().await
}

/// The same, and a client that stays: it had just been caught up, and what comes now has places before
/// those that it knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b27_an_older_copy_and_a_client_that_came_back() -> Result<()> {
    let mut stage = Stage::new("B27 older copy, came back", DURABLE, &[]).await?;
    let token = Subscriber::new(Role::Service, 1).token(SECRET)?;
    let url = format!("ws://{}/realtime?token={token}", stage.address);
    let mut socket = Socket::connect(&url).await?;
    let mut ask = json!({ "type": "subscribe", "channel": "table:ledger" });
    socket.send_json(&ask).await?;
    socket
        .expect(|answer| answer["type"] == "ack", DEADLINE)
        .await?;
    stage.postgres.stop(StopMode::Fast).await?;
    stage.postgres.save("yesterday").await?;
    stage.postgres.start_again().await?;
    stage.reconnect().await?;
    let insert = |id| format!("insert into ledger values ({id}, ledger_user(0), 2, 'x')");
    let is_row = |id: i64| move |message: &Value| message["payload"]["record"]["id"] == id;
    stage.execute(&insert(1)).await?;
    let first = socket.expect(is_row(1), DEADLINE).await?;
    stage.execute("select pg_switch_wal()").await?;
    stage.execute(&insert(2)).await?;
    socket.expect(is_row(2), DEADLINE).await?;
    ask["since"] = first["payload"]["cursor"].clone();
    let mut back = Socket::connect(&url).await?;
    back.send_json(&ask).await?;
    let is_event =
        |name: &'static str| move |message: &Value| message["event"].as_str() == Some(name);
    back.expect(is_event("caught_up"), DEADLINE).await?;
    stage.postgres.stop(StopMode::Immediate).await?;
    stage.postgres.restore("yesterday").await?;
    stage.postgres.start_again().await?;
    stage.reconnect().await?;
    for socket in [&mut socket, &mut back] {
        socket.expect(is_event("gap"), DEADLINE).await?;
    }
    stage.figures.faults += 1;
    stage.execute(&insert(3)).await?;
    for socket in [&mut socket, &mut back] {
        socket.expect(is_row(3), DEADLINE).await?;
    }
    stage.passed();
    Ok(())
}

/// Another cluster altogether under the same address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b27_another_server() -> Result<()> {
    let other = Stage::unstarted("B27 (its other server)", DURABLE, &[]).await?;
    let (mut stage, proxy) = Stage::behind_proxy("B27 other server", DURABLE, &[]).await?;
    stage.record(6).await?;
    let mut writer = Writer::new(&stage.url(), 1, stage.seed, OWNERS);
    writer.insert(20).await?;
    stage.quiet().await?;
    let sql = other.postgres.connect("postgres", "postgres").await?;
    let rename = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where datname = '{0}';
         alter database {0} rename to {1}",
        other.database, stage.database
    );
    eventually(DEADLINE, async || {
        for statement in rename.split(';') {
            sql.batch_execute(statement).await.ok()?;
        }
        Some(())
    })
    .await?;
    let database = stage.database.clone();
    proxy.redirect(([127, 0, 0, 1], other.postgres.port()).into());
    proxy.cut();
    let told = |line: &str| line.contains("changes were lost");
    stage.server().logged(told, DEADLINE).await?;
    for recorder in &stage.recorders {
        recorder
            .heeds(|heed| heed.began > 1 && heed.connected, DEADLINE)
            .await?;
    }
    // They read what is there through a desk of the first server; only events are looked at now.
    let mut writer = Writer::new(&other.postgres.url("postgres", &database), 2, 1, OWNERS);
    let mark = writer.mark().await?;
    for recorder in &stage.recorders {
        recorder
            .heeds(|heed| heed.marks.contains(&mark), DEADLINE)
            .await?;
    }
    stage.figures.faults += 1;
    stage.figures.notes.push("everybody began anew".into());
    stage.passed();
    Ok(())
}
