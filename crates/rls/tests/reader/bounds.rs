//! Limits, and what is left running: nothing.

use std::time::Duration;

use anyhow::Result;
use walcast_rls::{ReadError, ReadLimits, ReaderBounds};

use crate::desk::{Desk, GENEROUS, rest};
use crate::rig::viewer;

const ONE: ReaderBounds = ReaderBounds {
    readings_max: 1,
    waiting_max: 1,
};

const TABLES: &str = "
    CREATE TABLE many (id int PRIMARY KEY, body text); GRANT SELECT ON many TO PUBLIC;
    INSERT INTO many SELECT n, repeat('x', 500) FROM generate_series(1, 40000) n;
    CREATE TABLE slow (id int PRIMARY KEY); GRANT SELECT ON slow TO PUBLIC; ALTER TABLE slow ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON slow USING (pg_sleep(60) IS NOT NULL);";

#[tokio::test]
async fn limits() -> Result<()> {
    let mut desk = Desk::bounded(TABLES, ONE).await?;
    let shape = desk.shape("INSERT INTO many VALUES (0, 'x')").await?;
    let anon = viewer("anon", "{}");
    let read = async |limits| {
        let reading = desk.reader.read(&anon, &shape, None, None, limits).await?;
        rest(reading).await
    };
    let rows_max = |rows_max| ReadLimits {
        rows_max,
        ..GENEROUS
    };
    let bytes_max = |bytes_max| ReadLimits {
        bytes_max,
        ..GENEROUS
    };
    assert_eq!(read(rows_max(40_001)).await?.len(), 40_001);
    let found = read(rows_max(40_000)).await;
    assert!(matches!(
        found,
        Err(ReadError::TooManyRows { rows_max: 40_000 })
    ));
    let whole: usize = read(GENEROUS)
        .await?
        .iter()
        .map(|row| row.size_bytes())
        .sum();
    assert_eq!(read(bytes_max(whole as u64)).await?.len(), 40_001);
    let found = read(bytes_max(whole as u64 - 1)).await;
    assert!(found.is_err_and(|error| error.is_too_large()));
    assert!(matches!(
        read(rows_max(0)).await,
        Err(ReadError::TooManyRows { .. })
    ));
    desk.until_nothing_runs().await
}

#[tokio::test]
async fn who_leaves_ends_the_statement() -> Result<()> {
    let mut desk = Desk::bounded(TABLES, ONE).await?;
    let many = desk.shape("INSERT INTO many VALUES (0, 'x')").await?;
    let slow = desk.shape("INSERT INTO slow VALUES (1)").await?;
    let anon = viewer("anon", "{}");
    for round in 0..5 {
        // Nothing comes; a lot comes and nobody takes it; some of it was taken.
        tokio::select! {
            found = desk.open(&anon, &slow) => panic!("too soon: {:?}", found.map(drop)),
            sleeps = desk.until("wait_event = 'PgSleep'") => sleeps?,
        }
        desk.until_nothing_runs().await?;
        let reading = desk.open(&anon, &many).await?;
        assert!(desk.running().await? > 0);
        drop(reading);
        desk.until_nothing_runs().await?;
        let mut reading = desk.open(&anon, &many).await?;
        assert!(reading.next_chunk().await?.is_some());
        drop(reading);
        desk.until_nothing_runs().await?;
        let found = rest(desk.open(&anon, &many).await?).await?;
        assert_eq!(found.len(), 40_001, "round {round}");
    }
    desk.until("true").await?;
    Ok(())
}

#[tokio::test]
async fn who_leaves_before_it_began() -> Result<()> {
    let mut desk = Desk::bounded(TABLES, ONE).await?;
    let many = desk.shape("INSERT INTO many VALUES (0, 'x')").await?;
    let anon = viewer("anon", "{}");
    desk.rig
        .run("BEGIN; LOCK TABLE many IN ACCESS EXCLUSIVE MODE")
        .await?;
    tokio::select! {
        found = desk.open(&anon, &many) => panic!("behind a lock: {:?}", found.map(drop)),
        waits = desk.until("wait_event_type = 'Lock'") => waits?,
    }
    desk.until_nothing_runs().await?;
    desk.rig.run("ROLLBACK").await?;
    assert_eq!(rest(desk.open(&anon, &many).await?).await?.len(), 40_001);
    Ok(())
}

#[tokio::test]
async fn who_does_not_take_the_rows_keeps_no_snapshot_open() -> Result<()> {
    let mut desk = Desk::bounded(TABLES, ONE).await?;
    let many = desk.shape("INSERT INTO many VALUES (0, 'x')").await?;
    let slow = desk.shape("INSERT INTO slow VALUES (1)").await?;
    let anon = viewer("anon", "{}");
    let limits = ReadLimits {
        time_max: Duration::from_secs(5),
        ..GENEROUS
    };
    let mut idle = desk.reader.read(&anon, &many, None, None, limits).await?;
    desk.until_nothing_runs().await?;
    let late = desk.reader.read(&anon, &slow, None, None, limits).await;
    assert!(matches!(late, Err(ReadError::TimedOut)));
    desk.until_nothing_runs().await?;
    let end = loop {
        match idle.next_chunk().await {
            Ok(Some(_)) => {}
            end => break end,
        }
    };
    assert!(matches!(end, Err(ReadError::TimedOut)));
    assert!(idle.next_chunk().await.is_err(), "an error is not an end");
    Ok(())
}

#[tokio::test]
async fn the_line_is_bounded() -> Result<()> {
    let mut desk = Desk::bounded(TABLES, ONE).await?;
    let many = desk.shape("INSERT INTO many VALUES (0, 'x')").await?;
    let anon = viewer("anon", "{}");
    let first = desk.open(&anon, &many).await?;
    let mut second = std::pin::pin!(desk.open(&anon, &many));
    assert!(futures_util::poll!(&mut second).is_pending());
    // Who is put into the line stays there: nobody leaves it before the second is polled.
    let third = std::pin::pin!(desk.open(&anon, &many));
    assert!(matches!(
        futures_util::poll!(third),
        std::task::Poll::Ready(Err(ReadError::Busy))
    ));
    drop(first);
    assert_eq!(rest(second.await?).await?.len(), 40_001);
    // Who gives up waiting makes room in the line.
    let first = desk.open(&anon, &many).await?;
    for _ in 0..3 {
        let mut waiting = Box::pin(desk.open(&anon, &many));
        assert!(futures_util::poll!(&mut waiting).is_pending());
    }
    let limits = ReadLimits {
        time_max: Duration::from_millis(100),
        ..GENEROUS
    };
    let late = desk.reader.read(&anon, &many, None, None, limits).await;
    assert!(matches!(late, Err(ReadError::Busy)));
    drop(first);
    Ok(())
}
