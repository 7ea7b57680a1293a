//! The slot and the publication: held back, invalidated, dropped, moved, taken over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::sleep;
use walcast_harness::{Proxy, Writer, eventually};

use crate::report::{by_form, is_full, within};
use crate::stage::{DEADLINE, DURABLE, OWNERS, SLOT, Stage, crowd, usual};

const MIB: i64 = 1 << 20;
/// What an idle published table may hold back.
const RETAINED_MAX: i64 = 64 * MIB;
/// After so long an operator has been told.
const ALARM: Duration = Duration::from_secs(10);

/// All clients stand still, in the full form for longer than Postgres waits for a sign of life (20 s).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b15_stalled_consumers() -> Result<()> {
    let small = [("outbox_bytes_max", "64KiB")];
    let mut stage = Stage::new("B15 stalled consumers", DURABLE, &small).await?;
    stage.record(6).await?;
    let sender = "select pid from pg_stat_replication where application_name <> 'walcast_witness'";
    let before: i32 = stage.sql.query_one(sender, &[]).await?.get(0);
    let load = stage.load(usual(300)).await?;
    for recorder in &stage.recorders {
        recorder.stall(true);
    }
    sleep(Duration::from_secs(by_form(6, 45))).await;
    let resident = stage.server().resident_bytes()? >> 20;
    for recorder in &stage.recorders {
        recorder.stall(false);
    }
    stage.figures.faults += 1;
    stage.figures.notes.push(format!("RSS {resident} MiB"));
    let book = load.finish().await?;
    let after: i32 = stage.sql.query_one(sender, &[]).await?.get(0);
    assert_eq!(before, after, "the replication connection lives");
    stage.judge(book).await.map(drop)
}

/// The published table rests while others write, in this database and in another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b16_b17_idle_tables_hold_nothing_back() -> Result<()> {
    let settings = [("max_wal_size", "256MB")];
    let mut stage = Stage::new("B16/B17 idle published table", &settings, &[]).await?;
    stage.record(2).await?;
    let other = stage.postgres.create_database().await?;
    let other = stage.postgres.connect("postgres", &other).await?;
    let mut most = 0;
    // 20 MB/s; what is confirmed lags by a second or two. A server that the machine keeps from running
    // lags by more: in the short form it is waited for.
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    for sql in [&stage.sql, &other] {
        sql.batch_execute("create table junk (body text)").await?;
        for _ in 0..by_form(5, 25) {
            sql.batch_execute(JUNK).await?;
            most = most.max(stage.held_back().await?);
            if !is_full() {
                stage.held_back_less_than(RETAINED_MAX / 2).await?;
            }
            pace.tick().await;
        }
    }
    let now = stage.held_back_less_than(MIB).await?;
    let megabytes = by_form(100, 500);
    stage.figures.notes.push(format!(
        "{megabytes} MB written elsewhere, unconfirmed at most {} MiB, at last {now} bytes",
        most / MIB
    ));
    assert!(most < RETAINED_MAX, "{most} bytes");
    stage.judge(Default::default()).await.map(drop)
}

/// 10 MB of WAL.
const JUNK: &str =
    "insert into junk select repeat(md5(n::text), 32) from generate_series(1, 9000) n";

impl Stage {
    /// WAL that the server has not confirmed.
    async fn held_back(&self) -> Result<i64> {
        let ask = "select pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn)::bigint
                   from pg_replication_slots where slot_name = $1";
        Ok(self.sql.query_one(ask, &[&SLOT]).await?.get(0))
    }

    async fn held_back_less_than(&self, bound: i64) -> Result<i64> {
        let confirmed = eventually(DEADLINE, async || {
            let now = self.held_back().await.ok()?;
            (now < bound).then_some(now)
        });
        confirmed
            .await
            .with_context(|| format!("more than {bound} bytes are held back"))
    }

