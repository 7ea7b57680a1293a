//! What is delivered, and what is acknowledged.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use walcast_harness::eventually;
use walcast_pgoutput::{Lsn, Message, OldRow, Value};
use walcast_source::{Event, SlotKind, SlotName, Source, SourceError};

use crate::fixture::{DEADLINE, Fixture, Reader, shared};
use crate::proxy::Proxy;

#[tokio::test]
async fn rows_arrive_in_commit_order() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    for id in 1..=3 {
        fixture.insert(id).await?;
    }
    fixture
        .run("INSERT INTO item SELECT n, 'x' FROM generate_series(10, 12) n")
        .await?;
    for ids in [&[1_i64][..], &[2], &[3], &[10, 11, 12]] {
        reader.expect(ids).await?;
    }
    ensure!(reader.restarts == 0 && reader.gaps.is_empty());
    Ok(())
}

#[tokio::test]
async fn the_same_over_a_unix_socket() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.database_url = fixture.postgres.socket_url("postgres", &fixture.database);
    let mut reader = Reader::open(config).await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await
}

#[tokio::test]
async fn a_mixed_case_publication() -> Result<()> {
    let fixture = Fixture::without_publication(shared().await).await?;
    fixture
        .run("CREATE PUBLICATION \"Real 'Time'\" FOR TABLE item")
        .await?;
    let mut config = fixture.config();
    config.publication = "Real 'Time'".into();
    let mut reader = Reader::open(config).await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await
}

#[tokio::test]
async fn a_restarted_consumer_gets_what_it_had_not_acknowledged() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    for id in 1..=3 {
        fixture.insert(id).await?;
    }
    reader.expect(&[1]).await?;
    reader.expect(&[2]).await?;
    reader.acknowledge();
    reader.expect(&[3]).await?; // delivered, not acknowledged
    let acknowledged = reader.source.progress().acknowledged();
    // before the end, which waits for it only so long
    fixture.until_confirmed(acknowledged).await?;
    reader.source.close().await;
    let mut reader = fixture.open().await?;
    reader.expect(&[3]).await?;
    ensure!(reader.gaps.is_empty());
    Ok(())
}

#[tokio::test]
async fn closing_sends_the_last_acknowledgement() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.acknowledge();
    let end = reader.end;
    timeout(DEADLINE, reader.source.close()).await?;
    fixture.until_confirmed(end).await // nobody is left who could send it later
}

#[tokio::test]
async fn an_acknowledgement_beyond_what_was_delivered_is_capped() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.source.acknowledge(Lsn(u64::MAX));
    ensure!(reader.source.progress().acknowledged() == reader.end);
    fixture.insert(2).await?;
    fixture.terminate_reader().await?;
    reader.expect(&[2]).await
}

#[tokio::test]
async fn an_idle_published_table_holds_back_no_wal() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    fixture.run("CREATE TABLE other (n int)").await?;
    let mut reader = fixture.open().await?;
    let before = fixture.confirmed().await.context("no slot")?;
    fixture
        .run("INSERT INTO other SELECT generate_series(1, 20000)")
        .await?;
    let written = fixture.written().await?;
    ensure!(written > before);
    let acknowledged = timeout(DEADLINE, async {
        loop {
            if let Event::Idle(lsn) = reader.source.next().await? {
                reader.source.acknowledge(lsn);
                if lsn >= written {
                    return Ok::<_, SourceError>(lsn);
                }
            }
        }
    });
    let acknowledged = acknowledged.await.context("no keepalive")??;
    fixture.until_confirmed(acknowledged).await
}

#[tokio::test]
async fn ddl_is_seen_in_stream_order() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    fixture.run("ALTER TABLE item RENAME name TO title").await?;
    fixture.insert(2).await?;
    fixture
        .run("BEGIN; INSERT INTO item VALUES (3); ALTER TABLE item ADD extra int; INSERT INTO item VALUES (4, 'x', 5); COMMIT")
        .await?;
    let mut shapes = Vec::new();
    let mut rows = 0;
    while rows < 4 {
        match reader.message().await? {
            Message::Relation(relation) => {
                let names = relation
                    .columns
                    .iter()
                    .map(|column| String::from_utf8_lossy(&column.name));
                shapes.push((rows, names.collect::<Vec<_>>().join(",")));
            }
            Message::Insert(_) => rows += 1,
            _ => {}
        }
    }
    // the relation is there before the first row that needs it; Postgres may repeat one
    shapes.dedup_by(|later, earlier| later.1 == earlier.1);
    let shapes: Vec<_> = shapes
        .iter()
        .map(|(row, names)| (*row, names.as_str()))
        .collect();
    ensure!(
        shapes == [(0, "id,name"), (1, "id,title"), (3, "id,title,extra")],
        "{shapes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_table_added_to_the_publication_while_streaming() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    fixture
        .run("CREATE TABLE late (id bigint PRIMARY KEY); ALTER PUBLICATION realtime ADD TABLE late")
        .await?;
    fixture.run("INSERT INTO late VALUES (7)").await?;
    reader.expect(&[7]).await?;
    fixture
        .run("DROP TABLE late; CREATE TABLE late (id bigint PRIMARY KEY); ALTER PUBLICATION realtime ADD TABLE late")
        .await?;
    fixture.run("INSERT INTO late VALUES (8)").await?;
    reader.expect(&[8]).await?;
    fixture
        .run("ALTER PUBLICATION realtime DROP TABLE late")
        .await?;
    fixture.run("INSERT INTO late VALUES (9)").await?;
    fixture.insert(2).await?;
    reader.expect(&[2]).await?;
    ensure!(reader.restarts == 0, "{} restarts", reader.restarts);
    Ok(())
}

