//! One session's share of a batch: transaction after transaction, in few round trips, and at the end
//! the catalogue's digests; what fails is taken apart until the failing image is alone.
//!
//! The digests stand behind the statements, not in front of them. A digest never returns, so one that
//! is still the same says that no change of the rules came before it since they were read: the text
//! of the policies, and what Postgres made of the names in it, were of one time. In front it would
//! say nothing about what is altered a moment later.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;
use walcast_pgoutput::Xid;

use crate::check::Again;
use crate::lane::{Failure, Lane, Outcome, Started};
use crate::rules::Rules;
use crate::unit::{Ask, Mode, Unit};

/// Transactions on their way at once: as many as may be in vain when one of them times out.
const WINDOW: usize = 32;
/// Transactions spent on finding out which images fail.
const RETRIES_MAX: usize = 200;

/// What the verdicts rest on.
pub(crate) struct Grounds<'g> {
    pub(crate) rules: &'g [Arc<Rules>],
    /// Whether they are as they were, by the digests read after the last transaction.
    pub(crate) hold: &'g (dyn Fn(&[Option<String>]) -> bool + Sync),
    /// What the transactions have to see.
    pub(crate) xids: &'g HashSet<Xid>,
}

/// What became of a share.
#[derive(Default)]
pub(crate) struct Report<'a> {
    pub(crate) judged: Vec<(Unit<'a>, Vec<bool>)>,
    pub(crate) failed: Vec<(Unit<'a>, Failure)>,
    /// Some of their images fail, and which was not looked for any longer.
    pub(crate) abandoned: Vec<(Unit<'a>, Failure)>,
    /// Could not be judged from what there is.
    pub(crate) unknown: Vec<Ask>,
    /// These were not judged, and the session is not to be used again.
    pub(crate) left: Option<Left<'a>>,
}

pub(crate) struct Left<'a> {
    pub(crate) units: Vec<Unit<'a>>,
    /// The session ended while the first of them ran.
    pub(crate) first_is_suspect: bool,
}

/// What the digests behind a window say.
enum Reading {
    /// The rules are as they were.
    Same,
    /// They were not read.
    None,
    /// The session is of no use any more.
    Lost,
}

/// `patience`: how long failing images are looked for. Where nothing is left, the report counts;
/// else the next session has to confirm it. `Err`: nothing of it counts.
pub(crate) async fn run<'a>(
    lane: &mut Lane,
    grounds: &Grounds<'_>,
    units: Vec<Unit<'a>>,
    patience: Duration,
) -> Result<Report<'a>, Again> {
    let mut share = Share {
        report: Report::default(),
        queue: units.into(),
        retries: 0,
        deadline: Instant::now() + patience,
    };
    loop {
        let Some(window) = share.window(lane).await else {
            return Ok(share.give_up(Vec::new(), false));
        };
        let is_last = share.queue.is_empty();
        let (outcomes, reading) = exchange(lane, grounds, &window, is_last).await?;
        if let Some(left) = share.take(window, outcomes) {
            return Ok(share.give_up(left.units, left.first_is_suspect));
        }
        match reading {
            Reading::Same if share.queue.is_empty() => return Ok(share.report),
            Reading::Lost => return Ok(share.give_up(Vec::new(), false)),
            Reading::Same | Reading::None => {}
        }
    }
}

