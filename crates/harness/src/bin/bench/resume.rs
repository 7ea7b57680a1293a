//! Very many clients that come back within one second, each of which missed a hundred events.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use memchr::memmem;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_postgres::Client as Sql;
use walcast_harness::Walcast;

use crate::Options;
use crate::client::Client;
use crate::crowd::on_a_thread;
use crate::dialect::Dialect;
use crate::drain::acknowledged;
use crate::frames::record_id;
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

/// Who is refused for the moment tries again after this.
const AGAIN: Duration = Duration::from_millis(200);

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
    let before_all = transactions(stage, &database).await?;
    let mut walcast = stage.walcast(&database, SETTINGS).await?;
    let id = walcast.id().context("it runs")?;
    let since = cursor(&walcast, table).await?;
    let missed = miss(&walcast, &sql, table, clients).await?;
    let (before, cpu) = (settled_bytes(id).await?, cpu_seconds(id)?);
    let returning = Returning {
        address: walcast.address(),
        table,
        clients,
        since,
    };
    let Returned { measured, stay } = returning.all().await.with_context(|| walcast.log())?;
    let cpu = cpu_seconds(id)? - cpu;
    let (peak, after) = (resident_peak_bytes(id)?, settled_bytes(id).await?);
    drop(stay);
    walcast.terminate().await?;
    let asked = transactions(stage, &database).await? - before_all - MISSED as i64;
    let judged = match table.policy {
        Some(_) => "own rows",
        None => "public",
    };
    let case = format!("{clients} x {MISSED}, {judged}");
    let (all_s, count) = (measured.all.as_secs_f64(), clients as f64);
    let samples = Samples::new(measured.done.each);
    let mut add = |figure: &str, value: f64, unit| {
        report.add("resume", case.as_str(), figure, value, unit, None);
    };
    add("all are caught up after", all_s, "s");
    add("a client, p50", samples.percentile_ms(0.5), "ms");
    add("a client, p99", samples.percentile_ms(0.99), "ms");
    add("events", count * MISSED as f64 / all_s, "/s");
    add(
        "refused for the moment",
        measured.done.refused as f64,
        "times",
    );
    add("log that was read", missed as f64, "changes");
    add("transactions in the database", asked as f64 / count, "each");
    add("processor time a client", cpu * 1e6 / count, "us");
    add("resident memory before", before / MIB, "MiB");
    add("resident memory, at most", peak / MIB, "MiB");
    add("resident memory after", after / MIB, "MiB");
    Ok(())
}

const MIB: f64 = 1024.0 * 1024.0;

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

/// Transactions in the database so far, of sessions that have ended: one that goes on tells of its own
/// only now and then.
async fn transactions(stage: &Stage, database: &str) -> Result<i64> {
    let sql = stage.postgres.connect("postgres", "postgres").await?;
    let query = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = $1";
    Ok(sql.query_one(query, &[&database]).await?.get(0))
}

struct Returning {
    address: SocketAddr,
    table: Table,
    clients: usize,
    since: String,
}

/// The connections end when it is dropped.
struct Returned {
    measured: Measured,
    stay: oneshot::Sender<()>,
}

struct Measured {
    /// From the first client's beginning to the last one's end.
    all: Duration,
    done: Done,
}

#[derive(Default)]
struct Done {
    /// How long each took, from its own beginning.
    each: Vec<Duration>,
    /// Subscriptions that were refused for the moment.
    refused: usize,
}

impl Returning {
    async fn all(self) -> Result<Returned> {
        let (tell, told) = oneshot::channel();
        let (stay, gone) = oneshot::channel::<()>();
        on_a_thread(move || async move {
            let done = Rc::new(RefCell::new(Done::default()));
            let measured = timeout(PATIENCE, self.measure(done.clone())).await;
            let (measured, clients) = match measured {
                Ok(Ok(measured)) => measured,
                Ok(Err(error)) => {
                    let _ = tell.send(Err(error)); // nobody waits any more
                    return;
                }
                Err(_) => {
                    let (caught_up, refused) = (done.borrow().each.len(), done.borrow().refused);
                    let error = anyhow!("{caught_up} catch up in time; refused {refused} times");
                    let _ = tell.send(Err(error));
                    return;
                }
            };
            let _ = tell.send(Ok(measured));
            let _ = gone.await;
            drop(clients);
        });
        let measured = told.await.context("the clients are gone")??;
        Ok(Returned { measured, stay })
    }

    async fn measure(self, done: Rc<RefCell<Done>>) -> Result<(Measured, Vec<Client>)> {
        let tokens = (0..self.clients).map(token).collect::<Result<Vec<_>>>()?;
        let ask = format!(
            r#"{{"type":"subscribe","channel":"table:{}","since":"{}"}}"#,
            self.table.name, self.since
        );
        let (ask, places) = (Rc::new(ask), Rc::new(Semaphore::new(CONNECTING_MAX)));
        let begin = Instant::now();
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
                catch_up(&mut client, &ask, own, &done).await?;
                done.borrow_mut().each.push(at.elapsed());
                anyhow::Ok(client)
            });
        }
        let mut clients = Vec::with_capacity(self.clients);
        while let Some(client) = coming.join_next().await {
            clients.push(client??);
        }
        let all = begin.elapsed();
        let done = done.take();
        Ok((Measured { all, done }, clients))
    }
}

/// Subscribes, as often as it is told to try again, and hears [`MISSED`] events, each once and in
/// order; with `own` only rows whose id divided by the second leaves the first.
async fn catch_up(
    client: &mut Client,
    ask: &str,
    own: Option<(usize, usize)>,
    done: &RefCell<Done>,
) -> Result<()> {
    loop {
        client.say(ask).await?;
        let (mut heard, mut last) = (0, None);
        let caught_up = client.hear(|message| {
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
            let text = || String::from_utf8_lossy(message);
            match has(br#""type":"error""#) {
                false => Ok(has(br#""event":"caught_up""#).then_some(true)),
                true if has(b"SUBSCRIPTION_FAILED") => Ok(Some(false)),
                true => bail!("refused: {}", text()),
            }
        });
        if caught_up.await? {
            ensure!(heard == MISSED, "{heard} events instead of {MISSED}");
            return Ok(());
        }
        done.borrow_mut().refused += 1;
        sleep(AGAIN).await;
    }
}