/// Whatever the role's own settings are, a value's text is the same.
#[tokio::test]
async fn values_are_printed_in_one_way() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let role = format!("{}_german", fixture.database);
    fixture
        .run(&format!(
            "CREATE ROLE {role} LOGIN SUPERUSER;
             ALTER ROLE {role} SET datestyle = 'German'; ALTER ROLE {role} SET timezone = 'Asia/Kolkata';
             ALTER ROLE {role} SET intervalstyle = 'iso_8601'; ALTER ROLE {role} SET bytea_output = 'escape';
             ALTER ROLE {role} SET extra_float_digits = -5;
             CREATE TABLE v (id bigint PRIMARY KEY, a timestamptz, b interval, c bytea, d float8, e date, f money);
             ALTER PUBLICATION realtime ADD TABLE v"
        ))
        .await?;
    let mut config = fixture.config();
    config.database_url = fixture.postgres.url(&role, &fixture.database);
    let mut reader = Reader::open(config).await?;
    fixture
        .run(r"INSERT INTO v VALUES (1, '2026-11-21 10:00+00', '1 year -3 days 04:05:06.7', '\x00ff', 0.1::float8 + 0.2, '2026-11-21', '1.5')")
        .await?;
    let row = loop {
        if let Message::Insert(insert) = reader.message().await? {
            break insert.new;
        }
    };
    let texts: Vec<_> = row
        .values()
        .map(|value| match value {
            Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
            other => format!("{other:?}"),
        })
        .collect();
    let expected = [
        "1",
        "2026-11-21 10:00:00+00",
        "1 year -3 days +04:05:06.7",
        "\\x00ff",
        "0.30000000000000004",
        "2026-11-21",
        "$1.50",
    ];
    ensure!(texts == expected, "{texts:?}");
    Ok(())
}

#[tokio::test]
async fn updates_deletes_truncates_and_logical_messages_come_through() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    fixture
        .run("ALTER TABLE item REPLICA IDENTITY FULL")
        .await?;
    let mut reader = fixture.open().await?;
    fixture.insert(1).await?;
    fixture.run("UPDATE item SET name = 'b'").await?;
    fixture.run("DELETE FROM item").await?;
    fixture.run("TRUNCATE item").await?;
    fixture
        .run("SELECT pg_logical_emit_message(true, 'walcast', 'hello')")
        .await?;
    let mut seen = Vec::new();
    while seen.last() != Some(&"logical") {
        match reader.message().await? {
            Message::Insert(_) => seen.push("insert"),
            Message::Update(update) if matches!(update.old, OldRow::Full(_)) => seen.push("update"),
            Message::Delete(delete) if matches!(delete.old, OldRow::Full(_)) => seen.push("delete"),
            Message::Truncate(_) => seen.push("truncate"),
            Message::Logical(logical) => {
                ensure!(
                    logical.transactional
                        && logical.prefix == "walcast"
                        && logical.content == "hello"
                );
                seen.push("logical");
            }
            _ => {}
        }
    }
    ensure!(
        seen == ["insert", "update", "delete", "truncate", "logical"],
        "{seen:?}"
    );
    Ok(())
}

#[tokio::test]
async fn try_next_takes_what_is_there_and_no_more() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut reader = fixture.open().await?;
    fixture
        .run("INSERT INTO item SELECT n, 'x' FROM generate_series(1, 500) n")
        .await?;
    // all of them, lest who takes them is as quick as who sends them
    fixture.until_sent(fixture.written().await?).await?;
    let mut rows = 0;
    let mut batches = 0;
    while rows < 500 {
        let event = timeout(DEADLINE, reader.source.next()).await??;
        batches += 1;
        let batch = std::iter::once(event).chain(std::iter::from_fn(|| reader.source.try_next()));
        rows += batch
            .filter(|event| matches!(event, Event::Message(Message::Insert(_))))
            .count();
    }
    ensure!(batches < 500, "one event per wake-up is no batching");
    Ok(())
}