/// Sends the window, and what is read behind the last one, together.
async fn exchange(
    lane: &Lane,
    grounds: &Grounds<'_>,
    window: &[Unit<'_>],
    is_last: bool,
) -> Result<(Vec<Outcome>, Reading), Again> {
    let mut started = Vec::with_capacity(window.len());
    for unit in window {
        started.push(Started::new(lane.transaction(unit, grounds.xids)).await);
    }
    let reading = match is_last {
        true => Some(Started::new(lane.digests(grounds.rules)).await),
        false => None,
    };
    let mut outcomes = Vec::with_capacity(window.len());
    for (at, transaction) in started.into_iter().enumerate() {
        let outcome = transaction.finish().await.ok_or(Again::Disconnected)?;
        lane.beat.touch();
        if let Outcome::Unseen(snapshot) = outcome {
            return Err(Again::Unseen(snapshot));
        }
        let end = ends_session(&outcome, window, at);
        outcomes.push(outcome);
        if end {
            return Ok((outcomes, Reading::None));
        }
    }
    let Some(reading) = reading else {
        return Ok((outcomes, Reading::None));
    };
    let digests = reading.finish().await.ok_or(Again::Disconnected)?;
    lane.beat.touch();
    match digests {
        Ok(digests) if (grounds.hold)(&digests) => Ok((outcomes, Reading::Same)),
        Ok(_) => Err(Again::Changed),
        // The session has ended, or its statement is gone (DEALLOCATE): another one reads.
        Err(_) if !window.is_empty() => Ok((outcomes, Reading::Lost)),
        Err(_) => Err(Again::Disconnected),
    }
}

/// Whether the rest of the window is not worth waiting for, or the session not to be trusted.
fn ends_session(outcome: &Outcome, window: &[Unit<'_>], at: usize) -> bool {
    match outcome {
        Outcome::Found(_) | Outcome::Unseen(_) => false,
        Outcome::Failed(Failure::Sql(code)) if *code == SqlState::QUERY_CANCELED => {
            let rules = window.get(at).map(|unit| unit.rules.id);
            window
                .iter()
                .skip(at + 1)
                .any(|unit| Some(unit.rules.id) == rules)
        }
        Outcome::Failed(Failure::Sql(code)) => is_lost_statement(code),
        Outcome::Failed(Failure::Escaped | Failure::Disconnected) => true,
    }
}

/// The prepared statement is gone (a policy's function ran DEALLOCATE), or its result has changed.
fn is_lost_statement(code: &SqlState) -> bool {
    *code == SqlState::INVALID_SQL_STATEMENT_NAME || *code == SqlState::FEATURE_NOT_SUPPORTED
}

/// Another time it may go well: a timeout, a lock, a deadlock, a lack of memory or disk.
pub(crate) fn is_of_the_moment(code: &SqlState) -> bool {
    let classes = ["08", "40", "53", "57", "58"];
    *code == SqlState::LOCK_NOT_AVAILABLE
        || classes.iter().any(|class| code.code().starts_with(class))
}

/// All images at once would fail the same way, whatever their values.
fn is_of_the_statement(code: &SqlState) -> bool {
    let codes = [
        SqlState::INVALID_OBJECT_DEFINITION, // policies that refer to each other: 42P17
        SqlState::UNDEFINED_TABLE,
        SqlState::UNDEFINED_FUNCTION,
        SqlState::UNDEFINED_COLUMN,
        SqlState::INVALID_SCHEMA_NAME,
    ];
    codes.contains(code)
}

struct Share<'a> {
    report: Report<'a>,
    queue: VecDeque<Unit<'a>>,
    retries: usize,
    deadline: Instant,
}

impl<'a> Share<'a> {
    /// The next units, with their statements prepared. `None`: the session has ended.
    async fn window(&mut self, lane: &mut Lane) -> Option<Vec<Unit<'a>>> {
        let mut window = Vec::new();
        while window.len() < WINDOW
            && let Some(unit) = self.queue.pop_front()
        {
            let prepared = lane.prepare(&unit).await;
            lane.beat.touch();
            match prepared {
                Ok(()) => window.push(unit),
                // A system column: only the table has it.
                Err(Failure::Sql(code))
                    if code == SqlState::UNDEFINED_COLUMN && unit.mode == Mode::Image =>
                {
                    let (units, rest) = unit.by_key();
                    self.queue.extend(units);
                    self.report.unknown.extend(rest);
                }
                Err(Failure::Disconnected) => {
                    self.queue.push_front(unit);
                    self.queue.extend(window);
                    return None;
                }
                Err(failure) => self.report.failed.push((unit, failure)),
            }
        }
        Some(window)
    }

    /// Enters the outcomes; fewer than there are units, if the session is to end.
    fn take(&mut self, window: Vec<Unit<'a>>, outcomes: Vec<Outcome>) -> Option<Left<'a>> {
        let mut units = window.into_iter();
        let mut ends = false;
        let mut left = Left {
            units: Vec::new(),
            first_is_suspect: false,
        };
        for outcome in outcomes {
            let Some(unit) = units.next() else { break };
            match outcome {
                Outcome::Found(visible) => self.report.judged.push((unit, visible)),
                // `exchange` has given up the whole of it.
                Outcome::Unseen(_) => left.units.push(unit),
                Outcome::Failed(Failure::Disconnected) => {
                    left.units.push(unit);
                    left.first_is_suspect = true;
                }
                Outcome::Failed(Failure::Sql(code)) if is_lost_statement(&code) => {
                    left.units.push(unit);
                    left.first_is_suspect = true;
                }
                Outcome::Failed(failure) => {
                    ends |= failure == Failure::Escaped;
                    self.failed(unit, failure);
                }
            }
        }
        left.units.extend(units);
        (ends || !left.units.is_empty()).then_some(left)
    }

    fn failed(&mut self, unit: Unit<'a>, failure: Failure) {
        let divisible = match &failure {
            Failure::Sql(code) => !is_of_the_moment(code) && !is_of_the_statement(code),
            Failure::Escaped | Failure::Disconnected => false,
        };
        let affordable = self.retries < RETRIES_MAX && Instant::now() < self.deadline;
        if unit.asks.len() > 1 && divisible && affordable {
            self.retries += 2;
            let (first, second) = unit.halves();
            self.queue.extend([first, second]);
        } else if unit.asks.len() > 1 && divisible {
            self.report.abandoned.push((unit, failure));
        } else {
            self.report.failed.push((unit, failure));
        }
    }

    fn give_up(mut self, mut units: Vec<Unit<'a>>, first_is_suspect: bool) -> Report<'a> {
        units.extend(self.queue);
        self.report.left = Some(Left {
            units,
            first_is_suspect,
        });
        self.report
    }
}
