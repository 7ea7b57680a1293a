//! Snapshots of a busy table whose server dies meanwhile.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::sleep;
use walcast_harness::{Beginning, Recorder, Role, Socket, Subscriber};

use crate::report::by_form;
use crate::stage::{DEADLINE, DURABLE, OWNERS, SECRET, Stage, usual};

/// Killed when about so many percent of the rows have been sent.
const KILLED_AT: [u64; 2] = [30, 70];

/// Who asks for the rows asks again, and shows in the end what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b28_killed_while_rows_are_read() -> Result<()> {
    let rows: u64 = by_form(60_000, 1_000_000);
    let settings = [("snapshot_rows_max", "2000000"), ("snapshots_max", "8")];
    let mut stage = Stage::unstarted("B28 snapshots, kill -9", DURABLE, &settings).await?;
    // The ids of no writer: theirs leave a rest.
    let fill = format!(
        "insert into ledger select n * 64, ledger_user(n % {OWNERS} + 1), n * 64, ledger_body(n * 64)
         from generate_series(1, {rows}) n;
         analyze ledger"
    );
    stage.execute(&fill).await?;
    stage.start().await?;
    stage.server().ready().await?;
    stage.witness.renew(&stage.sql).await?;
    let load = stage.load(usual(600)).await?;
    for (role, user) in [
        (Role::Service, 1),
        (Role::Authenticated, 2),
        (Role::Team, 3),
    ] {
        let mut recording = stage.recording(stage.address, Subscriber::new(role, user));
        recording.beginning = Beginning::Snapshot;
        stage.recorders.push(Recorder::start(recording)?);
    }
    for percent in KILLED_AT {
        let sent = stage.watch_rows(rows * percent / 100).await?;
        stage.server_mut().kill9().await?;
        let begun = stage.recorders.iter().filter(|one| one.now().began > 0);
        let note = format!("killed at {sent} rows, {} had all", begun.count());
        stage.figures.notes.push(note);
        stage.figures.faults += 1;
        stage.start().await?;
        stage.server().ready().await?;
    }
    let begin = Instant::now();
    let all = stage.watch_rows(rows).await?;
    let seconds = begin.elapsed().as_secs_f64();
    let rate = all as f64 / seconds;
    stage.figures.notes.push(format!("{rate:.0} rows/s"));
    let whole = stage.recorders.iter().map(|recorder| {
        let begun = |heed: &walcast_harness::Heed| heed.began == 1 && heed.connected;
        recorder.heeds(begun, DEADLINE * by_form(1, 5))
    });
    futures_util::future::try_join_all(whole).await?;
    sleep(Duration::from_secs(2)).await;
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

impl Stage {
    /// Asks for a snapshot and reads on until so many rows have come; how many that were.
    async fn watch_rows(&self, wanted: u64) -> Result<u64> {
        let token = Subscriber::new(Role::Service, 9).token(SECRET)?;
        let address = format!("ws://{}/realtime?token={token}", self.address);
        let mut socket = Socket::connect(&address).await?;
        let ask = json!({ "type": "subscribe", "channel": "table:ledger", "snapshot": true });
        socket.send_json(&ask).await?;
        let enough = |message: &Value| message["payload"]["sent"].as_u64() >= Some(wanted);
        let mut tries = 5;
        loop {
            let message = socket.next_json(DEADLINE * by_form(1, 5)).await?;
            // A busy machine takes more than the five seconds that the server waits for a commit to be seen.
            if message["code"] == "SNAPSHOT_FAILED" && tries > 0 {
                tries -= 1;
                socket.send_json(&ask).await?;
                continue;
            }
            let over = message["event"] == "snapshot_complete" || message["type"] == "error";
            anyhow::ensure!(!over, "before {wanted} rows: {message}");
            if enough(&message) {
                return message["payload"]["sent"].as_u64().context("a count");
            }
        }
    }
}