    /// More WAL than the slots may keep; both are invalid then.
    async fn outgrow_the_slot(&mut self) -> Result<()> {
        self.execute("create table if not exists junk (body text)")
            .await?;
        let lost = "select count(*) filter (where wal_status = 'lost') = count(*) from pg_replication_slots";
        for _ in 0..20 {
            for _ in 0..2 {
                self.execute(JUNK).await?;
            }
            self.execute("select pg_switch_wal()").await?;
            self.execute("checkpoint").await?;
            if self.sql.query_one(lost, &[]).await?.get(0) {
                return Ok(());
            }
        }
        anyhow::bail!("the slot keeps its WAL")
    }

    /// Each client was told of a gap, and began anew.
    async fn everybody_is_told(&self) -> Result<()> {
        for recorder in &self.recorders {
            let again = |heed: &walcast_harness::Heed| heed.connected && heed.began > 1;
            recorder.heeds(again, DEADLINE).await.context("a gap")?;
        }
        Ok(())
    }

    async fn rows(&self, number: u16) -> Result<walcast_harness::Book> {
        let mut writer = Writer::new(&self.url(), number, self.seed, OWNERS);
        for rows in [1, 30, 200] {
            writer.insert(rows).await?;
        }
        Ok(writer.into_book())
    }
}

/// Slots are given up by checkpoints, so there are only those that are asked for.
const SMALL_SLOT: &[(&str, &str)] = &[
    ("max_slot_wal_keep_size", "1MB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1d"),
];

/// Postgres gave the slot up while the server was away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b18_invalidated_while_stopped() -> Result<()> {
    let mut stage = Stage::new("B18 slot invalidated, stopped", SMALL_SLOT, &[]).await?;
    stage.gaps_allowed = true;
    stage.record(6).await?;
    let mut book = stage.rows(1).await?;
    stage.quiet().await?;
    stage.witness.read(&stage.sql).await?;
    stage.server_mut().terminate().await?;
    book.transactions.extend(stage.rows(2).await?.transactions);
    stage.outgrow_the_slot().await?;
    stage.witness.renew(&stage.sql).await?;
    stage.start().await?;
    stage.told_of_the_lost_slot().await?;
    book.transactions.extend(stage.rows(3).await?.transactions);
    stage.figures.faults += 1;
    stage.judge(book).await.map(drop)
}

/// The same while the server runs, but does not get on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b19_invalidated_while_running() -> Result<()> {
    let mut stage = Stage::new("B19 slot invalidated, running", SMALL_SLOT, &[]).await?;
    stage.gaps_allowed = true;
    stage.record(6).await?;
    let mut book = stage.rows(1).await?;
    stage.quiet().await?;
    stage.witness.read(&stage.sql).await?;
    stage.server().signal("STOP").await?;
    stage.outgrow_the_slot().await?;
    stage.witness.renew(&stage.sql).await?;
    stage.server().signal("CONT").await?;
    let begin = Instant::now();
    stage.told_of_the_lost_slot().await?;
    stage.figures.first.push(begin.elapsed());
    within(Some(begin.elapsed()), ALARM)?;
    book.transactions.extend(stage.rows(3).await?.transactions);
    stage.figures.faults += 1;
    stage.judge(book).await.map(drop)
}

impl Stage {
    async fn told_of_the_lost_slot(&self) -> Result<()> {
        let named = |line: &str| line.contains(SLOT) && line.contains("max_slot_wal_keep_size");
        self.server()
            .logged(named, DEADLINE)
            .await
            .context("slot, cause and remedy")?;
        self.server().ready().await?;
        self.everybody_is_told().await
    }
}

