//! The place of one session: opened when needed, given up when it can't be trusted, opened again.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_postgres::error::SqlState;

use crate::breaker::Breaker;
use crate::check::Again;
use crate::lane::{Failure, Lane};
use crate::run::{self, Grounds, Left, Report};
use crate::unit::Unit;
use crate::{CheckConfig, ConnectError};

#[derive(Default)]
pub(crate) struct Slot {
    lane: Option<Lane>,
    /// The backend of a session that was given up while it may have been busy.
    given_up: Option<i32>,
}

impl Slot {
    pub(crate) async fn open(&mut self, config: &CheckConfig) -> Result<&mut Lane, ConnectError> {
        let open = self.lane.take().filter(|lane| !lane.is_closed());
        let lane = match open {
            Some(lane) => lane,
            None => {
                let lane = Lane::open(config, self.given_up).await?;
                self.given_up = None;
                lane
            }
        };
        Ok(self.lane.insert(lane))
    }

    /// Ends its transaction and clears the session of whatever was left in it: settings, statements, cursors, locks, plans.
    pub(crate) async fn renew(&mut self, config: &CheckConfig) -> Result<(), ConnectError> {
        if let Some(lane) = self.lane.take() {
            self.lane = Some(lane.renew(config).await?);
        }
        Ok(())
    }

    /// Its last backend is ended when the next session is opened.
    pub(crate) fn give_up(&mut self) {
        self.given_up = self.lane.take().map(|lane| lane.pid).or(self.given_up);
    }
}

/// What a session has to do for a batch.
pub(crate) struct Share<'s> {
    pub(crate) config: &'s CheckConfig,
    pub(crate) breaker: &'s Mutex<Breaker>,
    pub(crate) grounds: &'s Grounds<'s>,
}

/// The time for one exchange beyond what the server's own timeouts allow: the network is gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(5);
/// Sessions that one viewer's policies on one table may end in a batch.
const SUSPICIONS_MAX: u32 = 2;

impl Share<'_> {
    /// `Err`: nothing of the batch counts, it has to be judged again.
    pub(crate) async fn run<'a>(
        &self,
        slot: &mut Slot,
        units: Vec<Unit<'a>>,
    ) -> Result<Report<'a>, Again> {
        let started = Instant::now();
        let mut whole = Report::default();
        let mut suspicions = HashMap::new();
        let mut units = units;
        loop {
            let report = self.once(slot, units).await?;
            self.enter_timeouts(&report);
            whole.judged.extend(report.judged);
            whole.failed.extend(report.failed);
            whole.abandoned.extend(report.abandoned);
            whole.unknown.extend(report.unknown);
            let left = match report.left {
                None => return Ok(whole),
                Some(left) => left,
            };
            slot.give_up();
            // Also where no unit is left: what was judged is not confirmed yet.
            units = self.still_to_do(left, &mut whole, &mut suspicions);
            if started.elapsed() >= self.config.reconnect_for {
                return Err(Again::Disconnected);
            }
        }
    }

    async fn once<'a>(&self, slot: &mut Slot, units: Vec<Unit<'a>>) -> Result<Report<'a>, Again> {
        let timeout = self.config.statement_timeout;
        let opened = slot.open(self.config).await;
        let lane = opened.map_err(|_| Again::Disconnected)?;
        let beat = lane.beat.clone();
        // One transaction: our own statements and the policies'.
        let limit = timeout * 2 + SILENCE;
        let report = beat
            .watch(limit, run::run(lane, self.grounds, units, timeout))
            .await;
        report.unwrap_or_else(|| {
            slot.give_up(); // it went silent
            Err(Again::Disconnected)
        })
    }

    fn enter_timeouts(&self, report: &Report<'_>) {
        let now = Instant::now();
        for (unit, failure) in &report.failed {
            if *failure == Failure::Sql(SqlState::QUERY_CANCELED) {
                self.breaker
                    .lock()
                    .timed_out(unit.rules.relation, unit.viewer, now);
            }
        }
    }

    /// What is to be judged by the next session: not what has ended this one, nor what times out.
    fn still_to_do<'a>(
        &self,
        left: Left<'a>,
        whole: &mut Report<'a>,
        suspicions: &mut HashMap<u64, u32>,
    ) -> Vec<Unit<'a>> {
        let now = Instant::now();
        let mut units = Vec::new();
        for (at, unit) in left.units.into_iter().enumerate() {
            if at == 0 && left.first_is_suspect {
                let count = suspicions.entry(unit.rules.id).or_default();
                *count += 1;
                if *count > SUSPICIONS_MAX {
                    whole.failed.push((unit, Failure::Disconnected));
                    continue;
                }
            }
            if self
                .breaker
                .lock()
                .denies(unit.rules.relation, unit.viewer, now)
            {
                whole
                    .failed
                    .push((unit, Failure::Sql(SqlState::QUERY_CANCELED)));
            } else {
                units.push(unit);
            }
        }
        units
    }
}
