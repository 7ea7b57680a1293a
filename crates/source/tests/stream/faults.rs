//! What goes wrong while streaming, and how the stream goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio_util::sync::CancellationToken;
use walcast_harness::{Postgres, StopMode, eventually};
use walcast_pgoutput::Message;
use walcast_source::{GapReason, LostSlot, Source, SourceError, StreamState};

use crate::fixture::{DEADLINE, Fixture, Reader, shared};
use crate::proxy::Proxy;

#[tokio::test]
async fn a_terminated_backend() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    for id in 1..=2 {
        fixture.insert(id).await?;
    }
    reader.expect(&[1]).await?;
    reader.acknowledge();
    reader.expect(&[2]).await?;
    fixture.terminate_reader().await?;
    fixture.insert(3).await?;
    // the acknowledged one does not come again, though the server may not have heard of it
    reader.expect(&[2]).await?;
    reader.expect(&[3]).await?;
    ensure!(reader.restarts == 1 && reader.gaps.is_empty());
    Ok(())
}

#[tokio::test]
async fn half_a_transaction_is_sent_again_whole() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.ahead_bytes_max = 16 * 1024;
    let mut reader = Reader::open(config).await?;
    fixture
        .run("INSERT INTO item SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n")
        .await?;
    let mut rows = 0;
    while rows < 100 {
        rows += usize::from(matches!(reader.message().await?, Message::Insert(_)));
    }
    fixture.terminate_reader().await?;
    let ids = loop {
        let ids = reader.transaction().await?; // forgets the first half at the new Begin
        if reader.restarts > 0 {
            break ids;
        }
    };
    ensure!(
        ids == (1..=20000).collect::<Vec<i64>>(),
        "{} rows",
        ids.len()
    );
    Ok(())
}

#[tokio::test]
async fn a_fast_restart_of_postgres() -> Result<()> {
    let postgres = Postgres::start().await?;
    let mut fixture = Fixture::new(&postgres).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.acknowledge();
    // Postgres waits for its walsenders: somebody has to acknowledge meanwhile
    let restart = postgres.restart(StopMode::Fast);
    let drive = async {
        loop {
            match reader.source.next().await? {
                walcast_source::Event::Idle(lsn) => reader.source.acknowledge(lsn),
                walcast_source::Event::Restarted => return Ok::<_, SourceError>(()),
                _ => {}
            }
        }
    };
    let both = async { tokio::join!(restart, drive) };
    let (restarted, driven) = tokio::time::timeout(DEADLINE, both)
        .await
        .context("restart")?;
    restarted?;
    driven?;
    fixture.reconnect().await?;
    fixture.insert(2).await?;
    reader.expect(&[2]).await?;
    ensure!(reader.gaps.is_empty());
    Ok(())
}

/// After a crash the slot may have forgotten acknowledgements; we have not.
#[tokio::test]
async fn a_crash_of_postgres() -> Result<()> {
    let postgres = Postgres::start_with(&[("fsync", "on")]).await?;
    let mut fixture = Fixture::new(&postgres).await?;
    let mut reader = fixture.open().await?;
    for id in 1..=20 {
        fixture.insert(id).await?;
    }
    reader.until(19).await?;
    reader.acknowledge();
    fixture.until_confirmed(reader.end).await?;
    reader.expect(&[20]).await?;
    postgres.restart(StopMode::Immediate).await?;
    fixture.reconnect().await?;
    fixture.insert(21).await?;
    reader.expect(&[20]).await?; // neither 1..=19 again, nor 20 lost
    reader.expect(&[21]).await?;
    ensure!(reader.restarts >= 1 && reader.gaps.is_empty());
    Ok(())
}

#[tokio::test]
async fn postgres_is_down_for_a_while() -> Result<()> {
    let postgres = Postgres::start().await?;
    let mut fixture = Fixture::new(&postgres).await?;
    let mut reader = fixture.open().await?;
    postgres.stop(StopMode::Immediate).await?;
    reader
        .until_state(|state| {
            matches!(
                state,
                StreamState::Connecting {
                    attempt: 2..,
                    last_error: Some(_)
                }
            )
        })
        .await?;
    postgres.start_again().await?;
    reader.until_state(StreamState::is_ready).await?;
    fixture.reconnect().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await
}

