//! From the stream to the channels: what SQL sent, in the order in which it was committed.

use std::sync::Arc;

use tracing::warn;
use walcast_change::Change;
use walcast_hub::{Channels, Message, Namespace, Outbox};

use super::DatabaseMessage;
use crate::metrics::Metrics;

/// Only messages of this extension are broadcasts; others are a client's own business.
const BROADCAST: &str = "broadcast";

/// The messages of one batch on their way to their channels. Bounded by the pipeline.
pub(crate) struct Delivery {
    channels: Arc<Channels>,
    metrics: Arc<Metrics>,
    waiting: Vec<(Namespace, Arc<str>, Message)>,
    bytes: usize,
}

impl Delivery {
    pub(crate) fn new(channels: Arc<Channels>, metrics: Arc<Metrics>) -> Delivery {
        Delivery {
            channels,
            metrics,
            waiting: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes a change of the table of messages.
    pub(crate) fn add(&mut self, change: &Change) {
        let message = match DatabaseMessage::read(change) {
            None => return,
            Some(Ok(message)) if *message.extension == *BROADCAST => message,
            Some(Ok(_)) => return,
            Some(Err(error)) => {
                self.metrics.database_message("unreadable");
                return warn!(%error, cursor = %change.cursor, "a message from the database is not delivered");
            }
        };
        let namespace = match message.private {
            true => Namespace::Private,
            false => Namespace::Public,
        };
        self.bytes += change.size_bytes();
        let topic = message.topic.clone();
        self.waiting.push((namespace, topic, message.to_message()));
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hands everything over; what is returned is getting full.
    pub(crate) fn deliver(&mut self) -> Vec<Arc<Outbox>> {
        self.bytes = 0;
        let mut crowded = Vec::new();
        for (namespace, topic, message) in self.waiting.drain(..) {
            match self.channels.broadcast(namespace, &topic, &message) {
                Ok(mut published) => {
                    self.metrics.database_message("delivered");
                    crowded.append(&mut published.crowded);
                }
                // A limit; the message's author is a transaction that has ended long ago.
                Err(error) => {
                    self.metrics.database_message("refused");
                    warn!(%error, "a message from the database is not delivered");
                }
            }
        }
        crowded
    }
}
