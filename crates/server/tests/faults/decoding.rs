//! Large transactions, many at once, and a table that changes its form.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::{Instant, sleep};
use walcast_harness::{Load, Role, Socket, Subscriber, Writer};

use crate::report::by_form;
use crate::stage::{DEADLINE, DURABLE, OWNERS, SECRET, Stage, usual};

const RESIDENT_MAX: u64 = 512 << 20;
/// What a slow machine needs for a transaction of 200 MB before anybody gets its first row.
const PATIENCE: Duration = Duration::from_secs(600);

/// One huge transaction beside small ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c32_a_huge_transaction() -> Result<()> {
    let mut stage = Stage::new("C32 huge transaction", &[], &[]).await?;
    stage.record(6).await?;
    let load = Load {
        writers: 2,
        per_second: 20,
        rows_max: 20,
        ..usual(600)
    };
    let load = stage.load(load).await?;
    let begin = stage.server().resident_bytes()?;
    let mut writer = Writer::new(&stage.url(), 40, stage.seed, OWNERS);
    writer.insert(by_form(20_000, 100_000)).await?;
    writer.insert(by_form(20_000, 1_000_000)).await?;
    let most = peak(&mut stage).await?;
    stage.figures.notes.push(format!(
        "RSS {} MiB, at most {} MiB",
        begin >> 20,
        most >> 20
    ));
    let mut book = load.finish().await?;
    book.transactions.extend(writer.into_book().transactions);
    stage.judge(book).await?;
    assert!(most < RESIDENT_MAX, "{most} bytes");
    Ok(())
}

const LARGE: &str = "
    create table large (id bigint primary key, body text not null);
    alter table large enable row level security;
    create policy long on large for select to authenticated using (length(body) >= 1000000);
    grant select on large to authenticated;
    select enable_realtime('large');";

/// One transaction of rows of 1 to 8 MB, judged by Postgres and read whole by one client, beside
/// small ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c32_a_huge_transaction_of_large_rows() -> Result<()> {
    // A client that is sent rows of this size is given room for some; and if a busy machine makes
    // judging them slow, it is served from the log, which then has to have them all.
    let room = [("outbox_bytes_max", "32MiB"), ("log_bytes_max", "4GiB")];
    let mut stage = Stage::new("C32 large rows", &[], &room).await?;
    stage.execute(LARGE).await?;
    stage.record(6).await?;
    let rows = by_form(45, 450);
    let mut reader = LargeReader::subscribe(&stage).await?;
    let reader = tokio::spawn(async move {
        reader.read(rows).await?;
        anyhow::Ok(reader.connections)
    });
    let load = Load {
        writers: 2,
        per_second: 20,
        rows_max: 20,
        ..usual(600)
    };
    let load = stage.load(load).await?;
    let begin = stage.server().resident_bytes()?;
    stage
        .execute(&format!(
            "insert into large select n, repeat(md5(n::text), 31250 * (1 + n % 8)::int)
             from generate_series(1, {rows}) n"
        ))
        .await?;
    let mut most = peak(&mut stage).await?;
    while !reader.is_finished() {
        most = most.max(stage.server().resident_bytes()?);
        sleep(Duration::from_millis(50)).await;
    }
    let connections = reader.await??;
    let note = format!(
        "{rows} rows of 1 to 8 MB; RSS {} MiB, at most {} MiB; {connections} connections of their reader",
        begin >> 20,
        most >> 20
    );
    stage.figures.notes.push(note);
    let book = load.finish().await?;
    stage.judge(book).await?;
    assert!(most < RESIDENT_MAX, "{most} bytes");
    Ok(())
}

/// Reads `large` from the beginning, and comes back with its cursor when it was too slow.
struct LargeReader {
    address: String,
    socket: Socket,
    connections: usize,
}

impl LargeReader {
    async fn subscribe(stage: &Stage) -> Result<LargeReader> {
        let token = Subscriber::new(Role::Authenticated, 1).token(SECRET)?;
        let address = format!("ws://{}/realtime?token={token}", stage.address);
        let mut reader = LargeReader {
            socket: Socket::connect(&address).await?,
            address,
            connections: 1,
        };
        reader.ask(None).await?;
        Ok(reader)
    }