#[tokio::test]
async fn a_second_source_stands_by_and_takes_over() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut first = fixture.open().await?;
    let holder = fixture.reader_pid().await?;
    let mut second = Reader::of(Source::prepare(fixture.config(), CancellationToken::new())?);
    let waiting = second
        .until_state(|state| matches!(state, StreamState::WaitingForSlot { .. }))
        .await?;
    let StreamState::WaitingForSlot { pid, application } = waiting else {
        anyhow::bail!("{}", waiting.describe());
    };
    ensure!(
        pid == holder && application == "walcast",
        "{pid} {application}"
    );
    fixture.insert(1).await?;
    first.expect(&[1]).await?; // nothing was stolen
    ensure!(first.restarts == 0);
    drop(first);
    second.until_state(StreamState::is_ready).await?;
    second.expect(&[1]).await
}

#[tokio::test]
async fn a_dropped_slot() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.acknowledge();
    // nobody drives the source meanwhile, so it does not come back before the slot is gone
    fixture.terminate_reader().await?;
    let drop_slot = format!("SELECT pg_drop_replication_slot('{}')", fixture.slot());
    eventually(DEADLINE, async || fixture.run(&drop_slot).await.ok()).await?;
    reader.until_state(|state| !state.is_ready()).await?;
    reader.until_state(StreamState::is_ready).await?;
    fixture.insert(2).await?;
    reader.until(2).await?;
    let reasons: Vec<_> = reader.gaps.iter().map(|gap| gap.reason).collect();
    ensure!(reasons == [GapReason::SlotMissing], "{reasons:?}");
    ensure!(reader.source.progress().gaps() == 1);
    reader.acknowledge();
    fixture.until_confirmed(reader.end).await // acknowledging works with the new slot
}

#[tokio::test]
async fn a_slot_that_another_consumer_moved() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.acknowledge();
    let resume_from = reader.end;
    reader.source.close().await;
    fixture.insert(2).await?;
    let advance = format!(
        "SELECT pg_replication_slot_advance('{}', pg_current_wal_lsn())",
        fixture.slot()
    );
    eventually(DEADLINE, async || fixture.run(&advance).await.ok()).await?;
    let mut config = fixture.config();
    config.resume_from = Some(resume_from);
    let mut reader = Reader::open(config).await?;
    fixture.insert(3).await?;
    reader.expect(&[3]).await?;
    let gap = reader.gaps.first().context("silent")?;
    ensure!(
        gap.reason == GapReason::SlotAdvanced
            && gap.after == resume_from
            && gap.resumes_at > resume_from
    );
    Ok(())
}

#[tokio::test]
async fn a_lost_slot() -> Result<()> {
    let postgres =
        Postgres::start_with(&[("max_slot_wal_keep_size", "1MB"), ("min_wal_size", "32MB")])
            .await?;
    let fixture = Fixture::new(&postgres).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.acknowledge();
    reader.source.close().await;
    lose_the_slot(&fixture).await?;

    let mut config = fixture.config();
    config.lost_slot = LostSlot::Wait;
    let Err(SourceError::Finding(finding)) = Source::open(config, CancellationToken::new()).await
    else {
        anyhow::bail!("a lost slot was opened");
    };
    ensure!(finding.code == "slot_lost" && finding.remedy.contains("pg_drop_replication_slot"));

    let mut config = fixture.config();
    config.resume_from = Some(reader.end);
    let mut reader = Reader::open(config).await?;
    fixture.insert(2).await?;
    reader.expect(&[2]).await?;
    ensure!(reader.gaps.first().context("silent")?.reason == GapReason::SlotLost);

    // and once more while it runs: the server ends the walsender of a consumer that is stuck
    let mut config = fixture.config();
    config.ahead_bytes_max = 4096;
    drop(reader);
    let mut reader = Reader::open(config).await?;
    lose_the_slot(&fixture).await?;
    // whatever the buffers between hold comes first
    let gap = async {
        loop {
            if let walcast_source::Event::Gap(gap) = reader.source.next().await? {
                return Ok::<_, SourceError>(gap);
            }
        }
    };
    let gap = tokio::time::timeout(DEADLINE, gap)
        .await
        .context("silent")??;
    ensure!(gap.reason == GapReason::SlotLost, "{gap:?}");
    fixture.insert(3).await?;
    reader.until(3).await?;
    Ok(())
}

