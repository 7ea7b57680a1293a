//! Whether this server does its work: `/ready`.

use serde_json::json;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use walcast_log::{Health, History};
use walcast_rls::Counters;
use walcast_source::{Progress, StreamState};

use crate::metrics::Metrics;

pub(crate) struct Readiness {
    pub(crate) state: watch::Receiver<StreamState>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) check: Arc<Counters>,
    pub(crate) log: Option<History>,
}

impl Readiness {
    /// Whether changes flow, and how far they are.
    pub(crate) fn report(&self) -> (bool, serde_json::Value) {
        let state = self.state.borrow();
        let health = self.log.as_ref().map(|log| log.health().borrow().clone());
        let degraded = match health {
            Some(Health::Degraded { reason }) => Some(reason),
            _ => None,
        };
        let ready = state.is_ready() && degraded.is_none();
        let log = self.log.as_ref().map(|log| {
            json!({
                "epoch": log.epoch().to_string(),
                "oldest": log.oldest().to_string(),
                "durable_lsn": log.durable().borrow().to_string(),
                "size_bytes": log.size_bytes(),
                "failing": degraded.as_deref(),
            })
        });
        let report = json!({
            "ready": ready,
            "stream": state.describe(),
            "received_lsn": self.progress.received().to_string(),
            "acknowledged_lsn": self.progress.acknowledged().to_string(),
            "lag_bytes": self.progress.lag_bytes(),
            "slot_retained_bytes": self.progress.retained_bytes(),
            "log": log,
        });
        (ready, report)
    }

    pub(crate) fn measure(&self, metrics: &Metrics) {
        metrics
            .streaming
            .set(i64::from(self.state.borrow().is_ready()));
        metrics.lag_bytes.set(signed(self.progress.lag_bytes()));
        metrics
            .retained_bytes
            .set(signed(self.progress.retained_bytes()));
        let heard = self.progress.last_message();
        let silence = heard.and_then(|at| SystemTime::now().duration_since(at).ok());
        metrics.checks(&self.check.read());
        if let Some(log) = &self.log {
            metrics.log_bytes.set(signed(log.size_bytes()));
            let failing = *log.health().borrow() != Health::Good;
            metrics.log_failing.set(i64::from(failing));
        }
        metrics
            .stream_silence_seconds
            .set(silence.map_or(0.0, |silence| silence.as_secs_f64()));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
