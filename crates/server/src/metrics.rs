//! What an operator can read at `/metrics`, in the text format of Prometheus.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use std::time::SystemTime;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use walcast_change::{Change, Operation};
use walcast_hub::Closing;
use walcast_pgoutput::PgTime;
use walcast_protocol::Code;
use walcast_rls::Counts;

use crate::plan::Published;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Kind {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    tier: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Tier {
    tier: &'static str,
}

/// A class of SQLSTATE or one of a few words: bounded by who counts them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorClass {
    class: String,
}

type Float = Gauge<f64, AtomicU64>;

/// Every label is one of a fixed list: nothing that a client sends can make a new series.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) transactions: Counter,
    changes: Family<Kind, Counter>,
    pub(crate) repeated: Counter,
    pub(crate) frames: Counter,
    pub(crate) deliveries: Counter,
    pub(crate) subscriptions: Gauge,
    pub(crate) messages: Counter,
    refusals: Family<Kind, Counter>,
    tokens_refused: Family<Kind, Counter>,
    closings: Family<Kind, Counter>,
    pub(crate) connections: Gauge,
    database_messages: Family<Kind, Counter>,
    pub(crate) set_aside: Counter,
    pub(crate) replaying: Gauge,
    pub(crate) log_bytes: Gauge,
    pub(crate) log_failing: Gauge,
    pub(crate) lag_bytes: Gauge,
    pub(crate) lag_seconds: Float,
    pub(crate) retained_bytes: Gauge,
    pub(crate) stream_silence_seconds: Float,
    pub(crate) streaming: Gauge,
    rls_verdicts: Family<Verdict, Counter>,
    rls_seconds: Family<Tier, Counter<f64, AtomicU64>>,
    rls_errors: Family<ErrorClass, Counter>,
    rls_reloads: Counter,
    rls_waits: Counter,
    pub(crate) outbox_bytes: Gauge,
    registry: Mutex<Registry>,
}

impl Metrics {
    pub(crate) fn new() -> Arc<Metrics> {
        let metrics = Arc::new(Metrics::default());
        metrics.register(&mut metrics.registry.lock());
        metrics
    }

    fn register(&self, registry: &mut Registry) {
        let r = registry.sub_registry_with_prefix("walcast");
        r.register(
            "transactions",
            "Transactions read from the stream",
            self.transactions.clone(),
        );
        r.register(
            "changes",
            "Changes read from the stream",
            self.changes.clone(),
        );
        r.register(
            "changes_repeated",
            "Changes that Postgres sent again",
            self.repeated.clone(),
        );
        r.register("frames", "Frames encoded for changes", self.frames.clone());
        r.register(
            "deliveries",
            "Frames queued for subscribers",
            self.deliveries.clone(),
        );
        r.register(
            "subscriptions",
            "Table subscriptions that are live",
            self.subscriptions.clone(),
        );
        r.register(
            "client_messages",
            "Messages received from clients",
            self.messages.clone(),
        );
        r.register(
            "refusals",
            "Errors told to clients, by code",
            self.refusals.clone(),
        );
        r.register(
            "tokens_refused",
            "Tokens refused, by reason",
            self.tokens_refused.clone(),
        );
        r.register(
            "connections_closed",
            "Connections ended by this server, by reason",
            self.closings.clone(),
        );
        r.register(
            "connections",
            "Open WebSocket connections",
            self.connections.clone(),
        );
        r.register_with_unit(
            "outbox",
            "Waiting in all outboxes",
            Unit::Bytes,
            self.outbox_bytes.clone(),
        );
        r.register(
            "subscriptions_set_aside",
            "Subscriptions that were to be caught up because row-level security could not be asked",
            self.set_aside.clone(),
        );
        r.register(
            "database_messages",
            "Messages that SQL sent to channels, by what became of them",
            self.database_messages.clone(),
        );
        r.register_with_unit(
            "log",
            "What the log of changes takes on disk",
            Unit::Bytes,
            self.log_bytes.clone(),
        );
        r.register(
            "log_failing",
            "Whether the log can't be written at the moment",
            self.log_failing.clone(),
        );
        r.register(
            "replaying",
            "Subscriptions that are being caught up from the log",
            self.replaying.clone(),
        );
        r.register(
            "streaming",
            "1 while the replication stream is live",
            self.streaming.clone(),
        );
        r.register_with_unit(
            "replication_lag",
            "WAL written by Postgres and not yet acknowledged",
            Unit::Bytes,
            self.lag_bytes.clone(),
        );
        r.register_with_unit(
            "delivery_lag",
            "From commit to outbox, of the last change",
            Unit::Seconds,
            self.lag_seconds.clone(),
        );
        r.register_with_unit(
            "slot_retained",
            "WAL that Postgres keeps for the slot",
            Unit::Bytes,
            self.retained_bytes.clone(),
        );
        r.register_with_unit(
            "stream_silence",
            "Since the last message or keepalive of the stream",
            Unit::Seconds,
            self.stream_silence_seconds.clone(),
        );
        r.register(
            "rls_verdicts",
            "Verdicts of row-level security, by tier",
            self.rls_verdicts.clone(),
        );
        r.register(
            "rls_errors",
            "Checks that failed and so were denials",
            self.rls_errors.clone(),
        );
        r.register_with_unit(
            "rls_time",
            "Time spent in checks, by tier",
            Unit::Seconds,
            self.rls_seconds.clone(),
        );
        r.register(
            "rls_reloads",
            "Batches judged again since policies or grants had changed",
            self.rls_reloads.clone(),
        );
        r.register(
            "rls_waits",
            "Waits for a transaction to become visible",
            self.rls_waits.clone(),
        );
    }

