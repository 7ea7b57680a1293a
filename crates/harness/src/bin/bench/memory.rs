//! Resident memory of the walcast process for each idle connection, every one a user of its own.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::Options;
use crate::client::Client;
use crate::dialect::{Dialect, Wish};
use crate::process::{files_max, settled_bytes};
use crate::report::{Goal, Report, progress};
use crate::stage::{PLAIN, Stage, insert, token};

/// Handshakes that go on at the same time.
const CONNECTING_MAX: usize = 64;

/// Nothing that a client sends is too much.
pub(crate) const UNLIMITED: &[(&str, &str)] = &[
    ("messages_per_minute_max", "0"),
    ("supabase_messages_per_second_max", "0"),
    ("supabase_joins_per_second_max", "0"),
];

/// Pings and time limits would come in between.
pub(crate) const QUIET: &[(&str, &str)] = &[("ping_interval", "1h"), ("idle_timeout", "2h")];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let sockets = options.size(5_000, 1_000);
    progress(&format!("memory: {sockets} connections"));
    ensure!(
        files_max()? > sockets + 200,
        "raise the limit on open files: ulimit -n 20000"
    );
    let (database, sql) = stage.database().await?;
    let walcast = stage.walcast(&database, QUIET).await?;
    let id = walcast.id().context("it runs")?;
    let before = settled_bytes(id).await?;
    let case = format!("{sockets} sockets");
    let mut tell = |figure: &str, bytes: f64, goal: Option<Goal>| {
        let each = (bytes - before) / sockets as f64 / 1024.0;
        report.add("memory", &case, figure, each, "KiB each", goal);
    };
    let mut clients = connect(walcast.address(), Dialect::Native, sockets).await?;
    tell("connected", settled_bytes(id).await?, None);
    for client in &mut clients {
        client.join(&Wish::Table(PLAIN.name)).await?;
    }
    tell(
        "with a subscription",
        settled_bytes(id).await?,
        Some(Goal::AtMost(16.0)),
    );
    sql.batch_execute(&insert(PLAIN, 1, 100, 1)).await?;
    let mut listening = JoinSet::new();
    for client in clients {
        listening.spawn(client.listen(|_| Ok(())));
    }
    tell("after 100 rows to each", settled_bytes(id).await?, None);
    ensure!(
        listening.try_join_next().is_none(),
        "a connection was closed:\n{}",
        walcast.log()
    );
    report.add(
        "memory",
        "no connection",
        "the process",
        before / 1024.0 / 1024.0,
        "MiB",
        None,
    );
    Ok(())
}

/// Each with a user of its own.
pub(crate) async fn connect(
    address: SocketAddr,
    dialect: Dialect,
    count: usize,
) -> Result<Vec<Client>> {
    let mut clients = Vec::with_capacity(count);
    let mut connecting = JoinSet::new();
    for number in 0..count {
        if connecting.len() == CONNECTING_MAX {
            clients.push(connecting.join_next().await.context("one is there")???);
        }
        let token = token(number)?;
        connecting.spawn(async move { Client::connect(address, dialect, &token).await });
    }
    while let Some(client) = connecting.join_next().await {
        clients.push(client??);
    }
    Ok(clients)
}
