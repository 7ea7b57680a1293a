//! Failed checks, counted and logged: never with row values, never faster than once a second.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;
use tracing::warn;

use crate::Counters;
use crate::lane::Failure;
use crate::unit::Unit;

pub(crate) struct Reporter {
    counters: Arc<Counters>,
    last: Mutex<Option<Instant>>,
}

const INTERVAL: Duration = Duration::from_secs(1);

impl Reporter {
    pub(crate) fn new(counters: Arc<Counters>) -> Reporter {
        Reporter {
            counters,
            last: Mutex::default(),
        }
    }

    /// The server's text is left out: it may quote the row.
    pub(crate) fn failed(&self, unit: &Unit<'_>, failure: &Failure) {
        let verdicts = unit.asks.len();
        self.counters.errors(kind(failure), verdicts);
        if !self.due() {
            return;
        }
        let code = match failure {
            Failure::Sql(code) => code.code(),
            other => kind(other),
        };
        let table = unit.rules.table();
        warn!(%code, table, role = %unit.viewer.role, verdicts, "a policy check failed; the rows are not visible");
        if let Failure::Sql(code) = failure
            && *code == SqlState::INSUFFICIENT_PRIVILEGE
        {
            warn!(table, role = %unit.viewer.role, "the role lacks a privilege that its policies need: EXECUTE, SELECT, or USAGE on a schema they name");
        }
    }

    /// Its rows are asked about viewer by viewer instead.
    pub(crate) fn set_failed(&self, code: &SqlState) {
        if self.due() {
            warn!(
                code = code.code(),
                "a statement for many viewers failed; asking for each"
            );
        }
    }

    pub(crate) fn catalogue(&self, error: &Error) {
        if self.due() {
            let code = error.code().map_or("connection", SqlState::code);
            warn!(%code, "the catalogue can't be read; trying again");
        }
    }

    fn due(&self) -> bool {
        let mut last = self.last.lock();
        let due = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

/// The label of a failure in the counters.
fn kind(failure: &Failure) -> &str {
    match failure {
        Failure::Sql(code) if *code == SqlState::QUERY_CANCELED => "timeout",
        Failure::Sql(code) => code.code().get(..2).unwrap_or("XX"),
        Failure::Escaped => "escape",
        Failure::Disconnected => "connection",
    }
}
