//! All open sockets: to count them, and to end them when the server stops.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use walcast_hub::{Closing, ConnId, Outbox};

use crate::metrics::Metrics;
use crate::session::Session;

/// Bounded by the limit on connections.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    open: Mutex<HashMap<ConnId, Arc<Outbox>>>,
}

/// A socket's place, given back when it is dropped.
pub(crate) struct Entry {
    sockets: Arc<Sockets>,
    id: ConnId,
}

impl Sockets {
    pub(crate) fn enter(self: &Arc<Self>, session: &Session) -> Entry {
        self.open
            .lock()
            .insert(session.id(), session.outbox().clone());
        Entry {
            sockets: self.clone(),
            id: session.id(),
        }
    }

    pub(crate) fn close_all(&self, closing: Closing) -> usize {
        let open = self.open.lock();
        for outbox in open.values() {
            outbox.close(closing);
        }
        open.len()
    }

    pub(crate) fn measure(&self, metrics: &Metrics) {
        let open = self.open.lock();
        let bytes: usize = open.values().map(|outbox| outbox.bytes()).sum();
        metrics.connections.set(open.len() as i64);
        metrics.outbox_bytes.set(bytes as i64);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.sockets.open.lock().remove(&self.id);
    }
}
