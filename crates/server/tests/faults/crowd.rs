//! Ten thousand viewers, no two alike.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::{MissedTickBehavior, interval};
use walcast_harness::{Beginning, Recorder, Role, Writer};

use crate::report::{by_form, within};
use crate::stage::{DEADLINE, Stage};

/// Rows per second.
const RATE: u32 = 50;
/// With all the connections; one of them takes about 30 KiB.
const RESIDENT_MAX: u64 = 1 << 30;

/// A policy that is looked up once for all viewers keeps up. One that Postgres has to be asked about for
/// each of them falls behind, in bounded memory, and loses nothing; who looks on by another policy does
/// not wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d52_a_crowd_of_different_viewers() -> Result<()> {
    let rows = by_form(100, 500);
    let together = behind("D52 crowd, looked up", Role::Authenticated, rows).await?;
    let rows = by_form(100, 100);
    let one_by_one = behind("D52 crowd, one by one", Role::Auditor, rows).await?;
    eprintln!("behind: {together:?} together, {one_by_one:?} one by one");
    within(Some(together), Duration::from_secs(10))
}

/// How long after the last row everybody had everything.
async fn behind(scenario: &'static str, role: Role, rows: usize) -> Result<Duration> {
    let viewers = by_form(500, 10_000);
    let settings = [("connections_max", "20000")];
    let mut stage = Stage::new(scenario, &[], &settings).await?;
    let members = format!(
        "insert into ledger_members select ledger_user(n), ledger_user(n + d)
         from generate_series(101, {viewers}) n, generate_series(0, 1) d"
    );
    stage.execute(&members).await?;
    for viewer in 1..=viewers {
        let subscriber = walcast_harness::Subscriber::new(role, viewer);
        let mut recording = stage.recording(stage.address, subscriber);
        recording.beginning = Beginning::Nothing;
        stage.recorders.push(Recorder::start(recording)?);
    }
    stage.subscribed().await?;
    let mut writer = Writer::new(&stage.url(), 1, stage.seed, viewers);
    let mut pace = interval(Duration::from_secs(1) / RATE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut resident = 0;
    for _ in 0..rows {
        pace.tick().await;
        writer.insert(1).await?;
        resident = resident.max(stage.server().resident_bytes()?);
    }
    let begin = Instant::now();
    stage.quiet_within(DEADLINE * by_form(1, 10)).await?;
    let behind = begin.elapsed();
    resident = resident.max(stage.server().resident_bytes()?);
    let note = format!(
        "{:.1} s behind, RSS {} MiB",
        behind.as_secs_f64(),
        resident >> 20
    );
    stage.figures.notes.push(note);
    stage.judge(writer.into_book()).await?;
    assert!(resident < RESIDENT_MAX, "{resident} bytes");
    Ok(behind)
}
