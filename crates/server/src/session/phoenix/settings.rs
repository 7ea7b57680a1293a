//! What the operator has decided about Supabase's clients.

use std::time::{Duration, Instant};

use walcast_hub::RateLimit;

use super::ApiKeys;

#[derive(Clone, Debug)]
pub(crate) struct PhoenixSettings {
    pub(crate) api_keys: ApiKeys,
    /// Tokens that name no role are refused, as theirs are.
    pub(crate) role_required: bool,
    pub(crate) private_only: bool,
    /// Channels end with `phx_close`, as theirs do, also where joining again would help.
    pub(crate) close_for_good: bool,
    pub(crate) outbox_bytes_max: usize,
    /// Of one connection. 0 means no limit, here and below.
    pub(crate) joins_per_second_max: usize,
    /// Of one connection.
    pub(crate) messages_per_second_max: usize,
    /// Of one channel, per window.
    pub(crate) presence_calls_max: usize,
    pub(crate) presence_calls_window: Duration,
    /// `postgres_changes` of one connection, of all its channels.
    pub(crate) bindings_max: usize,
    /// Messages by HTTP from one address.
    pub(crate) http_messages_per_second_max: usize,
    /// Of one request by HTTP.
    pub(crate) body_bytes_max: usize,
}

/// Rates are averages over this: a client that joins its channels again all at once, or sends a
/// burst now and then, does not meet them.
const WINDOW: Duration = Duration::from_secs(10);

impl PhoenixSettings {
    pub(super) fn joins(&self, now: Instant) -> RateLimit {
        per_second(
            "supabase_joins_per_second_max",
            self.joins_per_second_max,
            now,
        )
    }

    pub(super) fn messages(&self, now: Instant) -> RateLimit {
        let name = "supabase_messages_per_second_max";
        per_second(name, self.messages_per_second_max, now)
    }

    pub(super) fn presence_calls(&self, now: Instant) -> RateLimit {
        let name = "supabase_presence_calls_max";
        let count_max = u32::try_from(self.presence_calls_max).unwrap_or(u32::MAX);
        RateLimit::per(name, count_max, self.presence_calls_window, now)
    }
}

/// A limit that allows bursts of ten seconds' worth.
pub(crate) fn per_second(name: &'static str, count_max: usize, now: Instant) -> RateLimit {
    let count_max = u32::try_from(count_max).unwrap_or(u32::MAX);
    let of_window = count_max.saturating_mul(WINDOW.as_secs() as u32);
    RateLimit::per(name, of_window, WINDOW, now)
}
