//! What sessions ask of the pipeline. It carries orders out between two batches of changes, so
//! that a subscription begins and ends at an exact place in the stream.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use walcast_change::{Cursor, Epoch, Position};
use walcast_hub::{ConnId, Member, Spec, SubscriptionId};
use walcast_rls::Viewer;

pub(crate) enum Order {
    Subscribe(Begin),
    /// Those of a walk that have come close: live from the place that is answered, if the epoch is
    /// still this one.
    Attach(Vec<Attached>, Epoch, oneshot::Sender<Option<Place>>),
    Unsubscribe(SubscriptionId, oneshot::Sender<()>),
    /// All subscriptions of the connection are judged as this viewer from now on.
    SetViewer(ConnId, Viewer, oneshot::Sender<()>),
    Disconnect(ConnId),
}

/// Where those attached become live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) position: Position,
    /// The last change in the log that was published before.
    pub(crate) logged: Cursor,
}

/// A subscription, as the pipeline has to know it.
#[derive(Clone)]
pub(crate) struct Attached {
    pub(crate) id: SubscriptionId,
    pub(crate) connection: ConnId,
    pub(crate) spec: Arc<Spec>,
    pub(crate) member: Member,
}

impl Attached {
    /// Nobody waits for it any more.
    pub(crate) fn has_ended(&self) -> bool {
        self.member.standing.has_ended() || self.member.outbox.closing().is_some()
    }
}

pub(crate) struct Begin {
    pub(crate) attached: Attached,
    /// Of the same connection, live from the same place.
    pub(crate) more: Vec<Attached>,
    /// Makes the acknowledgement's frame. The pipeline queues it before the first change.
    pub(crate) acknowledge: Acknowledge,
    pub(crate) done: oneshot::Sender<()>,
}

/// `None`: nothing is said yet.
pub(crate) type Acknowledge = Box<dyn FnOnce(Position) -> Option<Bytes> + Send>;

pub(crate) type Orders = mpsc::Sender<Order>;

/// Orders that may wait; sessions wait beyond that.
pub(crate) const ORDERS_MAX: usize = 1024;
