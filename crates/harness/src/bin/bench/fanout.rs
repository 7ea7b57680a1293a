//! One table to many subscribers: how soon the last of them has a row, how many deliveries a second,
//! and how many changes a second row-level security lets through.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::spawn_blocking;
use walcast_harness::Walcast;

use crate::Options;
use crate::crowd::{Crowd, Members, Sees};
use crate::dialect::{Dialect, Wish};
use crate::process::cpu_seconds;
use crate::report::{Report, progress};
use crate::samples::Samples;
use crate::stage::{OWN_ROWS, OWN_ROWS_ONCE, PLAIN, Stage, Table, insert};
use crate::wire::Wire;

/// A row must have reached its last receiver after this.
const PATIENCE: Duration = Duration::from_secs(120);

/// Rows in a transaction of a flood.
const PER_TRANSACTION: usize = 100;

/// As many rows as possible, in transactions of [`PER_TRANSACTION`].
struct Flood {
    table: Table,
    sees: Sees,
    members: usize,
    /// In full and for a quick look.
    rows: (usize, usize),
}

/// Policies times viewers; a faster way to judge is to be seen here.
const FLOODS: &[Flood] = &[
    Flood {
        table: PLAIN,
        sees: Sees::All,
        members: 1000,
        rows: (3_000, 500),
    },
    Flood {
        table: OWN_ROWS,
        sees: Sees::Own,
        members: 1,
        rows: (100_000, 10_000),
    },
    Flood {
        table: OWN_ROWS,
        sees: Sees::Own,
        members: 100,
        rows: (20_000, 2_000),
    },
    Flood {
        table: OWN_ROWS,
        sees: Sees::Own,
        members: 1000,
        rows: (3_000, 500),
    },
    Flood {
        table: OWN_ROWS_ONCE,
        sees: Sees::Own,
        members: 100,
        rows: (20_000, 2_000),
    },
    Flood {
        table: OWN_ROWS_ONCE,
        sees: Sees::Own,
        members: 1000,
        rows: (3_000, 500),
    },
];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    progress("fanout: single rows to 1000 subscribers, 50 a second");
    paced(stage, options, report).await?;
    for flood in FLOODS {
        let what = flood.name();
        progress(&format!("fanout: {what}"));
        flood.run(stage, options, report).await.context(what)?;
    }
    Ok(())
}

/// Each row is awaited by all before the next one, and by the clock.
async fn paced(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    const MEMBERS: usize = 1000;
    const PAUSE: Duration = Duration::from_millis(20);
    let rows = options.size(1_000, 200);
    let (database, _sql) = stage.database().await?;
    let walcast = stage.walcast(&database, &[]).await?;
    let crowd = Crowd::gather(members(&walcast, MEMBERS, PLAIN, Sees::All)).await?;
    let port = stage.postgres.port();
    let delays = spawn_blocking(move || {
        let mut sql = Wire::connect(port, &database)?;
        let mut delays = Vec::with_capacity(rows);
        for id in 1..=rows {
            sql.run(&insert(PLAIN, id, 1, 1))?;
            let committed = Instant::now();
            let (_, last) = crowd.arrival(PATIENCE)?;
            delays.push(last.saturating_duration_since(committed));
            thread::sleep(PAUSE.saturating_sub(committed.elapsed()));
        }
        anyhow::Ok(delays)
    });
    let samples = Samples::new(delays.await??);
    let case = format!("{MEMBERS} subscribers, no RLS");
    for (figure, share) in [
        ("last one has it, p50", 0.5),
        ("last one has it, p99", 0.99),
    ] {
        report.add(
            "fanout",
            &case,
            figure,
            samples.percentile_ms(share),
            "ms",
            None,
        );
    }
    Ok(())
}

fn members(walcast: &Walcast, count: usize, table: Table, sees: Sees) -> Members {
    Members {
        address: walcast.address(),
        dialect: Dialect::Native,
        count,
        wish: Wish::Table(table.name),
        sees,
        times: None,
    }
}

impl Flood {
    fn name(&self) -> String {
        let judged = self.table.policy.unwrap_or("no RLS");
        format!("{} x {judged}", self.members)
    }

    async fn run(&self, stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
        let rows = options.size(self.rows.0, self.rows.1);
        let (database, _sql) = stage.database().await?;
        let walcast = stage.walcast(&database, &[]).await?;
        let id = walcast.id().context("it runs")?;
        let crowd = members(&walcast, self.members, self.table, self.sees);
        let crowd = Crowd::gather(crowd).await?;
        let (port, table, members) = (stage.postgres.port(), self.table, self.members);
        let before = cpu_seconds(id)?;
        let work = spawn_blocking(move || {
            let begin = Instant::now();
            let writer = thread::spawn(move || {
                let mut sql = Wire::connect(port, &database)?;
                (0..rows)
                    .step_by(PER_TRANSACTION)
                    .try_for_each(|first| sql.run(&insert(table, first, PER_TRANSACTION, members)))
            });
            let mut end = begin;
            for _ in 0..rows {
                let (_, last) = crowd.arrival(PATIENCE)?;
                end = end.max(last);
            }
            writer.join().ok().context("the writer panicked")??;
            anyhow::Ok(end.duration_since(begin).as_secs_f64())
        });
        let seconds = work.await?.with_context(|| walcast.log())?;
        let receivers = if self.sees == Sees::All { members } else { 1 };
        let (rows, deliveries) = (rows as f64, (rows * receivers) as f64);
        let cpu = (cpu_seconds(id)? - before) * 1e6;
        let mut tell = |figure, value, unit| {
            report.add("fanout", self.name(), figure, value, unit, None);
        };
        tell("changes", rows / seconds, "/s");
        if receivers > 1 {
            tell("deliveries", deliveries / seconds, "/s");
            tell("processor time a delivery", cpu / deliveries, "us");
        } else {
            tell("verdicts", rows * members as f64 / seconds, "/s");
            tell("processor time a change", cpu / rows, "us");
        }
        Ok(())
    }
}