async fn lose_the_slot(fixture: &Fixture<'_>) -> Result<()> {
    fixture
        .run("CREATE TABLE IF NOT EXISTS bulk (t text)")
        .await?;
    eventually(DEADLINE, async || {
        fixture.run("INSERT INTO item SELECT -n, repeat('x', 2000) FROM generate_series(1, 20000) n ON CONFLICT (id) DO UPDATE SET name = excluded.name").await.ok()?;
        fixture.run("SELECT pg_switch_wal()").await.ok()?;
        fixture.run("CHECKPOINT").await.ok()?;
        let status = fixture.slot_column("wal_status").await.ok()??;
        (status == "lost").then_some(())
    })
    .await
}

#[tokio::test]
async fn a_publication_dropped_under_changes() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    fixture.run("DROP PUBLICATION realtime").await?;
    fixture.insert(2).await?; // before PostgreSQL 18 this one can never be decoded
    let written = fixture.written().await?;
    let blocked = reader
        .until_state(|state| matches!(state, StreamState::Blocked { .. }))
        .await?;
    ensure!(
        blocked
            .describe()
            .contains("publication \"realtime\" does not exist"),
        "{}",
        blocked.describe()
    );
    fixture
        .run("CREATE PUBLICATION realtime FOR TABLE item")
        .await?;
    reader.until_state(StreamState::is_ready).await?;
    // Who saw first that the publication is gone, and not what became of row 2, comes upon that only
    // now, and leaves out all that is written until then.
    reader.until_idle(written).await?;
    fixture.insert(3).await?;
    reader.until(3).await?;
    let reasons: Vec<_> = reader.gaps.iter().map(|gap| gap.reason).collect();
    ensure!(
        reasons.contains(&GapReason::PublicationRecreated),
        "{reasons:?}"
    );
    reader.acknowledge();
    fixture.until_confirmed(reader.end).await
}

#[tokio::test]
async fn a_publication_dropped_and_made_again_in_silence() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture
        .run("DROP PUBLICATION realtime; CREATE PUBLICATION realtime FOR TABLE item")
        .await?;
    reader.until_state(|state| !state.is_ready()).await?;
    reader.until_state(StreamState::is_ready).await?;
    fixture.insert(1).await?;
    reader.until(1).await?;
    ensure!(reader.gaps.first().context("silent")?.reason == GapReason::PublicationRecreated);
    Ok(())
}

/// A slot that is older than its publication stumbles over the changes between, for ever.
#[tokio::test]
async fn a_slot_older_than_its_publication() -> Result<()> {
    let fixture = Fixture::without_publication(shared().await).await?;
    let slot = fixture.slot();
    fixture
        .run(&format!(
            "SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')"
        ))
        .await?;
    fixture.insert(1).await?;
    fixture
        .run("CREATE PUBLICATION realtime FOR TABLE item")
        .await?;
    let mut reader = fixture.open().await?;
    reader.until_state(|state| !state.is_ready()).await?;
    reader.until_state(StreamState::is_ready).await?;
    fixture.insert(2).await?;
    reader.until(2).await?;
    ensure!(
        reader
            .gaps
            .iter()
            .any(|gap| gap.reason == GapReason::PublicationRecreated)
    );
    Ok(())
}

