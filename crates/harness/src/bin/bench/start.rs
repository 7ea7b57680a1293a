//! How long a start takes beside a full log of changes: until changes flow, and until the first snapshot,
//! which waits until the log was looked through for transactions that nobody sees yet.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use memchr::memmem;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client as Sql;
use walcast_change::Change;
use walcast_log::{Identity, Log, LogConfig};
use walcast_pgoutput::{Lsn, Xid};

use crate::Options;
use crate::client::Client;
use crate::dialect::Dialect;
use crate::drain::{create_slot, drop_slot};
use crate::log::{Folder, changes};
use crate::report::{Goal, Report, progress};
use crate::samples::median;
use crate::stage::{PLAIN, Stage, token};

const PATIENCE: Duration = Duration::from_secs(60);
/// Who is refused a snapshot asks again after this.
const AGAIN: Duration = Duration::from_millis(20);
const SLOT: &str = "start";
/// Of a transaction in the log.
const ROWS: usize = 10;

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    // The default of log_bytes_max; a little less, so that nothing is dropped meanwhile.
    let full = options.size(1 << 30, 64 << 20) as u64 * 15 / 16;
    let changes = changes(stage).await?;
    for (case, bytes, open) in [
        ("start, empty log", 0, false),
        ("start, full log", full, false),
        ("start, full log, a transaction open since", full, true),
    ] {
        progress(&format!("recovery: {case}"));
        let (mut ready, mut snapshot) = (Vec::new(), Vec::new());
        for _ in 0..options.repeats {
            let took = start(stage, &changes, bytes, open).await.context(case)?;
            ready.push(took.ready);
            snapshot.push(took.snapshot);
        }
        let mut add = |figure: &str, seconds, goal| {
            report.add("recovery", case, figure, seconds, "s", goal);
        };
        add("ready", median(ready), Some(Goal::AtMost(2.0)));
        add("first snapshot", median(snapshot), None);
    }
    Ok(())
}

/// Seconds from the start of the process.
struct Took {
    ready: f64,
    snapshot: f64,
}

async fn start(stage: &Stage, changes: &[Change], bytes: u64, open: bool) -> Result<Took> {
    let folder = Folder::new()?;
    let (database, sql) = stage.database().await?;
    create_slot(&sql, SLOT).await?;
    let other = stage.postgres.connect("postgres", &database).await?;
    if open {
        // Older than all that the log has: it is looked through from its beginning.
        let begin = "begin; select pg_current_xact_id()";
        other.batch_execute(begin).await?;
    }
    if bytes > 0 {
        fill(&sql, &folder.path, changes, bytes).await?;
    }
    let path = folder.path.display().to_string();
    let settings = [
        ("slot_name", SLOT),
        ("slot_mode", "durable"),
        ("messages_per_minute_max", "0"),
        ("log_dir", &path),
    ];
    let begin = Instant::now();
    let mut walcast = stage.start(&database, &settings).await?;
    walcast.ready().await?;
    let ready = begin.elapsed().as_secs_f64();
    let shown = timeout(PATIENCE, first_snapshot(walcast.address()));
    shown.await.with_context(|| walcast.log())??;
    let snapshot = begin.elapsed().as_secs_f64();
    let is_whole = walcast.log().contains("going on with the log");
    ensure!(
        is_whole || bytes == 0,
        "the log was not taken over: {}",
        walcast.log()
    );
    walcast.terminate().await?;
    drop(other);
    drop_slot(&sql, SLOT).await?;
    Ok(Took { ready, snapshot })
}

/// A log of about so many bytes, as a server would have left it that has acknowledged everything: in
/// transactions of [`ROWS`] changes each.
async fn fill(sql: &Sql, folder: &Path, changes: &[Change], bytes: u64) -> Result<()> {
    // Everybody sees what this transaction did; it is later than one that is open.
    let ask = "select pg_current_xact_id()::text::int8, confirmed_flush_lsn::text,
                      (select system_identifier::text from pg_control_system())
               from pg_replication_slots where slot_name = $1";
    let row = sql.query_one(ask, &[&SLOT]).await?;
    let xid = Xid(u32::try_from(row.get::<_, i64>(0) & 0xffff_ffff)?);
    let confirmed: Lsn = row
        .get::<_, &str>(1)
        .parse()
        .map_err(|_| anyhow!("an LSN"))?;
    let identity = Identity {
        system: row.get(2),
        timeline: 1,
        slot: SLOT.into(),
        publication: "realtime".into(),
    };
    let config = LogConfig {
        segment_bytes: 64 << 20, // as the server has it
        bytes_max: u64::MAX,
        ..LogConfig::new(folder)
    };
    let (mut log, _) = Log::open(config, identity)?;
    let history = log.history();
    let mut lsn = Lsn(0);
    while history.size_bytes() < bytes {
        for transaction in changes.chunks(ROWS) {
            lsn.0 += ROWS as u64;
            for (change, ordinal) in transaction.iter().zip(0..) {
                let mut change = change.clone();
                change.xid = xid;
                change.cursor.commit_lsn = lsn;
                change.cursor.ordinal = ordinal;
                log.append(&change);
            }
            log.commit(Lsn(lsn.0 + 1));
        }
        log.flush().await?;
    }
    ensure!(lsn < confirmed, "more transactions than Postgres has bytes");
    log.commit(confirmed);
    log.sync().await?;
    log.close(PATIENCE).await?;
    Ok(())
}

/// Of an empty table; tries until the server is able to.
async fn first_snapshot(address: SocketAddr) -> Result<()> {
    let table = PLAIN.name;
    let ask = format!(r#"{{"type":"subscribe","channel":"table:{table}","snapshot":true}}"#);
    let mut client = Client::connect(address, Dialect::Native, &token(0)?).await?;
    loop {
        client.say(&ask).await?;
        let heard = client.hear(|message| {
            let is = |what: &str| memmem::find(message, what.as_bytes()).is_some();
            let refused = is(r#""type":"error""#);
            Ok((refused || is(r#""event":"snapshot_complete""#)).then_some(refused))
        });
        match heard.await? {
            true => sleep(AGAIN).await,
            false => return Ok(()),
        }
    }
}