/// An operator drops the slot under the running server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b20_dropped_while_running() -> Result<()> {
    let mut stage = Stage::new("B20 slot dropped, running", DURABLE, &[]).await?;
    stage.gaps_allowed = true;
    stage.record(6).await?;
    let load = stage.load(usual(120)).await?;
    sleep(Duration::from_secs(1)).await;
    // Dropping it needs its reader gone for a moment.
    let dropped = eventually(DEADLINE, async || {
        stage.sql.execute(END_READER, &[&SLOT]).await.ok()?;
        let dropped = stage.sql.execute(DROP_SLOT, &[&SLOT]).await.ok()?;
        (dropped == 1).then_some(())
    });
    dropped.await.context("dropping the slot")?;
    stage.everybody_is_told().await?;
    stage.figures.faults += 1;
    sleep(Duration::from_secs(1)).await;
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

const END_READER: &str = "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active";
const DROP_SLOT: &str = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and not active";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b20_dropped_while_stopped() -> Result<()> {
    while_stopped(
        "B20 slot dropped, stopped",
        &format!("select pg_drop_replication_slot('{SLOT}')"),
    )
    .await
}

/// Another consumer read from the slot: what it read is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b21_advanced_by_another() -> Result<()> {
    while_stopped(
        "B21 slot advanced",
        &format!("select pg_replication_slot_advance('{SLOT}', pg_current_wal_lsn())"),
    )
    .await
}

async fn while_stopped(scenario: &'static str, harm: &str) -> Result<()> {
    let mut stage = Stage::new(scenario, DURABLE, &[]).await?;
    stage.gaps_allowed = true;
    stage.record(6).await?;
    let mut book = stage.rows(1).await?;
    stage.quiet().await?;
    stage.server_mut().terminate().await?;
    book.transactions.extend(stage.rows(2).await?.transactions);
    // The process is gone, its walsender may not have noticed yet.
    let free = "select from pg_replication_slots where slot_name = $1 and not active";
    let free = eventually(DEADLINE, async || {
        stage.sql.query_opt(free, &[&SLOT]).await.ok()?
    });
    free.await.context("nobody reads from the slot")?;
    stage.execute(harm).await?;
    book.transactions.extend(stage.rows(3).await?.transactions);
    stage.start().await?;
    stage.everybody_is_told().await?;
    book.transactions.extend(stage.rows(4).await?.transactions);
    stage.figures.faults += 1;
    stage.judge(book).await.map(drop)
}

/// A second server waits for the slot and takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b22_a_standby_takes_over() -> Result<()> {
    let mut stage = Stage::new("B22 standby takes over", DURABLE, &[]).await?;
    stage.gaps_allowed = true; // it has a log of its own, which does not reach back
    let front = Proxy::start(stage.address).await?;
    let standby = stage.another(&[("listen", "127.0.0.1:0")]).await?;
    let subscribers: Vec<_> = crowd(6).collect();
    stage.record_through(front.address(), &subscribers).await?;
    let load = stage.load(usual(600)).await?;
    let stands_by = async || {
        let (status, body) = standby.get("/ready").await.ok()?;
        let body: Value = serde_json::from_str(&body).ok()?;
        let state = body["stream"].as_str()?.to_owned();
        (status == 503 && state.contains("standing by")).then_some(())
    };
    eventually(DEADLINE, stands_by).await?;
    sleep(Duration::from_secs(1)).await;
    let before = stage.acknowledged();
    front.redirect(standby.address());
    stage.server_mut().kill9().await?;
    let begin = Instant::now();
    standby.ready().await?;
    let took = begin.elapsed();
    front.cut();
    stage.recovered(begin, &before).await?;
    stage.figures.faults += 1;
    stage
        .figures
        .notes
        .push(format!("streaming after {:.1} s", took.as_secs_f64()));
    let book = load.finish().await?;
    stage.replace(standby);
    stage.judge(book).await?;
    within(Some(took), Duration::from_secs(10))
}