#[tokio::test]
async fn a_link_that_falls_silent() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let proxy = Proxy::to(fixture.postgres.port()).await?;
    let mut config = fixture.config();
    config.database_url = format!(
        "postgres://postgres@127.0.0.1:{}/{}",
        proxy.port, fixture.database
    );
    // Postgres asks after half of it, and a busy machine answers within the other half.
    config.silence_max = Duration::from_secs(12);
    config.connect_timeout = Duration::from_secs(5);
    let mut reader = Reader::open(config).await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.acknowledge();
    // quiet is not silent: a database at rest is not taken for a dead one
    let quiet = Duration::from_secs(14);
    let idle = tokio::time::timeout(quiet, async {
        while reader
            .source
            .next()
            .await
            .is_ok_and(|event| event != walcast_source::Event::Restarted)
        {}
    });
    ensure!(idle.await.is_err(), "an idle connection was given up");
    proxy.black_hole();
    fixture.insert(2).await?;
    // TCP alone would send it again for a quarter of an hour
    reader
        .until_state(|state| matches!(state, StreamState::Connecting { .. }))
        .await?;
    // a new link, while the old walsender still believes in the old one
    proxy.heal();
    reader.expect(&[2]).await?;
    ensure!(reader.restarts >= 1 && reader.gaps.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_slot_waits_for_open_transactions_and_says_so() -> Result<()> {
    let postgres = Postgres::start().await?;
    let fixture = Fixture::new(&postgres).await?;
    let other = postgres.connect("postgres", &fixture.database).await?;
    other
        .batch_execute("BEGIN; INSERT INTO item VALUES (1, 'before')")
        .await?;
    let pid: i32 = other
        .query_one("SELECT pg_backend_pid()", &[])
        .await?
        .get(0);
    let mut reader = Reader::of(Source::prepare(fixture.config(), CancellationToken::new())?);
    reader
        .until_state(|state| matches!(state, StreamState::CreatingSlot { blocked_by, .. } if blocked_by == &[pid]))
        .await?;
    other.batch_execute("COMMIT").await?;
    reader.until_state(StreamState::is_ready).await?;
    ensure!(
        reader.source.progress().connections() == 1,
        "it was waited for, not tried again"
    );
    fixture.insert(2).await?;
    reader.expect(&[2]).await
}

#[tokio::test]
async fn stopping_while_a_slot_is_created_leaves_none() -> Result<()> {
    let postgres = Postgres::start().await?;
    let fixture = Fixture::new(&postgres).await?;
    let other = postgres.connect("postgres", &fixture.database).await?;
    other
        .batch_execute("BEGIN; INSERT INTO item VALUES (1, 'before')")
        .await?;
    let stop = CancellationToken::new();
    let mut reader = Reader::of(Source::prepare(fixture.config(), stop.clone())?);
    reader
        .until_state(|state| matches!(state, StreamState::CreatingSlot { .. }))
        .await?;
    stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, reader.source.next()).await?;
    ensure!(matches!(ended, Err(SourceError::Stopped)), "{ended:?}");
    // it does not wait for Postgres to have done it
    eventually(DEADLINE, async || {
        let sql = "SELECT FROM pg_stat_activity WHERE backend_type = 'walsender'";
        let left = fixture.sql.query(sql, &[]).await.ok()?;
        left.is_empty().then_some(())
    })
    .await
    .context("the slot is still being created")?;
    other.batch_execute("COMMIT").await?;
    let slot = fixture.slot_column("slot_name").await?;
    ensure!(slot.is_none(), "a slot was left behind");
    Ok(())
}

/// A temporary slot keeps nothing over a reconnect: that is never hidden.
#[tokio::test]
async fn a_temporary_slot_cut_off() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.slot =
        walcast_source::SlotKind::Temporary(walcast_source::SlotName::new(fixture.slot())?);
    let mut reader = Reader::open(config).await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    fixture.terminate_reader().await?;
    reader.until_state(|state| !state.is_ready()).await?;
    reader.until_state(StreamState::is_ready).await?;
    fixture.insert(2).await?;
    reader.expect(&[2]).await?;
    ensure!(reader.gaps.first().context("silent")?.reason == GapReason::TemporarySlot);
    Ok(())
}

/// The same bad message comes again after each reconnect; that must not become a busy loop.
#[tokio::test]
async fn a_message_over_the_limit() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.message_bytes_max = 100_000;
    let mut reader = Reader::open(config).await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.acknowledge();
    let begin = Instant::now();
    fixture
        .run("INSERT INTO item VALUES (2, repeat('x', 200000))")
        .await?;
    let blocked = reader
        .until_state(|state| matches!(state, StreamState::Blocked { .. }))
        .await?;
    ensure!(
        blocked.describe().contains("over the limit of 100000"),
        "{}",
        blocked.describe()
    );
    let trying = async {
        while reader.source.progress().connections() < 7 {
            reader.source.next().await?;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, trying)
        .await
        .context("it is not tried again")??;
    // The pauses between are of at least 50, 100, 200, 400 and 800 ms; there is none before them where
    // the first connection has lived for so long that it was a good one.
    ensure!(
        begin.elapsed() > Duration::from_millis(1500),
        "seven connections in {:?}",
        begin.elapsed()
    );
    Ok(())
}