#[tokio::test]
async fn a_temporary_slot_leaves_nothing_behind() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.slot = SlotKind::Temporary(SlotName::new(fixture.slot())?);
    let mut reader = Reader::open(config).await?;
    fixture.insert(1).await?;
    reader.expect(&[1]).await?;
    reader.source.close().await;
    eventually(DEADLINE, async || {
        let slot = fixture.slot_column("slot_name").await.ok()?;
        slot.is_none().then_some(())
    })
    .await
    .context("the slot is still there")
}

#[tokio::test]
async fn stopping_ends_next_at_once() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let stop = CancellationToken::new();
    let mut source = Source::open(fixture.config(), stop.clone()).await?;
    stop.cancel();
    let ended = timeout(DEADLINE, async {
        loop {
            if let Err(error) = source.next().await {
                return error;
            }
        }
    });
    ensure!(matches!(ended.await?, SourceError::Stopped));
    Ok(())
}

/// A consumer that is blocked for more than twice `wal_sender_timeout` keeps its connection.
#[tokio::test]
async fn a_blocked_consumer_keeps_its_connection() -> Result<()> {
    let fixture = Fixture::new(shared().await).await?;
    let mut config = fixture.config();
    config.silence_max = Duration::from_secs(12); // is also the session's wal_sender_timeout
    config.ahead_bytes_max = 4096;
    let mut reader = Reader::open(config).await?;
    let pid = fixture.reader_pid().await?;
    // more than the buffers of both sides hold
    fixture
        .run("INSERT INTO item SELECT n, repeat('x', 1000) FROM generate_series(1, 40000) n")
        .await?;
    let before = fixture.confirmed().await;
    let end = tokio::time::Instant::now() + Duration::from_secs(26);
    // the consumer does nothing; the walsender must live all the while
    while tokio::time::Instant::now() < end {
        ensure!(fixture.reader_pid().await? == pid, "the connection was cut");
        tokio::time::sleep_until(end.min(tokio::time::Instant::now() + Duration::from_millis(250)))
            .await;
    }
    ensure!(
        fixture.confirmed().await == before,
        "acknowledged by itself"
    );
    let ids = reader.transaction().await?;
    ensure!(ids.len() == 40000 && reader.restarts == 0);
    Ok(())
}

/// Rows of 8 MB: what is read ahead of a consumer that stands still is bounded in bytes.
#[tokio::test]
async fn a_blocked_consumer_holds_few_large_rows() -> Result<()> {
    const ROW: u64 = 8_000_000;
    const ROWS: i64 = 40;
    /// The message that is over the bound, seven on the way, and what the socket takes.
    const HELD_MAX: u64 = 8 * ROW + (1 << 20);
    let fixture = Fixture::new(shared().await).await?;
    let folder = tempfile::tempdir()?;
    let proxy = Proxy::in_folder(folder.path(), fixture.postgres.port())?;
    let mut config = fixture.config();
    config.silence_max = Duration::from_secs(12);
    config.database_url = format!(
        "postgresql:///{}?host={}&port={}&user=postgres",
        fixture.database,
        folder.path().display(),
        proxy.port
    );
    let mut reader = Reader::open(config).await?;
    let pid = fixture.reader_pid().await?;
    fixture
        .run(&format!(
            "INSERT INTO item SELECT n, repeat('x', {ROW}) FROM generate_series(1, {ROWS}) n"
        ))
        .await?;
    // until nothing more has come for longer than Postgres waits for a sign of life
    let mut held = (proxy.bytes_to_us(), Instant::now());
    eventually(2 * DEADLINE, async || {
        let now = proxy.bytes_to_us();
        if now > held.0 + ROW / 8 {
            held = (now, Instant::now());
        }
        (now > ROW && held.1.elapsed() > Duration::from_secs(13)).then_some(())
    })
    .await?;
    let held = proxy.bytes_to_us();
    ensure!(held < HELD_MAX, "{held} bytes were read");
    ensure!(fixture.reader_pid().await? == pid, "the connection was cut");
    let ids = reader.transaction().await?;
    ensure!(ids == (1..=ROWS).collect::<Vec<i64>>() && reader.restarts == 0);
    eprintln!("{held} bytes read ahead of a consumer that stands still");
    Ok(())
}
