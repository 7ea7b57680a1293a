//! The network between Postgres and the server, and between the server and its clients.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::time::sleep;
use walcast_harness::{
    Beginning, Load, Proxy, Recorder, Role, Subscriber, Weather, Writer, eventually,
};

use crate::report::{by_form, is_full, within};
use crate::stage::{DEADLINE, DURABLE, OWNERS, Stage, crowd, usual};

/// Every connection to Postgres is reset, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a8_resets() -> Result<()> {
    let (mut stage, proxy) = Stage::behind_proxy("A8 resets every 2 s", DURABLE, &[]).await?;
    stage.record(12).await?;
    let load = stage.load(usual(300)).await?;
    for _ in 0..by_form(4, 30) {
        sleep(Duration::from_secs(2)).await;
        proxy.cut();
        stage.figures.faults += 1;
    }
    let book = load.finish().await?;
    let log = stage.server().log();
    let tries = log.matches("replication stream ended").count();
    let faults = stage.figures.faults;
    stage.figures.notes.push(format!("{tries} reconnects"));
    assert!(
        tries <= 2 * faults,
        "no storm of tries: {tries} for {faults} resets"
    );
    stage.judge(book).await.map(drop)
}

/// Nothing arrives and nobody is told; the server finds out by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a9_black_hole() -> Result<()> {
    if !is_full() {
        eprintln!("A9 runs in the full form only: it takes 45 s");
        return Ok(());
    }
    let patience = [("rls_statement_timeout", "1s")]; // as it is by default
    let (mut stage, proxy) = Stage::behind_proxy("A9 black hole", DURABLE, &patience).await?;
    stage.record(12).await?;
    let load = stage.load(usual(300)).await?;
    sleep(Duration::from_secs(1)).await;
    let begin = Instant::now();
    proxy.set(Weather::Blackhole);
    let ended = |line: &str| line.contains("replication stream ended");
    stage.server().logged(ended, DEADLINE).await?;
    let noticed = begin.elapsed();
    sleep(Duration::from_secs(10)).await;
    // What was under way is lost with its connections, as after a real partition.
    proxy.cut();
    proxy.set(Weather::Fair);
    stage.figures.faults += 1;
    stage
        .figures
        .notes
        .push(format!("noticed after {:.1} s", noticed.as_secs_f64()));
    stage.quiet().await?;
    let book = load.finish().await?;
    stage.judge(book).await?;
    assert!(noticed <= Duration::from_secs(30), "{noticed:?}");
    Ok(())
}

/// What a narrow line needs for a few megabytes and the questions of the checks, which share its lot.
const NARROW_DEADLINE: Duration = Duration::from_secs(400);

/// 50 KB/s and 200 ms there and back: the stream is behind, and is not given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a10_slow_link() -> Result<()> {
    let (mut stage, proxy) = Stage::behind_proxy("A10 50 KB/s", DURABLE, &[]).await?;
    stage.record(6).await?;
    proxy.set(Weather::Narrow {
        bytes_per_second: 50_000,
        latency: Duration::from_millis(100),
    });
    let mut writer = Writer::new(&stage.url(), 1, stage.seed, OWNERS);
    for _ in 0..10 {
        writer.insert(by_form(100, 1000)).await?;
    }
    let begin = Instant::now();
    let behind = eventually(NARROW_DEADLINE, async || {
        lag(&stage).await.filter(|lag| *lag > 2.0)
    });
    behind.await.context("the lag rises")?;
    stage.quiet_within(NARROW_DEADLINE).await?;
    let behind = begin.elapsed().as_secs_f64();
    stage.figures.notes.push(format!("{behind:.0} s behind"));
    let log = stage.server().log();
    assert!(
        !log.contains("replication stream ended"),
        "the stream was kept:\n{log}"
    );
    proxy.set(Weather::Fair);
    let drained = eventually(DEADLINE, async || {
        stage.quiet().await.ok()?;
        lag(&stage).await.filter(|lag| *lag < 2.0)
    });
    drained.await.context("the lag drains")?;
    stage.judge(writer.into_book()).await.map(drop)
}

