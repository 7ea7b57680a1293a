//! What judges and publishes for the walks, each with connections of its own to Postgres.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::timeout;
use tracing::warn;
use walcast_rls::{CheckConfig, PostgresCheck};

use crate::metrics::Metrics;
use crate::publisher::Publisher;

/// How long a connection may take.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Kept for walks to come.
const IDLE_MAX: usize = 4;

/// As many as there are walks (`lane` bounds these), and a few that are idle.
#[derive(Clone)]
pub(crate) struct Checks {
    config: CheckConfig,
    metrics: Arc<Metrics>,
    idle: Arc<Mutex<Vec<Publisher<PostgresCheck>>>>,
}

impl Checks {
    /// There may be many: each has one connection, and another one for statements that judge many
    /// viewers at once.
    pub(crate) fn new(config: CheckConfig, metrics: Arc<Metrics>) -> Checks {
        Checks {
            config: CheckConfig {
                connections: 1,
                asks_ahead: false,
                ..config
            },
            metrics,
            idle: Arc::default(),
        }
    }

    /// `None`: there is no connection to be had.
    pub(crate) async fn take(&self) -> Option<Publisher<PostgresCheck>> {
        let idle = self.idle.lock().pop();
        if idle.is_some() {
            return idle;
        }
        let connected = PostgresCheck::connect(self.config.clone());
        match timeout(CONNECT_PATIENCE, connected).await {
            Ok(Ok(check)) => Some(Publisher::new(check, self.metrics.clone())),
            Ok(Err(error)) => {
                warn!(%error, "who missed changes waits for a connection of the checks");
                None
            }
            Err(_) => None,
        }
    }

    /// Nobody subscribes to it any more.
    pub(crate) fn put_back(&self, publisher: Publisher<PostgresCheck>) {
        let mut idle = self.idle.lock();
        if idle.len() < IDLE_MAX {
            idle.push(publisher);
        }
    }
}