    pub(crate) fn database_message(&self, kind: &'static str) {
        self.database_messages.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn change(&self, change: &Change) {
        let kind = match change.operation {
            Operation::Insert { .. } => "insert",
            Operation::Update { .. } => "update",
            Operation::Delete { .. } => "delete",
            Operation::Truncate => "truncate",
        };
        self.changes.get_or_create(&Kind { kind }).inc();
    }

    /// How long the last change of a batch took from its commit to the outboxes.
    pub(crate) fn reached(&self, change: &Change) {
        let now = PgTime::from_system(SystemTime::now());
        let micros = now.0.saturating_sub(change.commit_time.0).max(0);
        self.lag_seconds.set(micros as f64 / 1e6);
    }

    pub(crate) fn published(&self, published: Published) {
        self.frames.inc_by(published.frames);
        self.deliveries.inc_by(published.deliveries);
    }

    pub(crate) fn refused(&self, code: Code) {
        self.refusals
            .get_or_create(&Kind {
                kind: code.as_str(),
            })
            .inc();
    }

    pub(crate) fn token_refused(&self, kind: &'static str) {
        self.tokens_refused.get_or_create(&Kind { kind }).inc();
    }

    pub(crate) fn closed(&self, closing: Closing) {
        let kind = match closing {
            Closing::Slow => "slow",
            Closing::Shutdown => "shutdown",
            Closing::Expired => "expired",
            Closing::Idle => "idle",
            Closing::Unauthenticated => "unauthenticated",
            Closing::Full => "limit",
            Closing::Done => "done",
        };
        self.closings.get_or_create(&Kind { kind }).inc();
    }

    /// Takes over what the checks have counted.
    pub(crate) fn checks(&self, counts: &Counts) {
        let tiers = [
            ("privileges", counts.privileges),
            ("image", counts.image),
            ("key", counts.key),
            ("index", counts.index),
            ("set", counts.set),
        ];
        for (tier, tier_counts) in tiers {
            for (result, count) in [
                ("visible", tier_counts.visible),
                ("hidden", tier_counts.hidden),
            ] {
                let verdicts = self.rls_verdicts.get_or_create(&Verdict { tier, result });
                verdicts.inner().store(count, Relaxed);
            }
            let seconds = self.rls_seconds.get_or_create(&Tier { tier });
            seconds
                .inner()
                .store(tier_counts.time.as_secs_f64().to_bits(), Relaxed);
        }
        for (tier, result, count) in [
            ("none", "unknown", counts.unknown),
            ("none", "refused", counts.refused),
        ] {
            let verdicts = self.rls_verdicts.get_or_create(&Verdict { tier, result });
            verdicts.inner().store(count, Relaxed);
        }
        for (class, count) in &counts.errors {
            let class = ErrorClass {
                class: class.clone(),
            };
            self.rls_errors
                .get_or_create(&class)
                .inner()
                .store(*count, Relaxed);
        }
        self.rls_reloads.inner().store(counts.reloads, Relaxed);
        self.rls_waits.inner().store(counts.waits, Relaxed);
    }

    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry.lock()).expect("writing to a String can't fail");
        text
    }
}
