//! Looks at the publication and the slot while the stream runs: what the stream itself tells too
//! late, or never.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio_postgres::Client;

use crate::connect::Shared;
use crate::database::Target;
use crate::preflight::{Facts, slot_lost, wal_retained};
use crate::{Finding, Severity, SourceError, StreamState};

/// Stopped when dropped.
pub(crate) struct Monitor {
    task: tokio::task::JoinHandle<()>,
    broken: oneshot::Receiver<SourceError>,
}

impl Monitor {
    /// Watches what a session reads. `sql` is a connection to its server.
    pub(crate) fn start(
        shared: Arc<Shared>,
        sql: Client,
        target: Target,
        publication_oid: u32,
    ) -> Monitor {
        let (tell, broken) = oneshot::channel();
        let watch = Watch {
            shared,
            target,
            publication_oid,
        };
        let task = tokio::spawn(async move {
            if let Some(error) = watch.run(sql).await {
                let _ = tell.send(error); // nobody listens any more: the session has ended
            }
        });
        Monitor { task, broken }
    }

    /// Why the session makes no sense any more. Cancel safe; never returns otherwise.
    pub(crate) async fn broken(&mut self) -> SourceError {
        match (&mut self.broken).await {
            Ok(error) => error,
            Err(_) => std::future::pending().await,
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Watch {
    shared: Arc<Shared>,
    target: Target,
    publication_oid: u32,
}

impl Watch {
    async fn run(&self, mut sql: Client) -> Option<SourceError> {
        let config = &self.shared.config;
        loop {
            tokio::time::sleep(config.check_interval).await;
            if sql.is_closed() {
                match self.target.connect(&config.application_name).await {
                    Ok(client) => sql = client,
                    Err(error) => {
                        tracing::debug!(%error, "the monitor has no connection");
                        continue;
                    }
                }
            }
            let read =
                tokio::time::timeout(config.connect_timeout, Facts::read(&sql, config)).await;
            match read {
                Ok(Ok(facts)) => {
                    if let Some(error) = self.judge(&facts) {
                        return Some(error);
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "the monitor's query failed"),
                Err(_) => tracing::debug!("the monitor's query took too long"),
            }
        }
    }

    /// Updates figures and alarm; an error if the session must be given up.
    fn judge(&self, facts: &Facts) -> Option<SourceError> {
        let config = &self.shared.config;
        self.shared.progress.set_server_end(facts.flushed);
        if let Some(slot) = &facts.slot {
            self.shared.progress.set_retained_bytes(slot.retained_bytes);
        }
        // Before 18 the stream ends by itself, but only at the next change; since 18 it stays silent.
        let same = facts
            .publication
            .as_ref()
            .map(|publication| publication.oid)
            == Some(self.publication_oid);
        if !same {
            let missing = facts
                .obstacles(config)
                .into_iter()
                .find(|finding| finding.code == "publication_missing");
            return Some(missing.map_or(SourceError::Closed, Into::into));
        }
        let lost = facts
            .slot
            .as_ref()
            .filter(|slot| slot.is_lost())
            .map(|slot| slot_lost(slot, config.slot.name()));
        self.alarm(lost.or_else(|| wal_retained(facts, config)));
        None
    }

    fn alarm(&self, finding: Option<Finding>) {
        self.shared.state.send_if_modified(|state| match state {
            StreamState::Streaming { alarm, .. } if *alarm != finding => {
                match &finding {
                    Some(finding) if finding.severity == Severity::Error => {
                        tracing::error!(%finding, "replication stream");
                    }
                    Some(finding) => tracing::warn!(%finding, "replication stream"),
                    None => tracing::info!("replication stream: all well again"),
                }
                alarm.clone_from(&finding);
                true
            }
            _ => false,
        });
    }
}
