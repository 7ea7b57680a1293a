//! A disk that is full or fails.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use super::stream::Stream;
use super::*;
use crate::Health;

#[tokio::test]
async fn nothing_is_lost_while_writing_fails() {
    check(|faults| &faults.write).await;
}

#[tokio::test]
async fn nothing_is_lost_while_syncing_fails() {
    check(|faults| &faults.sync).await;
}

async fn check(which: fn(&faults::Faults) -> &AtomicBool) {
    let directory = directory();
    let mut config = config(directory.path());
    config.queue_bytes_max = 1 << 16;
    config.segment_bytes = 20_000;
    let transactions = Stream::new().inserts(60, 10, 200);
    let (mut log, _) = open(&config);
    let history = log.history();
    append(&mut log, &transactions[..5]).await;
    log.sync().await.expect("a disk that works");

    let faults = history.faults();
    which(&faults).store(true, Ordering::Release);
    let appended =
        tokio::time::timeout(Duration::from_secs(3), append(&mut log, &transactions)).await;
    assert!(appended.is_err(), "who appends waits");
    wait_for(&mut history.health(), |health| {
        matches!(health, Health::Degraded { .. })
    })
    .await;
    assert_eq!(*history.durable().borrow(), transactions[4].end_lsn);
    let read = read_all(&history);
    assert!(printed(&transactions).starts_with(&read));

    which(&faults).store(false, Ordering::Release);
    append(&mut log, &transactions).await;
    wait_durable(&history, transactions[59].end_lsn).await;
    wait_for(&mut history.health(), |health| *health == Health::Good).await;
    assert_eq!(read_all(&history), printed(&transactions));
    close(log).await;
    let (log, opened) = open(&config);
    assert_eq!((opened.cut_bytes, opened.damaged), (0, false));
    assert_eq!(read_all(&log.history()), printed(&transactions));
}

#[tokio::test]
async fn closing_a_log_that_cannot_be_written_ends() {
    let directory = directory();
    let config = config(directory.path());
    let (mut log, _) = open(&config);
    let transactions = Stream::new().inserts(2, 10, 200);
    append(&mut log, &transactions[..1]).await;
    log.sync().await.expect("a disk that works");
    log.history().faults().write.store(true, Ordering::Release);
    append(&mut log, &transactions[1..]).await;
    let closed = log.close(Duration::from_millis(10)).await;
    assert!(matches!(closed, Err(crate::LogError::NotDurable)));
    let (_log, opened) = open(&config);
    assert_eq!(opened.durable, Some(transactions[0].end_lsn));
}

/// A real full disk. Needs the right to mount a tmpfs; says so where it is missing.
#[tokio::test]
async fn a_full_disk_is_waited_for() {
    let directory = directory();
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(directory.path())
        .status();
    if !mount.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no right to mount a tmpfs");
        return;
    }
    let _mounted = Mounted(directory.path().to_owned());
    let mut config = config(directory.path());
    config.queue_bytes_max = 1 << 18;
    config.segment_bytes = 1 << 18;
    let ballast = directory.path().join("ballast");
    std::fs::write(&ballast, vec![1; 700_000]).expect("room for it");
    let transactions = Stream::new().inserts(70, 10, 1000);
    let (mut log, _) = open(&config);
    let history = log.history();
    let appended =
        tokio::time::timeout(Duration::from_secs(3), append(&mut log, &transactions)).await;
    assert!(appended.is_err(), "who appends waits");
    wait_for(&mut history.health(), |health| {
        matches!(health, Health::Degraded { .. })
    })
    .await;
    let durable = *history.durable().borrow();
    assert!(durable < transactions[69].end_lsn);

    std::fs::remove_file(ballast).expect("it was there");
    append(&mut log, &transactions).await;
    wait_durable(&history, transactions[69].end_lsn).await;
    wait_for(&mut history.health(), |health| *health == Health::Good).await;
    close(log).await;
    let (log, _) = open(&config);
    assert_eq!(read_all(&log.history()), printed(&transactions));
    close(log).await;
}

struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
