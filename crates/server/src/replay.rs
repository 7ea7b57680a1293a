//! What sessions ask of the replay: to catch a subscription up from the log.

use bytes::Bytes;
use walcast_change::Position;
use walcast_hub::{ConnId, SubscriptionId};
use walcast_protocol::{Code, Refusal};
use walcast_rls::Viewer;

use crate::order::Attached;

/// A subscription that is to go on from where it was.
pub(crate) struct Resume {
    pub(crate) attached: Attached,
    pub(crate) since: Position,
    pub(crate) acknowledge: Box<dyn FnOnce(Position) -> Bytes + Send>,
    pub(crate) caught_up: Box<dyn FnOnce(Position) -> Bytes + Send>,
}

/// The way to the replay.
#[derive(Clone)]
pub(crate) struct Replay;

impl Replay {
    pub(crate) async fn resume(&self, resume: Resume) -> Result<(), Refusal> {
        let channel = resume.attached.spec.channel.clone();
        let text = "this server keeps no log of changes";
        Err(Refusal::new(Code::CursorTooOld, text).on(&*channel))
    }

    pub(crate) async fn unsubscribe(&self, _id: SubscriptionId) {}

    pub(crate) async fn set_viewer(&self, _connection: ConnId, _viewer: Viewer) {}

    pub(crate) async fn disconnect(&self, _connection: ConnId) {}
}
