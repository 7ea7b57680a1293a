//! What there is to count, for `/metrics` and tests.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// How a verdict was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// No policies apply: privileges alone decided, without a statement.
    Privileges,
    /// The policies ran over the row's image.
    Image,
    /// The table was asked for the row by its key.
    Key,
    /// What the viewers' claims come to was compared with the row here, without a statement.
    Index,
    /// One statement judged many viewers.
    Set,
}

const TIERS: usize = 5;

/// Counts since the start. All grow only.
#[derive(Debug, Default)]
pub struct Counters {
    visible: [AtomicU64; TIERS],
    hidden: [AtomicU64; TIERS],
    micros: [AtomicU64; TIERS],
    batches: AtomicU64,
    unknown: AtomicU64,
    unjudged: AtomicU64,
    projected: AtomicU64,
    refused: AtomicU64,
    reloads: AtomicU64,
    waits: AtomicU64,
    /// By SQLSTATE class, "timeout", "escape", "connection" and "visibility".
    errors: Mutex<BTreeMap<String, u64>>,
}

/// Classes of SQLSTATE that are told apart; there are fewer than 50.
const ERRORS_MAX: usize = 100;

/// [`Counters`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    pub privileges: TierCounts,
    pub image: TierCounts,
    pub key: TierCounts,
    pub index: TierCounts,
    pub set: TierCounts,
    pub batches: u64,
    /// Verdicts that could not be reached because the image lacks what the policies read.
    pub unknown: u64,
    /// Verdicts that nobody knows, because the check itself failed; a batch that failed as a whole
    /// counts one for each question. They are among the errors, too.
    pub unjudged: u64,
    /// Times that it was computed what a table's policies make of a viewer's claims.
    pub projected: u64,
    /// Verdicts for roles that are refused.
    pub refused: u64,
    /// Times that policies or grants had changed and the batch was judged again.
    pub reloads: u64,
    /// Times that a transaction was not visible yet.
    pub waits: u64,
    /// Verdicts that an error made a denial, by SQLSTATE class (`22`, `42`, …), or `timeout`,
    /// `escape` (a policy changed the role), `connection`, `visibility`, `encoding`.
    pub errors: BTreeMap<String, u64>,
}

/// The verdicts of one tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierCounts {
    pub visible: u64,
    pub hidden: u64,
    pub time: Duration,
}

impl Counters {
    pub fn read(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tier = |tier: Tier| TierCounts {
            visible: load(&self.visible[tier as usize]),
            hidden: load(&self.hidden[tier as usize]),
            time: Duration::from_micros(load(&self.micros[tier as usize])),
        };
        Counts {
            privileges: tier(Tier::Privileges),
            image: tier(Tier::Image),
            key: tier(Tier::Key),
            index: tier(Tier::Index),
            set: tier(Tier::Set),
            batches: load(&self.batches),
            unknown: load(&self.unknown),
            unjudged: load(&self.unjudged),
            projected: load(&self.projected),
            refused: load(&self.refused),
            reloads: load(&self.reloads),
            waits: load(&self.waits),
            errors: self.errors.lock().clone(),
        }
    }

    pub(crate) fn verdicts(&self, tier: Tier, visible: bool, count: u64) {
        let counters = if visible { &self.visible } else { &self.hidden };
        counters[tier as usize].fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn time(&self, tier: Tier, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.micros[tier as usize].fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unknown(&self, count: u64) {
        self.unknown.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn unjudged(&self, count: u64) {
        self.unjudged.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn projected(&self, count: u64) {
        self.projected.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn refused(&self, count: u64) {
        self.refused.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn reload(&self) {
        self.reloads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn wait(&self) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn errors(&self, kind: &str, verdicts: usize) {
        let mut errors = self.errors.lock();
        if errors.len() < ERRORS_MAX || errors.contains_key(kind) {
            *errors.entry(kind.to_owned()).or_default() += verdicts as u64;
        }
    }
}