/// From the commit of the last change until it was delivered: what the server says of itself.
async fn lag(stage: &Stage) -> Option<f64> {
    let (_, metrics) = stage.server().get("/metrics").await.ok()?;
    let mut lines = metrics.lines();
    lines
        .find_map(|line| line.strip_prefix("walcast_delivery_lag_seconds "))?
        .trim()
        .parse()
        .ok()
}

/// Pieces of 1 to 7 bytes on both links.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a11_sliced() -> Result<()> {
    let (mut stage, proxy) = Stage::behind_proxy("A11 sliced", DURABLE, &[]).await?;
    proxy.set(Weather::Sliced);
    let front = Proxy::start(stage.address).await?;
    front.set(Weather::Sliced);
    let subscribers: Vec<_> = crowd(6).collect();
    stage.record_through(front.address(), &subscribers).await?;
    let load = Load {
        per_second: 20,
        rows_max: 50,
        ..usual(300)
    };
    let load = stage.load(load).await?;
    sleep(Duration::from_secs(by_form(3, 15))).await;
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

/// Many clients are cut in the middle of whatever they were reading, and all come back at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a12_everybody_comes_back() -> Result<()> {
    const MISSED: usize = 10;
    let clients = by_form(200, 1000);
    let spoken = [
        DURABLE,
        &[("log_statement", "all"), ("log_line_prefix", "%u ")],
    ]
    .concat();
    let mut stage = Stage::new("A12 all clients cut", &spoken, &[]).await?;
    let front = Proxy::start(stage.address).await?;
    for user in 1..=clients {
        let subscriber = Subscriber::new(Role::Authenticated, user);
        let mut recording = stage.recording(front.address(), subscriber);
        recording.beginning = Beginning::Nothing;
        stage.recorders.push(Recorder::start(recording)?);
    }
    stage.subscribed().await?;
    let mut writer = Writer::new(&stage.url(), 1, stage.seed, OWNERS);
    writer.insert(500).await?;
    stage.quiet().await?;
    for _ in 0..by_form(1, 3) {
        front.set(Weather::Refusing);
        let before = stage.acknowledged();
        front.cut();
        for recorder in &stage.recorders {
            recorder.heeds(|heed| !heed.connected, DEADLINE).await?;
        }
        for _ in 0..MISSED {
            writer.mark().await?;
        }
        let asked = statements(&stage).count();
        let read = readings(&stage);
        front.set(Weather::Fair);
        let begin = Instant::now();
        stage.recovered(begin, &before).await?;
        stage.quiet().await?;
        let asked = statements(&stage).count() - asked;
        stage.figures.faults += usize::from(clients);
        stage.figures.notes.push(format!("{asked} statements"));
        assert_eq!(
            readings(&stage),
            read,
            "what was missed is read from the log, not from the table"
        );
        // What a policy makes of the claims of a viewer is asked once when it comes.
        assert!(
            asked < usize::from(clients) * 8,
            "{asked} statements for {clients} clients"
        );
    }
    let all = stage.figures.all.iter().max().copied();
    stage.judge(writer.into_book()).await?;
    within(all, Duration::from_secs(10))
}

/// What the server's checks asked so far.
fn statements(stage: &Stage) -> impl Iterator<Item = String> {
    let log = stage.postgres.log();
    let asked: Vec<_> = log
        .lines()
        .filter(|line| line.starts_with("walcast_checks LOG:"))
        .map(str::to_owned)
        .collect();
    asked.into_iter()
}

/// How many of them read the table itself.
fn readings(stage: &Stage) -> usize {
    let reads = |line: &String| line.contains("FROM public.ledger") || line.contains("from ledger");
    statements(stage).filter(reads).count()
}
