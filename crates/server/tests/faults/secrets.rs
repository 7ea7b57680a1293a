//! What a stranger may not know is not to be learnt from an error, nor from the time that it takes.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::{Role, Socket, Subscriber};

use crate::report::by_form;
use crate::stage::{DEADLINE, SECRET, Stage};

/// What one learns nothing from: channel and filter.
const UNKNOWABLE: &[(&str, Option<&str>)] = &[
    ("table:missing", None),
    ("table:forbidden", None),
    ("table:unpublished", None),
    ("table:nowhere.missing", None),
    ("table:closed.there", None),
    ("table:partly", Some("missing=eq.1")),
    ("table:partly", Some("hidden=eq.1")),
    ("table:missing", Some("id=eq.1")),
    ("table:forbidden", Some("id=eq.1")),
];

const TABLES: &str = "
    create table forbidden (id int primary key); select enable_realtime('forbidden');
    create table unpublished (id int primary key); grant select on unpublished to authenticated;
    create table partly (id int primary key, hidden int); grant select (id) on partly to authenticated;
    select enable_realtime('partly');
    create schema closed; create table closed.there (id int primary key);
    grant select on closed.there to authenticated; select enable_realtime('closed.there');
    insert into forbidden select generate_series(1, 10000)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d53_refusals_look_alike_and_take_alike() -> Result<()> {
    let mut stage = Stage::new("D53 error oracle", &[], &[]).await?;
    stage.execute(TABLES).await?;
    let token = Subscriber::new(Role::Authenticated, 1).token(SECRET)?;
    let address = format!("ws://{}/realtime?token={token}", stage.address);
    let mut socket = Socket::connect(&address).await?;
    let mut times = vec![Vec::new(); UNKNOWABLE.len()];
    let mut first = None;
    for round in 0..by_form(60, 500) {
        // Each time another one is the first.
        for nth in 0..UNKNOWABLE.len() {
            let nth = (nth + round) % UNKNOWABLE.len();
            let (channel, filter) = UNKNOWABLE[nth];
            let begin = Instant::now();
            let answer = ask(&mut socket, channel, filter).await?;
            times[nth].push(begin.elapsed());
            let first = first.get_or_insert_with(|| answer.clone());
            assert_eq!(answer, *first, "{channel} {filter:?}");
        }
    }
    let typical: Vec<_> = times.into_iter().map(usual).collect();
    let quickest = typical.iter().min().copied().unwrap_or_default();
    let slowest = typical.iter().max().copied().unwrap_or_default();
    let note = format!("{quickest:?} to {slowest:?}");
    stage.figures.notes.push(note);
    let noise = by_form(Duration::from_millis(5), Duration::from_micros(200));
    let bound = quickest.mul_f64(by_form(2.0, 1.2)) + noise;
    let all: Vec<_> = typical.iter().zip(UNKNOWABLE).collect();
    assert!(slowest < bound, "{all:?}");
    stage.passed();
    Ok(())
}

/// The answer without what was asked.
async fn ask(socket: &mut Socket, channel: &str, filter: Option<&str>) -> Result<String> {
    let mut ask = json!({ "type": "subscribe", "channel": channel });
    if let Some(filter) = filter {
        ask["filter"] = filter.into();
    }
    socket.send_json(&ask).await?;
    let mut answer = socket.next_json(DEADLINE).await?;
    anyhow::ensure!(answer["type"] == "error", "{channel}: {answer}");
    answer["channel"] = Value::Null;
    let mut text = answer.to_string();
    let table = channel.trim_start_matches("table:");
    let parts = [
        Some(table),
        table.rsplit('.').next(),
        filter.and_then(|filter| filter.split('=').next()),
    ];
    for part in parts.into_iter().flatten() {
        text = text.replace(part, "…");
    }
    Ok(text)
}

/// The lower quartile: a busy machine adds to the others. In the short form, where it may be busy all the
/// time, the quickest.
fn usual(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[by_form(0, times.len() / 4)]
}
