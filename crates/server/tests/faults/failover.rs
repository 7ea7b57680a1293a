//! A standby takes over: with the slot, without it, or with another one of the same name.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use walcast_harness::{Desk, Ledger, Load, Postgres, Proxy, StopMode, Weather, Writer, eventually};
use walcast_pgoutput::Lsn;

use crate::postgres::in_force;
use crate::report::by_form;
use crate::stage::{DEADLINE, DURABLE, OWNERS, SLOT, Stage, usual};

/// What a standby without the slot is like when the server meets it.
struct Promotion {
    scenario: &'static str,
    /// It has written more than the server had acknowledged: its LSNs look like a continuation.
    overtakes: bool,
    /// A slot of the same name was made on it, as tools for failover do.
    has_a_slot: bool,
    /// The server is not running meanwhile; clients come back with cursors of before.
    server_down: bool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b26_promoted_behind_us() -> Result<()> {
    let promotion = Promotion {
        scenario: "B26 standby, behind us",
        overtakes: false,
        has_a_slot: false,
        server_down: false,
    };
    without_the_slot(promotion).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b26_promoted_with_a_slot_of_that_name() -> Result<()> {
    let promotion = Promotion {
        scenario: "B26 standby, another slot",
        overtakes: true,
        has_a_slot: true,
        server_down: false,
    };
    without_the_slot(promotion).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b26_promoted_while_the_server_is_down() -> Result<()> {
    let promotion = Promotion {
        scenario: "B26 standby, server down",
        overtakes: true,
        has_a_slot: true,
        server_down: true,
    };
    without_the_slot(promotion).await
}

/// What the old primary told last never reached the new one: everybody must hear of the gap, and show
/// in the end what is there.
async fn without_the_slot(promotion: Promotion) -> Result<()> {
    let mut stage = Stage::unstarted(promotion.scenario, DURABLE, &[]).await?;
    let (standby, link) = stage.standby().await?;
    let front = stage.move_behind_proxy().await?;
    stage.start().await?;
    stage.server().ready().await?;
    stage.record(6).await?;
    let load = stage.load_through(&front).await?;
    let follower = standby.connect("postgres", &stage.database).await?;
    let there = async || -> Option<Lsn> {
        let ask = "select pg_last_wal_receive_lsn()::text";
        let row = follower.query_one(ask, &[]).await.ok()?;
        row.get::<_, Option<String>>(0)?.parse().ok()
    };
    sleep(Duration::from_secs(by_form(1, 5))).await;
    link.set(Weather::Blackhole);
    let frozen = eventually(DEADLINE, &there).await?;
    let ahead = eventually(DEADLINE, async || {
        let acknowledged = stage.acknowledged_lsn().await?;
        (acknowledged.0 > frozen.0 + (64 << 10)).then_some(acknowledged)
    });
    let ahead = ahead.await.context("the server is ahead of the standby")?;
    if promotion.server_down {
        stage.server_mut().kill9().await?;
    }
    drop(load); // what its writers know of their rows is the old primary's
    stage.postgres.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    stage.postgres = standby;
    stage.reconnect().await?;
    if promotion.has_a_slot {
        let slot = format!("select pg_create_logical_replication_slot('{SLOT}', 'pgoutput')");
        stage.execute(&slot).await?;
    }
    if promotion.overtakes {
        stage.write_past(ahead).await?;
    }
    front.redirect(([127, 0, 0, 1], stage.postgres.port()).into());
    front.cut();
    let stop = CancellationToken::new();
    let writers = stage.write_on(&stop);
    if promotion.server_down {
        stage.start().await?;
    }
    stage.everybody_began_anew().await?;
    stage.figures.faults += 1;
    sleep(Duration::from_secs(1)).await;
    stop.cancel();
    let written: usize = writers.join_all().await.into_iter().sum::<Result<_>>()?;
    let note = format!("everybody began anew; {written} transactions meanwhile");
    stage.figures.notes.push(note);
    stage.shows_what_is_there().await
}

/// From PostgreSQL 17 on a slot can live on a standby as well; the primary then sends nothing that the
/// standby does not have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b25_a_slot_that_fails_over() -> Result<()> {
    let Some(primary) = primary_with_failover().await? else {
        eprintln!("B25 needs PostgreSQL 17 or later: WALCAST_POSTGRES_17 names its programs");
        return Ok(());
    };
    let mut stage = Stage::on("B25 failover slot", primary, &[]).await?;
    stage.gaps_allowed = true; // it is another timeline
    stage.execute(FAILOVER_SLOTS).await?;
    let source = format!(
        "host=127.0.0.1 port={} user=postgres dbname={} application_name=standby",
        stage.postgres.port(),
        stage.database
    );
    stage.postgres.stop(StopMode::Fast).await?;
    let follows = [
        ("primary_conninfo", source.as_str()),
        ("primary_slot_name", "standby"),
        ("hot_standby_feedback", "on"),
    ];
    let standby = stage.postgres.standby(&follows).await?;
    stage.postgres.start_again().await?;
    stage.reconnect().await?;
    let follower = standby.connect("postgres", &stage.database).await?;
    for (server, setting) in [
        (&stage.sql, "synchronized_standby_slots = 'standby'"),
        (&stage.sql, "synchronous_standby_names = 'standby'"),
        // Its worker connects at once, and would wait for a minute to do so again.
        (&follower, "sync_replication_slots = on"),
    ] {
        let set = format!("alter system set {setting}");
        server.batch_execute(&set).await?;
        server.batch_execute("select pg_reload_conf()").await?;
    }
    in_force(&stage).await?;
    let front = stage.move_behind_proxy().await?;
    stage.start().await?;
    stage.server().ready().await?;
    stage.record(12).await?;
    stage.until_both_are_synced(&standby).await?;
    let load = stage.load_through(&front).await?;
    sleep(Duration::from_secs(by_form(3, 10))).await;
    let before = stage.acknowledged();
    stage.postgres.stop(StopMode::Immediate).await?;
    standby.promote().await?;
    stage.postgres = standby;
    stage.reconnect().await?;
    front.redirect(([127, 0, 0, 1], stage.postgres.port()).into());
    front.cut();
    let begin = std::time::Instant::now();
    stage.recovered(begin, &before).await?;
    stage.figures.faults += 1;
    sleep(Duration::from_secs(by_form(2, 10))).await;
    let book = load.finish().await?;
    let slot = "select count(*) from pg_replication_slots where slot_name = $1 and synced";
    let kept: i64 = stage.sql.query_one(slot, &[&SLOT]).await?.get(0);
    stage.figures.notes.push(format!(
        "{} outcomes asked; the slot is {}",
        book.asked(),
        if kept == 1 {
            "the old one"
        } else {
            "a new one"
        }
    ));
    stage.judge(book).await.map(drop)
}

/// The version that is put to the test, if it can; else the newest that is installed.
async fn primary_with_failover() -> Result<Option<Postgres>> {
    let usual = Postgres::start_with(DURABLE).await?;
    let sql = usual.connect("postgres", "postgres").await?;
    let version = "select current_setting('server_version_num')::int >= 170000";
    if sql.query_one(version, &[]).await?.get(0) {
        return Ok(Some(usual));
    }
    for major in [18, 17] {
        if let Some(primary) = Postgres::start_major(major, DURABLE).await? {
            return Ok(Some(primary));
        }
    }
    Ok(None)
}

/// The standby's own, the server's, and the witness's.
const FAILOVER_SLOTS: &str = "
    select pg_create_physical_replication_slot('standby', true);
    select pg_create_logical_replication_slot('faults', 'pgoutput', failover => true);
    select pg_create_logical_replication_slot('walcast_witness', 'pgoutput', failover => true);";

impl Stage {
    /// A standby of the same version, named `standby`, which has everything so far and gets what is to
    /// come through the proxy. The server must not run yet: the primary restarts.
    pub(crate) async fn standby(&mut self) -> Result<(Postgres, Proxy)> {
        let link = Proxy::start(([127, 0, 0, 1], self.postgres.port()).into()).await?;
        let source = format!(
            "host=127.0.0.1 port={} user=postgres application_name=standby",
            link.address().port()
        );
        self.postgres.stop(StopMode::Fast).await?;
        // Its primary starts only later, and may be lost for a moment; by default it tries every 5 s, for
        // which time nobody sees what waits for it, and the server gives up.
        let follows = [
            ("primary_conninfo", source.as_str()),
            ("wal_retrieve_retry_interval", "100ms"),
        ];
        let standby = self.postgres.standby(&follows).await?;
        self.postgres.start_again().await?;
        self.reconnect().await?;
        let reached = "select flush_lsn >= pg_current_wal_flush_lsn() from pg_stat_replication
                       where application_name = 'standby'";
        let follows = eventually(DEADLINE, async || {
            let row = self.sql.query_opt(reached, &[]).await.ok()??;
            row.get::<_, Option<bool>>(0)?.then_some(())
        });
        follows.await.context("the standby follows")?;
        Ok((standby, link))
    }

    /// Everything reaches Postgres through a proxy from now on: server, readers, marks.
    async fn move_behind_proxy(&mut self) -> Result<Proxy> {
        let front = Proxy::start(([127, 0, 0, 1], self.postgres.port()).into()).await?;
        let (url, checks) = (
            self.through(&front, "postgres"),
            self.through(&front, "walcast_checks"),
        );
        self.set("database_url", &url);
        self.set("rls_database_url", &checks);
        self.desk = Arc::new(Desk::new(url.clone()));
        self.marker = Writer::new(&url, 63, self.seed, OWNERS);
        Ok(front)
    }

    fn through(&self, proxy: &Proxy, user: &str) -> String {
        format!("postgres://{user}@{}/{}", proxy.address(), self.database)
    }

    async fn load_through(&self, proxy: &Proxy) -> Result<Ledger> {
        let load = Load {
            seed: self.seed,
            owners: OWNERS,
            ..usual(3600)
        };
        Ledger::start(&self.through(proxy, "postgres"), load).await
    }

    /// Writers that the old primary never knew, until the token ends them.
    fn write_on(&self, stop: &CancellationToken) -> JoinSet<Result<usize>> {
        let mut writers = JoinSet::new();
        for number in 20..23 {
            let mut writer = Writer::new(&self.url(), number, self.seed, OWNERS);
            let stop = stop.clone();
            writers.spawn(async move {
                while !stop.is_cancelled() {
                    writer.transaction(20).await?;
                    sleep(Duration::from_millis(20)).await;
                }
                Ok(writer.into_book().committed().count())
            });
        }
        writers
    }

    async fn acknowledged_lsn(&self) -> Option<Lsn> {
        let (_, body) = self.server().get("/ready").await.ok()?;
        let body: Value = serde_json::from_str(&body).ok()?;
        body["acknowledged_lsn"].as_str()?.parse().ok()
    }

    /// Writes to the new primary until its LSNs are greater than those of the old one.
    async fn write_past(&self, lsn: Lsn) -> Result<()> {
        let mut writer = Writer::new(&self.url(), 40, self.seed, OWNERS);
        let past = "select pg_current_wal_lsn() > $1::text::pg_lsn";
        for _ in 0..1000 {
            writer.insert(100).await?;
            if self.sql.query_one(past, &[&lsn.to_string()]).await?.get(0) {
                return Ok(());
            }
        }
        anyhow::bail!("the new primary is still behind {lsn}")
    }

    /// Each client was told of a gap, and began anew.
    pub(crate) async fn everybody_began_anew(&self) -> Result<()> {
        for recorder in &self.recorders {
            recorder
                .heeds(|heed| heed.connected && heed.began > 1, DEADLINE)
                .await
                .context("a gap")?;
        }
        Ok(())
    }

    /// A synced slot can be used after a promotion once it has been on the standby for good, which
    /// needs the primary's to move.
    async fn until_both_are_synced(&mut self, standby: &Postgres) -> Result<()> {
        let follower = standby.connect("postgres", &self.database).await?;
        let synced = "select count(*) from pg_replication_slots where synced and not temporary";
        for _ in 0..200 {
            self.quiet().await?;
            self.witness.read(&self.sql).await?;
            self.execute("select pg_log_standby_snapshot()").await?;
            if follower.query_one(synced, &[]).await?.get::<_, i64>(0) == 2 {
                return Ok(());
            }
            sleep(Duration::from_millis(200)).await;
        }
        anyhow::bail!("the slots are never synced:\n{}", standby.log())
    }
}
