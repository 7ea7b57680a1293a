//! How soon a subscriber has an event again: after `kill -9` of the server, after a restart of Postgres.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memchr::memmem;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client as Sql;
use walcast_harness::{StopMode, Walcast};

use crate::Options;
use crate::client::Client;
use crate::dialect::{Dialect, Wish};
use crate::drain::drop_slot;
use crate::frames::record_id;
use crate::report::{Goal, Report, progress};
use crate::samples::Samples;
use crate::stage::{PLAIN, Stage, insert, token};
use crate::start;

/// One recovery may take so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A client that can't subscribe yet tries again after this.
const AGAIN: Duration = Duration::from_millis(20);

/// A durable slot: what was committed while nobody listened is to be delivered too.
const SLOT: &str = "recovery";
const SETTINGS: &[(&str, &str)] = &[
    ("slot_name", SLOT),
    ("slot_mode", "durable"),
    ("messages_per_minute_max", "0"),
];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let times = options.size(5, 2);
    progress(&format!("recovery: {times} times each"));
    let killed = kills(stage, times).await.context("kill -9")?;
    tell("kill -9 of walcast", killed, 5.0, report);
    for (case, mode) in [
        ("Postgres restarts", StopMode::Fast),
        ("Postgres crashes", StopMode::Immediate),
    ] {
        let back = restarts(stage, times, mode).await.context(case)?;
        tell(case, back, 3.0, report);
    }
    start::run(stage, options, report).await
}

fn tell(case: &str, times: Vec<Duration>, goal: f64, report: &mut Report) {
    let samples = Samples::new(times);
    let mut add = |figure: &str, share: f64, goal| {
        let seconds = samples.percentile_ms(share) / 1000.0;
        report.add("recovery", case, figure, seconds, "s", goal);
    };
    add("first event, median", 0.5, None);
    add("first event, worst", 1.0, Some(Goal::AtMost(goal)));
}

/// From the kill to the first event: one that was committed while no server ran.
async fn kills(stage: &Stage, times: usize) -> Result<Vec<Duration>> {
    let (database, sql) = stage.database().await?;
    let mut walcast = stage.walcast(&database, SETTINGS).await?;
    let mut seen = Vec::new();
    for nth in 0..times {
        let mut client = Client::connect(walcast.address(), Dialect::Native, &token(0)?).await?;
        client.join(&Wish::Table(PLAIN.name)).await?;
        let since = event(&sql, &mut client, 2 * nth).await?;
        let begin = Instant::now();
        walcast.kill9().await?;
        sql.batch_execute(&insert(PLAIN, 2 * nth + 1, 1, 1)).await?;
        walcast = stage.start(&database, SETTINGS).await?;
        let first = timeout(PATIENCE, come_back(&walcast, &since)).await;
        let first = first.with_context(|| walcast.log())??;
        ensure!(first == 2 * nth + 1, "{first} is another row");
        seen.push(begin.elapsed());
    }
    walcast.terminate().await?;
    let sql = stage.postgres.connect("postgres", &database).await?;
    drop_slot(&sql, SLOT).await?;
    Ok(seen)
}

/// Commits a row and waits for its event; returns the event's cursor.
async fn event(sql: &Sql, client: &mut Client, id: usize) -> Result<String> {
    sql.batch_execute(&insert(PLAIN, id, 1, 1)).await?;
    let heard = client.hear(|message| {
        if record_id(message) != Some(id) {
            return Ok(None);
        }
        let message: serde_json::Value = serde_json::from_slice(message)?;
        let cursor = message["payload"]["cursor"].as_str();
        Ok(Some(cursor.context("a cursor")?.to_owned()))
    });
    timeout(PATIENCE, heard).await.context("no event")?
}

/// The first event after `since`; tries until the server is able to tell.
async fn come_back(walcast: &Walcast, since: &str) -> Result<usize> {
    let table = PLAIN.name;
    let ask = format!(r#"{{"type":"subscribe","channel":"table:{table}","since":"{since}"}}"#);
    let mut client = Client::connect(walcast.address(), Dialect::Native, &token(0)?).await?;
    loop {
        client.say(&ask).await?;
        let heard = client.hear(|message| {
            let refused = memmem::find(message, br#""type":"error""#).is_some();
            Ok(record_id(message).map(Some).or(refused.then_some(None)))
        });
        match heard.await? {
            Some(id) => return Ok(id),
            None => sleep(AGAIN).await,
        }
    }
}

/// From the moment when Postgres takes connections again to the first event at a client that stayed.
async fn restarts(stage: &Stage, times: usize, mode: StopMode) -> Result<Vec<Duration>> {
    let (database, sql) = stage.database().await?;
    let mut walcast = stage.walcast(&database, SETTINGS).await?;
    let mut client = Client::connect(walcast.address(), Dialect::Native, &token(0)?).await?;
    client.join(&Wish::Table(PLAIN.name)).await?;
    event(&sql, &mut client, 0).await?;
    let mut seen = Vec::new();
    for id in 1..=times {
        stage.postgres.restart(mode).await?;
        let begin = Instant::now();
        let sql = stage.postgres.connect("postgres", &database).await?;
        event(&sql, &mut client, id)
            .await
            .with_context(|| walcast.log())?;
        seen.push(begin.elapsed());
    }
    walcast.terminate().await?;
    let sql = stage.postgres.connect("postgres", &database).await?;
    drop_slot(&sql, SLOT).await?;
    Ok(seen)
}
