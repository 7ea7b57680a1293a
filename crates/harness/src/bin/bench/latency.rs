//! COMMIT returned → client received: one subscriber, an idle machine, one clock.
//!
//! One thread inserts and notes when each INSERT's autocommit returned, another reads and notes when
//! each row arrived. A row may arrive before its writer hears of the commit: that is 0.

use std::io::Read;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::spawn_blocking;
use walcast_harness::Walcast;

use crate::Options;
use crate::client::Client;
use crate::dialect::{Dialect, Wish};
use crate::frames::{Frame, Frames, record_id};
use crate::report::{Goal, Report, progress};
use crate::samples::Samples;
use crate::stage::{OWN_ROWS, PLAIN, Stage, Table, insert, token};
use crate::wire::{Wire, inserted_id};

/// 200 inserts a second, as the reference measurement of the bare stream had.
const PAUSE: Duration = Duration::from_millis(5);

/// Not counted: the first rows make caches, plans and connections.
const WARM_UP: usize = 50;

struct Case {
    name: &'static str,
    table: Table,
    /// p50 and p99 in milliseconds.
    goals: Option<(f64, f64)>,
}

const BARE: Case = Case {
    name: "bare stream, no walcast",
    table: PLAIN,
    goals: None,
};
const CASES: [Case; 2] = [
    Case {
        name: "walcast, no RLS",
        table: PLAIN,
        goals: Some((0.2, 1.0)),
    },
    Case {
        name: "walcast, own rows, SQL",
        table: OWN_ROWS,
        goals: Some((0.5, 2.0)),
    },
];

pub(crate) async fn run(stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
    let repeats = options.repeats as usize;
    let samples = options.size(3_000, 600) / repeats;
    progress(&format!(
        "latency: {repeats} rounds of {samples} inserts each, 200 a second"
    ));
    let (database, _sql) = stage.database().await?;
    let port = stage.postgres.port();
    let mut next = 1;
    let mut take = || {
        let first = next;
        next += WARM_UP + samples;
        Paced {
            port,
            database: database.clone(),
            first,
            count: WARM_UP + samples,
        }
    };
    let mut bare = Vec::new();
    let mut through: [Vec<Duration>; 2] = Default::default();
    for _ in 0..repeats {
        let paced = take();
        bare.extend(spawn_blocking(move || paced.bare()).await??);
        let walcast = stage.walcast(&database, &[]).await?;
        for (case, seen) in CASES.iter().zip(&mut through) {
            let paced = take();
            seen.extend(paced.through(&walcast, case.table).await?);
        }
    }
    for (case, seen) in [&BARE]
        .into_iter()
        .chain(&CASES)
        .zip([bare].into_iter().chain(through))
    {
        tell(case, seen, report);
    }
    Ok(())
}

fn tell(case: &Case, seen: Vec<Duration>, report: &mut Report) {
    let early = seen.iter().filter(|duration| duration.is_zero()).count();
    let samples = Samples::new(seen);
    let goal = |pick: fn(&(f64, f64)) -> f64| case.goals.as_ref().map(pick).map(Goal::AtMost);
    let figures = [
        ("p50", 0.5, goal(|goals| goals.0)),
        ("p99", 0.99, goal(|goals| goals.1)),
        ("p99.9", 0.999, None),
        ("max", 1.0, None),
    ];
    for (figure, share, goal) in figures {
        report.add(
            "latency",
            case.name,
            figure,
            samples.percentile_ms(share),
            "ms",
            goal,
        );
    }
    report.add(
        "latency",
        case.name,
        "arrived before COMMIT returned",
        early as f64,
        "rows",
        None,
    );
}

/// A run of inserts, one every [`PAUSE`].
struct Paced {
    port: u16,
    database: String,
    first: usize,
    count: usize,
}

impl Paced {
    fn bare(self) -> Result<Vec<Duration>> {
        let mut stream = Wire::replicate(self.port, &self.database, "bare")?;
        let (first, count) = (self.first, self.count);
        let receiver = thread::spawn(move || {
            let mut arrivals = Arrivals::new(first, count);
            while !arrivals.are_complete() {
                let message = stream.replicated()?;
                let now = Instant::now();
                if let Some(id) = inserted_id(message) {
                    arrivals.note(id, now);
                }
            }
            Ok(arrivals)
        });
        self.compare(PLAIN, receiver)
    }

    async fn through(self, walcast: &Walcast, table: Table) -> Result<Vec<Duration>> {
        let mut client = Client::connect(walcast.address(), Dialect::Native, &token(0)?).await?;
        client.join(&Wish::Table(table.name)).await?;
        let (mut stream, mut frames) = client.into_blocking()?;
        let (first, count) = (self.first, self.count);
        let receiver = thread::spawn(move || {
            let mut arrivals = Arrivals::new(first, count);
            let mut buffer = vec![0; 64 * 1024];
            while !arrivals.are_complete() {
                let read = stream.read(&mut buffer)?;
                let now = Instant::now();
                frames.push(
                    buffer
                        .get(..read)
                        .filter(|bytes| !bytes.is_empty())
                        .context("closed")?,
                );
                arrivals.note_all(&mut frames, now);
            }
            Ok(arrivals)
        });
        spawn_blocking(move || self.compare(table, receiver)).await?
    }

    /// Inserts, waits for the receiver's end, and puts the two together.
    fn compare(
        self,
        table: Table,
        receiver: thread::JoinHandle<Result<Arrivals>>,
    ) -> Result<Vec<Duration>> {
        let committed = self.insert(table)?;
        let arrivals = receiver.join().ok().context("the receiver panicked")??;
        let pairs = committed.into_iter().zip(arrivals.at).skip(WARM_UP);
        pairs
            .map(|(committed, arrived)| {
                Ok(arrived
                    .context("a row is missing")?
                    .saturating_duration_since(committed))
            })
            .collect()
    }

    fn insert(&self, table: Table) -> Result<Vec<Instant>> {
        let mut sql = Wire::connect(self.port, &self.database)?;
        let mut committed = Vec::with_capacity(self.count);
        let mut next = Instant::now();
        for id in self.first..self.first + self.count {
            sql.run(&insert(table, id, 1, 1))?;
            committed.push(Instant::now());
            next = (next + PAUSE).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        Ok(committed)
    }
}

/// When each row arrived, from the first id on.
struct Arrivals {
    first: usize,
    at: Vec<Option<Instant>>,
    missing: usize,
}

impl Arrivals {
    fn new(first: usize, count: usize) -> Arrivals {
        Arrivals {
            first,
            at: vec![None; count],
            missing: count,
        }
    }

    fn are_complete(&self) -> bool {
        self.missing == 0
    }

    fn note(&mut self, id: usize, now: Instant) {
        let place = id
            .checked_sub(self.first)
            .and_then(|at| self.at.get_mut(at));
        if let Some(place @ None) = place {
            *place = Some(now);
            self.missing -= 1;
        }
    }

    fn note_all(&mut self, frames: &mut Frames, now: Instant) {
        while let Some(frame) = frames.next() {
            if let Frame::Message(text) = frame
                && let Some(id) = record_id(text)
            {
                self.note(id, now);
            }
        }
    }
}
