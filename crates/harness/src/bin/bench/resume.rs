//! Very many clients that come back within one second, each of which missed a hundred events.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use memchr::memmem;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_postgres::Client as Sql;
use walcast_harness::Walcast;

use crate::Options;
use crate::client::Client;
use crate::crowd::on_a_thread;
use crate::dialect::{Dialect, Wish};
use crate::drain::acknowledged;
use crate::frames::record_id;
use crate::memory::connect;
use crate::process::{cpu_seconds, files_max, resident_peak_bytes, settled_bytes};
use crate::report::{Report, progress};
use crate::samples::Samples;
use crate::stage::{OWN_ROWS, PLAIN, Stage, Table, insert, token};

/// Events that each of them missed.
const MISSED: usize = 100;

/// They come evenly spread over this.
const WITHIN: Duration = Duration::from_secs(1);

/// Handshakes that go on at the same time: with more than the server's queue of connections holds,
/// the kernel's retransmission would be measured.
const CONNECTING_MAX: usize = 900;

/// All of them must have caught up after this.
const PATIENCE: Duration = Duration::from_secs(60);

/// Statistics of the database are at most this old.
const STATISTICS: Duration = Duration::from_millis(1_500);

const SETTINGS: &[(&str, &str)] = &[
    ("messages_per_minute_max", "0"),
    ("ping_interval", "1h"),
    ("idle_timeout", "2h"),
];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let clients = options.size(10_000, 500);
    ensure!(
        files_max()? > clients + 200,
        "raise the limit on open files: ulimit -n 20000"
    );
    for (name, table) in [("public table", PLAIN), ("own rows", OWN_ROWS)] {
        progress(&format!(
            "resume: {clients} clients x {MISSED} events, {name}"
        ));
        comeback(stage, table, clients, report)
            .await
            .with_context(|| format!("{clients} clients, {name}"))?;
    }
    Ok(())
}

