//! `postgres_changes` to many clients of Supabase's protocol, beside what Supabase has published.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::spawn_blocking;
use walcast_harness::Walcast;

use crate::Options;
use crate::crowd::{Crowd, Members, Sees};
use crate::dialect::{Dialect, Wish};
use crate::load::{Load, Outcome, Speaker};
use crate::memory::{QUIET, UNLIMITED};
use crate::process::{cpu_seconds, files_max};
use crate::report::{Goal, Report, progress};
use crate::stage::{OWN_ROWS, PLAIN, Stage, Table};
use crate::times::Times;
use crate::wire::Wire;

/// What is tried first, of what arrives when as much as possible is sent; then the same share of that.
const PACED_SHARE: f64 = 0.7;

/// Rates that are tried.
const PACES_MAX: usize = 3;

/// A rate is sustained if so much of it arrives, and 95 % of the deliveries within this.
const ARRIVES_SHARE: f64 = 0.95;
const P95_MS_MAX: f64 = 1000.0;

/// Ids of one crowd: more than arrive in a few seconds.
const IDS: usize = 1_000_000;

struct Case {
    table: Table,
    sees: Sees,
    members: usize,
    quick: usize,
    /// Supabase's published figure: changes a second, and for how many subscribers. With row-level security there
    /// is none for more than 4,000.
    published: (f64, usize),
}

const fn public(members: usize, quick: usize, published: f64) -> Case {
    Case {
        table: PLAIN,
        sees: Sees::All,
        members,
        quick,
        published: (published, members),
    }
}

const fn own(members: usize, quick: usize, published: (f64, usize)) -> Case {
    Case {
        table: OWN_ROWS,
        sees: Sees::Own,
        members,
        quick,
        published,
    }
}

const CASES: [Case; 6] = [
    public(500, 100, 64.0),
    public(5_000, 300, 10.0),
    public(10_000, 600, 5.0),
    own(500, 100, (40.0, 500)),
    own(5_000, 300, (5.0, 4_000)),
    own(10_000, 600, (5.0, 4_000)),
];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let (database, _sql) = stage.database().await?;
    let settings = [QUIET, UNLIMITED].concat();
    let walcast = stage.walcast(&database, &settings).await?;
    for (nth, case) in CASES.iter().enumerate() {
        let name = case.name(options);
        progress(&format!("supabase: {name}"));
        let sql = Wire::connect(stage.postgres.port(), &database)?;
        case.run(&walcast, sql, nth * IDS, options, report)
            .await
            .with_context(|| format!("{name}\n{}", walcast.log()))?;
    }
    Ok(())
}

impl Case {
    fn count(&self, options: &Options) -> usize {
        options.size(self.members, self.quick)
    }

    fn name(&self, options: &Options) -> String {
        let judged = match self.sees {
            Sees::All => "no RLS",
            Sees::Own => "own rows",
        };
        format!("{} x {judged}", self.count(options))
    }

    async fn run(
        &self,
        walcast: &Walcast,
        sql: Wire,
        first: usize,
        options: &Options,
        report: &mut Report,
    ) -> Result<()> {
        let count = self.count(options);
        ensure!(
            files_max()? > count + 200,
            "raise the limit on open files: ulimit -n 20000"
        );
        let times = Arc::new(Times::new(first, IDS));
        let members = Members {
            address: walcast.address(),
            dialect: Dialect::Phoenix,
            count,
            wish: Wish::Table(self.table.name),
            sees: self.sees,
            times: Some(times.clone()),
        };
        let load = Load {
            crowd: Crowd::gather(members).await?,
            times,
            speaker: Speaker::Rows {
                sql,
                table: self.table,
                users: count,
            },
            next: first,
            window: self.window(count),
            batch: self.window(count).div_ceil(8),
        };
        let time = Duration::from_millis(options.size(2_500, 500) as u64);
        let id = walcast.id().context("it runs")?;
        let (flood, paced) = spawn_blocking(move || sustained(load, time, id)).await??;
        self.tell(&flood, &paced, options, report);
        Ok(())
    }

    /// The most rows on the way: to everybody, so that half an outbox is full at most, and what is
    /// left in the end is soon delivered; to one of them each, so that there is always something to
    /// judge.
    fn window(&self, count: usize) -> usize {
        match self.sees {
            Sees::All => (200_000 / count).clamp(8, 400),
            Sees::Own => 4_000,
        }
    }

    fn tell(&self, flood: &Flood, paced: &Outcome, options: &Options, report: &mut Report) {
        let case = self.name(options);
        let (published, subscribers) = self.published;
        let mut add = |figure: &str, value, unit, goal| {
            report.add("supabase", case.as_str(), figure, value, unit, goal);
        };
        add("changes, as many as arrive", flood.changes_s, "/s", None);
        add("processor time a change", flood.cpu_us, "us", None);
        add("changes, sustained", paced.rate, "/s", None);
        add("… p50", paced.delays.percentile_ms(0.5), "ms", None);
        let p95 = paced.delays.percentile_ms(0.95);
        add("… p95", p95, "ms", Some(Goal::AtMost(P95_MS_MAX)));
        // Fewer subscribers than theirs would flatter.
        if self.count(options) >= subscribers {
            let figure = format!("Supabase's published, {subscribers}");
            add(&figure, published, "/s", None);
            add("times that", paced.rate / published, "x", None);
        }
    }
}

/// As many as arrive.
struct Flood {
    changes_s: f64,
    /// The server's processor time for one of them.
    cpu_us: f64,
}

/// As many as arrive, then a rate that can be kept. The last rate that was tried is returned even if it
/// can't: its delays show it.
fn sustained(mut load: Load, time: Duration, id: u32) -> Result<(Flood, Outcome)> {
    let (first, before) = (load.next, cpu_seconds(id)?);
    let changes_s = load.flood(time)?.rate;
    let cpu_us = (cpu_seconds(id)? - before) * 1e6 / (load.next - first) as f64;
    let flood = Flood { changes_s, cpu_us };
    let mut rate = changes_s;
    for _ in 1..PACES_MAX {
        rate *= PACED_SHARE;
        let paced = load.pace(rate, time)?;
        let kept = paced.rate >= rate * ARRIVES_SHARE;
        if kept && paced.delays.percentile_ms(0.95) <= P95_MS_MAX {
            return Ok((flood, paced));
        }
    }
    let paced = load.pace(rate * PACED_SHARE, time)?;
    Ok((flood, paced))
}
