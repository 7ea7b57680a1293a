//! The server itself is killed, stopped, frozen, or has no room on its disk.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::sleep;
use walcast_harness::{Dice, eventually};
use walcast_pgoutput::Lsn;

use crate::report::{by_form, is_full, within};
use crate::stage::{DEADLINE, DURABLE, SLOT, Stage, usual};

/// From the start of the process to the first event, where the machine has nothing else to do.
const RECOVERY: Duration = Duration::from_secs(5);

/// `kill -9` at any moment, in one run of load.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a2_killed_under_load() -> Result<()> {
    let (kills, clients) = by_form((3, 12), (20, 50));
    let mut stage = Stage::new("A1/A2 kill -9", DURABLE, &[]).await?;
    stage.record(clients).await?;
    let load = stage.load(usual(600)).await?;
    let mut dice = Dice::new(stage.seed);
    let mut resident = Vec::new();
    let mut files = Vec::new();
    for _ in 0..kills {
        sleep(Duration::from_millis(
            dice.between(100, by_form(1500, 4000)),
        ))
        .await;
        resident.push(stage.server().resident_bytes()? >> 20);
        files.push(stage.server().open_files()?);
        let before = stage.acknowledged();
        stage.server_mut().kill9().await?;
        sleep(Duration::from_millis(dice.below(500))).await;
        let begin = stage.start().await?;
        stage.recovered(begin, &before).await?;
        stage.figures.faults += 1;
    }
    let book = load.finish().await?;
    let asked = book.asked();
    // Each process begins with nothing but the files of the log, one more at each start. Who comes back
    // is caught up by walks, which have files and connections of their own as long as they take.
    let (early, _) = files.split_at(files.len() / 2);
    let most = early.iter().max().copied().unwrap_or_default() + 16 + kills;
    let settled = eventually(DEADLINE, async || {
        let open = stage.server().open_files().ok()?;
        (open <= most).then_some(open)
    });
    let settled = settled
        .await
        .with_context(|| format!("files leak: {files:?}"));
    files.push(settled?);
    stage.figures.notes.push(format!(
        "RSS {resident:?} MiB, files {files:?}, {asked} outcomes asked"
    ));
    let slots = "select count(*) from pg_replication_slots where slot_name not like '%witness%'";
    let slots: i64 = stage.sql.query_one(slots, &[]).await?.get(0);
    assert_eq!(slots, 1, "no slot is left behind");
    let slowest = stage.figures.first.iter().max().copied();
    stage.judge(book).await?;
    within(slowest, RECOVERY)
}

/// SIGTERM: clients are told, Postgres has the last acknowledgement, the next start repeats nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_terminated_under_load() -> Result<()> {
    let mut stage = Stage::new("A3 SIGTERM", DURABLE, &[]).await?;
    stage.record(12).await?;
    let load = stage.load(usual(600)).await?;
    for _ in 0..by_form(2, 5) {
        sleep(Duration::from_millis(1500)).await;
        let before = stage.acknowledged();
        let status = stage.server_mut().terminate().await?;
        assert!(status.success(), "{status}");
        let begin = stage.start().await?;
        stage.recovered(begin, &before).await?;
        stage.figures.faults += 1;
    }
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

/// Frozen. In the full form for longer than Postgres waits for a sign of life (the server asks it to
/// wait 20 s, whatever `wal_sender_timeout` is).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a14_frozen() -> Result<()> {
    let mut stage = Stage::new("A14 SIGSTOP", DURABLE, &[]).await?;
    stage.record(12).await?;
    let load = stage.load(usual(120)).await?;
    sleep(Duration::from_secs(1)).await;
    stage.server().signal("STOP").await?;
    sleep(Duration::from_secs(by_form(5, 30))).await;
    stage.server().signal("CONT").await?;
    stage.figures.faults += 1;
    stage.quiet().await?;
    if is_full() {
        let reconnected = |line: &str| line.contains("replication stream ended");
        stage.server().logged(reconnected, DEADLINE).await?;
    }
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

/// No room for the log: nothing is acknowledged that is not kept, and it goes on when there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a4_disk_full() -> Result<()> {
    let Some(disk) = SmallDisk::mount()? else {
        eprintln!("A4 needs the right to mount a tmpfs");
        return Ok(());
    };
    let folder = disk.folder.display().to_string();
    let mut stage = Stage::new("A4 disk full", DURABLE, &[("log_dir", &folder)]).await?;
    stage.record(12).await?;
    disk.fill()?;
    let load = stage.load(usual(300)).await?;
    let degraded = eventually(DEADLINE, async || {
        let (status, body) = stage.server().get("/ready").await.ok()?;
        (status == 503).then_some(body)
    });
    let body = degraded
        .await
        .context("/ready never says that there is no room")?;
    for _ in 0..20 {
        stage.acknowledges_what_is_durable().await?;
        sleep(Duration::from_millis(100)).await;
    }
    disk.make_room()?;
    let begin = Instant::now();
    stage.server().ready().await?;
    stage.figures.first.push(begin.elapsed());
    stage.figures.faults += 1;
    stage
        .figures
        .notes
        .push(body.chars().filter(|c| !c.is_control()).take(120).collect());
    sleep(Duration::from_secs(1)).await;
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

impl Stage {
    async fn acknowledges_what_is_durable(&self) -> Result<()> {
        let ask = "select confirmed_flush_lsn::text from pg_replication_slots where slot_name = $1";
        let confirmed: String = self.sql.query_one(ask, &[&SLOT]).await?.get(0);
        let (_, body) = self.server().get("/ready").await?;
        let body: Value = serde_json::from_str(&body)?;
        let durable = body["log"]["durable_lsn"].as_str().context("a place")?;
        let (confirmed, durable): (Lsn, Lsn) = (confirmed.parse()?, durable.parse()?);
        anyhow::ensure!(confirmed <= durable, "{confirmed} is not durable: {body}");
        Ok(())
    }
}

/// 20 MB of memory as a disk. Unmounted on drop.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    /// `None` where mounting is not permitted.
    fn mount() -> Result<Option<SmallDisk>> {
        let folder = std::env::temp_dir().join(format!("walcast-disk-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=20m", "none"])
            .arg(&folder)
            .stderr(Stdio::null())
            .status();
        Ok(mounted
            .is_ok_and(|status| status.success())
            .then_some(SmallDisk { folder }))
    }

    /// Leaves one MiB.
    fn fill(&self) -> Result<()> {
        let filled = Command::new("sh")
            .arg("-c")
            .arg(
                r#"cd "$1" && dd if=/dev/zero of=filler bs=1M 2>/dev/null; truncate -s -1M filler"#,
            )
            .arg("fill")
            .arg(&self.folder)
            .status()?;
        anyhow::ensure!(filled.success(), "filling the small disk");
        Ok(())
    }

    fn make_room(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.folder.join("filler"))?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
        let _ = std::fs::remove_dir(&self.folder);
    }
}
