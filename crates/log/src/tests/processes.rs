//! Two processes, one directory.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::stream::Stream;
use super::*;
use crate::LogError;

const CHILD: &str = "WALCAST_LOG_TEST_DIRECTORY";

#[tokio::test]
async fn one_at_a_time_and_a_killed_one_does_not_count() {
    let directory = directory();
    let config = config(directory.path());
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "tests::processes::child", "--nocapture"])
        .env(CHILD, directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .expect("this test again");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let ready = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("appended")));
    assert!(ready.is_some(), "the child opens the log");
    let second = Log::open(config.clone(), identity());
    assert!(matches!(second, Err(LogError::Locked { .. })));

    child.kill().expect("it runs");
    child.wait().expect("it was killed");
    let (mut log, opened) = open(&config);
    let transactions = Stream::new().inserts(3, 5, 100);
    assert_eq!(opened.durable, Some(transactions[1].end_lsn));
    assert_eq!(read_all(&log.history()), printed(&transactions[..2]));
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    assert_eq!(read_all(&log.history()), printed(&transactions));
}

/// The other process; as a test of its own it does nothing.
#[tokio::test]
async fn child() {
    let Ok(directory) = std::env::var(CHILD) else {
        return;
    };
    let (mut log, _) = open(&config(Path::new(&directory)));
    let transactions = Stream::new().inserts(3, 5, 100);
    append(&mut log, &transactions[..2]).await;
    log.append(&transactions[2].changes[0]);
    log.sync().await.expect("a disk that works");
    println!("appended");
    std::future::pending::<()>().await;
}