async fn comeback(stage: &Stage, table: Table, clients: usize, report: &mut Report) -> Result<()> {
    let (database, sql) = stage.database().await?;
    let walcast = stage.walcast(&database, SETTINGS).await?;
    let id = walcast.id().context("it runs")?;
    let anew = subscribing(&walcast, &sql, &database, table).await?;
    let since = cursor(&walcast, table).await?;
    let missed = miss(&walcast, &sql, table, clients).await?;
    let before = settled_bytes(id).await?;
    let (transactions, cpu) = (transactions(&sql, &database).await?, cpu_seconds(id)?);
    let returned = Returning {
        address: walcast.address(),
        table,
        clients,
        since,
    };
    let returned = returned.all().await.with_context(|| walcast.log())?;
    let cpu = cpu_seconds(id)? - cpu;
    sleep(STATISTICS).await;
    let asked = self::transactions(&sql, &database).await? - transactions;
    let judged = if table.policy.is_some() {
        "own rows"
    } else {
        "public"
    };
    let case = format!("{clients} x {MISSED}, {judged}");
    let samples = Samples::new(returned.each);
    let mut add = |figure: &str, value: f64, unit| {
        report.add("resume", case.as_str(), figure, value, unit, None);
    };
    let all_s = returned.all.as_secs_f64();
    add("all are caught up after", all_s, "s");
    add("a client, p50", samples.percentile_ms(0.5), "ms");
    add("a client, p99", samples.percentile_ms(0.99), "ms");
    add("events", (clients * MISSED) as f64 / all_s, "/s");
    add("log that was read", missed as f64, "changes");
    let asked = asked as f64 / clients as f64;
    add("transactions in the database", asked, "each");
    add("… of one that subscribes anew", anew, "each");
    add("processor time a client", cpu * 1e6 / clients as f64, "us");
    add("resident memory before", before / MIB, "MiB");
    add(
        "resident memory, at most",
        resident_peak_bytes(id)? / MIB,
        "MiB",
    );
    add(
        "resident memory after",
        settled_bytes(id).await? / MIB,
        "MiB",
    );
    drop(returned.stay);
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

/// Transactions in the database for each of some clients that subscribe to what is live.
async fn subscribing(walcast: &Walcast, sql: &Sql, database: &str, table: Table) -> Result<f64> {
    const CLIENTS: usize = 100;
    sleep(STATISTICS).await; // what came before is counted
    let before = transactions(sql, database).await?;
    let mut clients = connect(walcast.address(), Dialect::Native, CLIENTS).await?;
    for client in &mut clients {
        client.join(&Wish::Table(table.name)).await?;
    }
    sleep(STATISTICS).await;
    let asked = transactions(sql, database).await? - before;
    Ok(asked as f64 / CLIENTS as f64)
}

/// Where they left: the cursor of an acknowledgement.
async fn cursor(walcast: &Walcast, table: Table) -> Result<String> {
    let mut client = Client::connect(walcast.address(), Dialect::Native, &token(0)?).await?;
    let message = format!(r#"{{"type":"subscribe","channel":"table:{}"}}"#, table.name);
    client.say(&message).await?;
    client
        .hear(|message| {
            let message: serde_json::Value = serde_json::from_slice(message)?;
            ensure!(message["type"] == "ack", "no ack: {message}");
            Ok(Some(
                message["cursor"].as_str().context("a cursor")?.to_owned(),
            ))
        })
        .await
}

/// Commits what they miss, and returns how many changes that is once the log has them: with own
/// rows each has others, in as many transactions as it missed events.
async fn miss(walcast: &Walcast, sql: &Sql, table: Table, clients: usize) -> Result<usize> {
    let per_transaction = if table.policy.is_some() { clients } else { 1 };
    for nth in 0..MISSED {
        let first = nth * per_transaction;
        sql.batch_execute(&insert(table, first, per_transaction, clients))
            .await?;
    }
    let row = sql
        .query_one("SELECT pg_current_wal_lsn()::text", &[])
        .await?;
    acknowledged(walcast, row.get(0)).await?;
    Ok(MISSED * per_transaction)
}

/// Transactions of everybody in the database so far.
async fn transactions(sql: &Sql, database: &str) -> Result<i64> {
    let query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    Ok(sql.query_one(query, &[&database]).await?.get(0))
}

struct Returning {
    address: SocketAddr,
    table: Table,
    clients: usize,
    since: String,
}

struct Returned {
    /// From the first client's beginning to the last one's end.
    all: Duration,
    /// Each from its own beginning.
    each: Vec<Duration>,
    /// Dropped, the connections end.
    stay: oneshot::Sender<()>,
}

impl Returning {
    async fn all(self) -> Result<Returned> {
        let (tell, told) = oneshot::channel();
        let (stay, gone) = oneshot::channel::<()>();
        on_a_thread(move || async move {
            let (each, clients, all) = match timeout(PATIENCE, self.measure()).await {
                Ok(Ok(measured)) => measured,
                failed => {
                    let error = failed.map(|inner| inner.err());
                    let error = error.ok().flatten();
                    let error = error.unwrap_or_else(|| anyhow::anyhow!("not all catch up"));
                    let _ = tell.send(Err(error)); // nobody waits any more
                    return;
                }
            };
            let _ = tell.send(Ok((each, all)));
            let _ = gone.await;
            drop(clients);
        });
        let (each, all) = told.await.context("the clients are gone")??;
        Ok(Returned { all, each, stay })
    }

    async fn measure(self) -> Result<(Vec<Duration>, Vec<Client>, Duration)> {
        let tokens = (0..self.clients).map(token).collect::<Result<Vec<_>>>()?;
        let ask = format!(
            r#"{{"type":"subscribe","channel":"table:{}","since":"{}"}}"#,
            self.table.name, self.since
        );
        let (ask, places) = (Rc::new(ask), Rc::new(Semaphore::new(CONNECTING_MAX)));
        let begin = Instant::now();
        let done = Rc::new(RefCell::new(Vec::with_capacity(self.clients)));
        let mut coming = JoinSet::new();
        for (number, token) in tokens.into_iter().enumerate() {
            let at = begin + WITHIN.mul_f64(number as f64 / self.clients as f64);
            let (ask, places, done) = (ask.clone(), places.clone(), done.clone());
            let (address, clients) = (self.address, self.clients);
            let own = self.table.policy.is_some().then_some((number, clients));
            coming.spawn_local(async move {
                sleep_until(at.into()).await;
                let place = places.acquire().await?;
                let mut client = Client::connect(address, Dialect::Native, &token).await?;
                drop(place);
                catch_up(&mut client, &ask, own).await?;
                done.borrow_mut().push(at.elapsed());
                anyhow::Ok(client)
            });
        }
        let mut clients = Vec::with_capacity(self.clients);
        while let Some(client) = coming.join_next().await {
            clients.push(client??);
        }
        let each = done.take();
        Ok((each, clients, begin.elapsed()))
    }
}

/// Subscribes and hears [`MISSED`] events, each once and in order; with `own` only rows whose id
/// divided by the second leaves the first.
async fn catch_up(client: &mut Client, ask: &str, own: Option<(usize, usize)>) -> Result<()> {
    client.say(ask).await?;
    let (mut heard, mut last) = (0, None);
    client
        .hear(|message| {
            if let Some(id) = record_id(message) {
                ensure!(last < Some(id), "{id} after {last:?}");
                ensure!(
                    own.is_none_or(|(number, clients)| id % clients == number),
                    "a row of somebody else"
                );
                (heard, last) = (heard + 1, Some(id));
                return Ok(None);
            }
            let has = |part: &[u8]| memmem::find(message, part).is_some();
            ensure!(
                !has(br#""type":"error""#),
                "refused: {}",
                String::from_utf8_lossy(message)
            );
            Ok(has(br#""event":"caught_up""#).then_some(()))
        })
        .await?;
    ensure!(heard == MISSED, "{heard} events instead of {MISSED}");
    Ok(())
}