    async fn ask(&mut self, since: Option<&str>) -> Result<()> {
        let mut ask = json!({ "type": "subscribe", "channel": "table:large" });
        if let Some(since) = since {
            ask["since"] = since.into();
        }
        self.socket.send_json(&ask).await?;
        let answer = self.socket.next_json(DEADLINE).await?;
        anyhow::ensure!(answer["type"] == "ack", "{answer}");
        Ok(())
    }

    async fn read(&mut self, rows: i64) -> Result<()> {
        let mut since = None;
        let mut id = 0;
        while id < rows {
            let message = match self.socket.next_json(PATIENCE).await {
                Ok(message) => message,
                Err(error) => {
                    let since: Option<&String> = since.as_ref();
                    let since = since.with_context(|| format!("before the first row: {error}"))?;
                    self.socket = Socket::connect(&self.address).await?;
                    self.connections += 1;
                    self.ask(Some(since)).await?;
                    continue;
                }
            };
            let payload = &message["payload"];
            let Some(cursor) = payload["cursor"].as_str() else {
                anyhow::ensure!(message["event"] == "caught_up", "{message}");
                continue;
            };
            since = Some(cursor.to_owned());
            id += 1;
            anyhow::ensure!(payload["record"]["id"] == id, "not row {id}");
            let length = payload["record"]["body"].as_str().map_or(0, str::len);
            anyhow::ensure!(
                length as i64 == (1 + id % 8) * 1_000_000,
                "row {id}: {length}"
            );
        }
        Ok(())
    }
}

/// The most memory used until everybody has everything.
async fn peak(stage: &mut Stage) -> Result<u64> {
    let mut most = stage.server().resident_bytes()?;
    let end = Instant::now() + PATIENCE;
    let mark = stage.mark().await?;
    while stage
        .recorders
        .iter()
        .any(|one| !one.now().marks.contains(&mark))
    {
        anyhow::ensure!(Instant::now() < end, "not everybody has everything");
        most = most.max(stage.server().resident_bytes()?);
        sleep(Duration::from_millis(50)).await;
    }
    Ok(most)
}

/// Many connections commit at the same time: the order is that of their commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c33_many_at_once() -> Result<()> {
    let mut stage = Stage::new("C33 32 writers", &[], &[]).await?;
    stage.record(6).await?;
    let load = Load {
        writers: 32,
        per_second: 2000,
        rows_max: 3,
        ..usual(600)
    };
    let load = stage.load(load).await?;
    sleep(Duration::from_secs(by_form(3, 20))).await;
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

/// What an application's migrations do, at any time, in transactions and outside.
const STORM: &[&str] = &[
    "alter table ledger add column extra int default 7",
    "begin; alter table ledger add column gone text; alter table ledger drop column gone; commit",
    "alter table ledger alter column extra type text using extra::text",
    "begin; alter table ledger rename column body to other; rollback",
    "alter table ledger rename column extra to renamed",
    "begin; drop policy own on ledger;
     create policy own on ledger for select to authenticated, masked using (auth.uid() = owner); commit",
    "create table swapped (like ledger including all); select enable_realtime('swapped')",
    "begin; drop policy team on ledger;
     create policy team on ledger for select to team using (owner in
         (select m.owner from ledger_members m where m.member = auth.uid())); commit",
    "begin; alter table swapped rename to swapped_old;
     create table swapped (id int primary key, body text); select enable_realtime('swapped');
     insert into swapped values (1, 'x'); commit",
    "alter table ledger drop column renamed",
    "drop table swapped, swapped_old",
    "begin; alter table ledger replica identity default; alter table ledger replica identity full; commit",
    "create index storm on ledger (version); drop index storm",
    "alter table ledger alter column version set statistics 10",
    "analyze ledger",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c34_ddl_storm() -> Result<()> {
    let mut stage = Stage::new("C34 DDL storm", &[], &[]).await?;
    stage.record(12).await?;
    let load = stage.load(usual(600)).await?;
    for _ in 0..by_form(2, 10) {
        for statements in STORM {
            stage.execute(statements).await?;
            stage.figures.faults += 1;
            sleep(Duration::from_millis(60)).await;
        }
    }
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

/// The usual load with transactions of every size, and clients that begin and end meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_in_the_middle() -> Result<()> {
    let mut stage = Stage::new("clients come and go", DURABLE, &[]).await?;
    let load = stage.load(usual(600)).await?;
    for _ in 0..by_form(3, 10) {
        stage.record(6).await?;
        sleep(Duration::from_millis(700)).await;
    }
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}
