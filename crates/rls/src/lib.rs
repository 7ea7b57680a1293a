//! Whom may a row be shown to? Row-level security, decided by Postgres itself.
//!
//! Owns: the only SQL that runs on a subscriber's behalf; what the catalogue says of tables, roles
//! and policies, and how fresh that is.
//! Refuses to know: sockets, subscriptions, filters, JSON, where the changes come from.
//!
//! The question is always: would this role, with these claims, see this row if it were in the table
//! now? The policies run over the row as it was in the change, as the subscriber's role.
//!
//! Invariants:
//! - Denied is the default. Whatever fails (an error, a timeout, a lost session, a row that is not
//!   known well enough) is not visible, is counted, and costs no other row or viewer anything.
//! - A verdict comes from policies that the catalogue has confirmed behind it: what Postgres made of
//!   their text, and the text, are of one time (see `run`). Only the knowledge that no policies apply
//!   may be older, by [`CheckConfig::staleness_max`] at most.
//! - No row value and no claim is in an error, a log line or a `Debug` text.
//! - Every verdict is reached in a transaction of its viewer that is rolled back, and counts only
//!   if the role and the claims were still in force at its end.
//!
//! Flow: `cache` has the rules by table and role, from `catalogue`. `claims` takes policies apart,
//! with what `vocabulary` knows of their names; `projection` has what the claims of each viewer
//! come to, and so which viewers are as one; `formula` is a policy that needs no statement.
//! [`RowCheck::sweep`] asks for those who watch (`roster`): `index` finds them by lookup, `set` by one
//! statement for all; who is left goes, like every batch of [`RowCheck::check`], through `plan` (what
//! needs a statement) → `session` and `run` (who runs what, what to do about failures) → `lane`
//! (statements on the wire). `policy` writes these statements, and they are the judge of the rest.
//! [`ChannelAccess`] asks the policies on `realtime.messages` who may read and write a channel.

mod access;
mod beat;
mod breaker;
mod cache;
mod catalogue;
mod channel;
mod check;
mod claims;
mod config;
mod connector;
mod counters;
mod explain;
mod formula;
mod index;
mod lane;
mod literal;
mod names;
mod place;
mod plan;
mod policy;
mod projection;
mod reader;
mod report;
mod role;
mod roster;
mod rules;
mod run;
mod search_path;
mod session;
mod set;
mod settled;
mod snapshot;
mod sweep;
mod unit;
mod viewer;
mod vocabulary;

pub use access::{Access, AccessError, Denial};
pub use channel::{
    ChannelAccess, ChannelAction, ChannelAsk, ChannelDenial, ChannelFailure, ChannelRefusal,
    ChannelViewer, Replayed, ReplayedPayload,
};
pub use check::PostgresCheck;
pub use config::CheckConfig;
pub use connector::{ConnectError, Connector};
pub use counters::{Counters, Counts, Tier, TierCounts};
pub use explain::{ExplainError, Explanation, explain};
pub use reader::{ReadError, ReadLimits, ReaderBounds, Reading, TableReader};
pub use role::Refusal;
pub use snapshot::PgSnapshot;
pub use viewer::{Answers, Batch, Question, RowCheck, Sighting, Verdict, Version, Viewer, Wants};
