//! Whether this server does its work: `/ready`.

use serde_json::json;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use walcast_rls::Counters;
use walcast_source::{Progress, StreamState};

use crate::metrics::Metrics;

pub(crate) struct Readiness {
    pub(crate) state: watch::Receiver<StreamState>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) check: Arc<Counters>,
}

impl Readiness {
    /// Whether changes flow, and how far they are.
    pub(crate) fn report(&self) -> (bool, serde_json::Value) {
        let state = self.state.borrow();
        let ready = state.is_ready();
        let report = json!({
            "ready": ready,
            "stream": state.describe(),
            "received_lsn": self.progress.received().to_string(),
            "acknowledged_lsn": self.progress.acknowledged().to_string(),
            "lag_bytes": self.progress.lag_bytes(),
            "slot_retained_bytes": self.progress.retained_bytes(),
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
        metrics
            .stream_silence_seconds
            .set(silence.map_or(0.0, |silence| silence.as_secs_f64()));
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
