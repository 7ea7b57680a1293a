//! What sessions ask of the pipeline. It carries orders out between two batches of changes, so
//! that a subscription begins and ends at an exact place in the stream.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use walcast_change::Cursor;
use walcast_hub::{ConnId, Outbox, Spec, SubscriptionId};
use walcast_rls::Viewer;

pub(crate) enum Order {
    Subscribe(Begin),
    Unsubscribe(SubscriptionId, oneshot::Sender<()>),
    /// All subscriptions of the connection are judged as this viewer from now on.
    SetViewer(ConnId, Viewer, oneshot::Sender<()>),
    Disconnect(ConnId),
}

pub(crate) struct Begin {
    pub(crate) id: SubscriptionId,
    pub(crate) connection: ConnId,
    pub(crate) viewer: Viewer,
    pub(crate) spec: Arc<Spec>,
    pub(crate) outbox: Arc<Outbox>,
    /// Makes the acknowledgement's frame. The pipeline queues it before the first change.
    pub(crate) acknowledge: Box<dyn FnOnce(Cursor) -> Bytes + Send>,
    pub(crate) done: oneshot::Sender<()>,
}

pub(crate) type Orders = mpsc::Sender<Order>;

/// Orders that may wait; sessions wait beyond that.
pub(crate) const ORDERS_MAX: usize = 1024;