/// A transaction that was open before the very first start holds up the slot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b23_an_open_transaction_before_the_first_start() -> Result<()> {
    let mut stage = Stage::unstarted("B23 open transaction", DURABLE, &[]).await?;
    let open = stage.postgres.connect("postgres", &stage.database).await?;
    open.batch_execute("begin; create table held (id int)")
        .await?;
    let pid: i32 = open.query_one("select pg_backend_pid()", &[]).await?.get(0);
    stage.start().await?;
    let begin = Instant::now();
    let pid = pid.to_string();
    stage
        .state(&pid, DEADLINE)
        .await
        .context("/ready names the process")?;
    if by_form(false, true) {
        let named = |line: &str| line.contains(&pid);
        stage
            .server()
            .logged(named, ALARM * 2)
            .await
            .context("the log names the process")?;
        let told = begin.elapsed().as_secs_f64();
        stage
            .figures
            .notes
            .push(format!("progress line after {told:.1} s"));
    }
    open.batch_execute("commit").await?;
    let committed = Instant::now();
    stage.server().ready().await?;
    let took = committed.elapsed();
    stage.figures.notes.push(format!(
        "streaming {:.1} s after COMMIT",
        took.as_secs_f64()
    ));
    stage.witness.renew(&stage.sql).await?;
    stage.record(6).await?;
    let book = stage.rows(1).await?;
    stage.judge(book).await?;
    within(Some(took), Duration::from_secs(2))
}

/// What only an operator can mend ends the process with the cause and the remedy in one line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b24_misconfigured() -> Result<()> {
    // Name, settings of Postgres, what is done to it, what doctor must speak of.
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
        &'static str,
    );
    let cases: [Case; 4] = [
        ("wal_level", &[("wal_level", "replica")], "", "wal_level"),
        (
            "no slots",
            &[("max_replication_slots", "0")],
            "",
            "max_replication_slots",
        ),
        (
            "no right",
            &[],
            "create role plain login; grant usage on schema realtime, public to plain;
             grant select on all tables in schema realtime, public to plain",
            "REPLICATION",
        ),
        (
            "no publication",
            &[],
            "drop publication realtime",
            "publication",
        ),
    ];
    let mut figures = Vec::new();
    for (name, settings, harm, wanted) in cases {
        let mut stage = Stage::unstarted("B24 misconfigured", settings, &[]).await?;
        stage.set("migrate_on_start", "false");
        stage.execute(harm).await?;
        if name == "no right" {
            let url = stage.postgres.url("plain", &stage.database);
            stage.set("database_url", &url);
        }
        let begin = Instant::now();
        let (fine, out, errors) = stage.run(&["doctor"]).await?;
        assert!(!fine, "{name}: doctor is content:\n{out}{errors}");
        assert!(
            format!("{out}{errors}").contains(wanted),
            "{name}: {out}{errors}"
        );
        figures.push(format!("{name} {:.1} s", begin.elapsed().as_secs_f64()));
        stage.done();
    }
    eprintln!("{figures:?}");
    Ok(())
}

/// The publication is dropped under the running server, and made again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b29_publication_dropped() -> Result<()> {
    let mut stage = Stage::new("B29 publication dropped", DURABLE, &[]).await?;
    stage.gaps_allowed = true;
    stage.record(6).await?;
    let mut book = stage.rows(1).await?;
    stage.quiet().await?;
    stage.witness.read(&stage.sql).await?;
    stage.execute("drop publication realtime").await?;
    // Not in the publication: nobody decodes these, and clients are told of a gap.
    book.transactions.extend(stage.rows(2).await?.transactions);
    let begin = Instant::now();
    let alarmed = eventually(DEADLINE, async || {
        let (status, body) = stage.server().get("/ready").await.ok()?;
        (status == 503 && body.contains("publication")).then_some(())
    });
    alarmed.await.context("/ready says so")?;
    let took = begin.elapsed();
    stage.figures.first.push(took);
    stage
        .execute(
            "create publication realtime for table ledger with (publish_via_partition_root = true)",
        )
        .await?;
    stage.witness.renew(&stage.sql).await?;
    stage.server().ready().await?;
    stage.everybody_is_told().await?;
    book.transactions.extend(stage.rows(3).await?.transactions);
    stage.figures.faults += 1;
    stage.judge(book).await?;
    within(Some(took), ALARM)
}
