//! Broadcast: one publisher to a thousand subscribers, how fast channels are joined, what they weigh.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::{JoinSet, spawn_blocking};
use walcast_harness::Walcast;

use crate::Options;
use crate::client::Client;
use crate::crowd::{Crowd, Members, Sees};
use crate::dialect::{Dialect, Wish};
use crate::load::{Load, Speaker};
use crate::memory::{QUIET, UNLIMITED, connect};
use crate::process::{cpu_seconds, settled_bytes};
use crate::report::{Report, progress};
use crate::stage::{Stage, token};
use crate::times::Times;

const DIALECTS: [Dialect; 2] = [Dialect::Native, Dialect::Phoenix];
const PAYLOADS: [usize; 2] = [100, 4096];
const TOPIC: &str = "bench";

/// What may wait for one subscriber; half of what the server lets wait.
const WAITING_BYTES: usize = 512 * 1024;

/// What is sent while delays are measured, of what arrives when as much as possible is sent.
const PACED_SHARE: f64 = 0.5;

/// Ids of one crowd: more than arrive in a few seconds.
const IDS: usize = 500_000;

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let (database, _sql) = stage.database().await?;
    let settings = [QUIET, UNLIMITED].concat();
    for dialect in DIALECTS {
        let walcast = stage.walcast(&database, &settings).await?;
        progress(&format!("channels: joins, {}", dialect.name()));
        joins(&walcast, dialect, options, report).await?;
        for bytes in PAYLOADS {
            progress(&format!("channels: {bytes} bytes, {}", dialect.name()));
            fan_out(&walcast, dialect, bytes, options, report)
                .await
                .with_context(|| walcast.log())?;
        }
    }
    Ok(())
}

/// Each connection joins one topic after the other, each with its answer; all at the same time.
async fn joins(
    walcast: &Walcast,
    dialect: Dialect,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    const PER_CONNECTION: usize = 50;
    let connections = options.size(200, 20);
    let id = walcast.id().context("it runs")?;
    let clients = connect(walcast.address(), dialect, connections).await?;
    let before = settled_bytes(id).await?;
    let begin = Instant::now();
    let mut joining = JoinSet::new();
    for (number, mut client) in clients.into_iter().enumerate() {
        joining.spawn(async move {
            for nth in 0..PER_CONNECTION {
                let topic = Wish::Topic(format!("topic-{number}-{nth}"));
                client.join(&topic).await?;
            }
            anyhow::Ok(client)
        });
    }
    let mut clients: Vec<Client> = Vec::new();
    while let Some(client) = joining.join_next().await {
        clients.push(client??);
    }
    let seconds = begin.elapsed().as_secs_f64();
    let count = (connections * PER_CONNECTION) as f64;
    let each = (settled_bytes(id).await? - before) / count;
    let case = format!("{count} topics, {}", dialect.name());
    let mut add = |figure, value, unit| {
        report.add("channels", case.as_str(), figure, value, unit, None);
    };
    add("joins", count / seconds, "/s");
    add("memory of a joined channel", each, "bytes");
    Ok(())
}

async fn fan_out(
    walcast: &Walcast,
    dialect: Dialect,
    bytes: usize,
    options: &Options,
    report: &mut Report,
) -> Result<()> {
    const MEMBERS: usize = 1000;
    let id = walcast.id().context("it runs")?;
    let times = Arc::new(Times::new(0, IDS));
    let members = Members {
        address: walcast.address(),
        dialect,
        count: MEMBERS,
        wish: Wish::Topic(TOPIC.into()),
        sees: Sees::All,
        times: Some(times.clone()),
    };
    let crowd = Crowd::gather(members).await?;
    let speaker = speaker(walcast, dialect, bytes).await?;
    let window = (WAITING_BYTES / (bytes + 200)).min(500);
    let load = Load {
        crowd,
        times,
        speaker,
        next: 0,
        window,
        batch: (window / 8).max(1),
    };
    let time = Duration::from_millis(options.size(4_000, 500) as u64);
    let measured = spawn_blocking(move || {
        let mut load = load;
        let before = cpu_seconds(id)?;
        let flood = load.flood(time)?;
        let cpu = (cpu_seconds(id)? - before) / load.next as f64;
        let paced = load.pace(flood.rate * PACED_SHARE, time)?;
        anyhow::Ok((flood, cpu, paced))
    });
    let (flood, cpu, paced) = measured.await??;
    let case = format!("{bytes} B to {MEMBERS}, {}", dialect.name());
    let members = MEMBERS as f64;
    let mut add = |figure: &str, value, unit| {
        report.add("channels", case.as_str(), figure, value, unit, None);
    };
    add("deliveries", flood.rate * members, "/s");
    add("processor time a delivery", cpu * 1e6 / members, "us");
    add("at half of that", paced.rate * members, "/s");
    add("… p50", paced.delays.percentile_ms(0.5), "ms");
    add("… p99", paced.delays.percentile_ms(0.99), "ms");
    Ok(())
}

/// One more client, which joined the topic, and hears nothing of its own.
async fn speaker(walcast: &Walcast, dialect: Dialect, payload_bytes: usize) -> Result<Speaker> {
    let mut client = Client::connect(walcast.address(), dialect, &token(999_999)?).await?;
    client.join(&Wish::Topic(TOPIC.into())).await?;
    let (stream, _) = client.into_blocking()?;
    Ok(Speaker::Messages {
        stream,
        dialect,
        topic: TOPIC.into(),
        payload_bytes,
    })
}
