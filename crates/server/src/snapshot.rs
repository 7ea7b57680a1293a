//! The rows that a subscriber may see, before its changes.

use std::sync::Arc;

use walcast_protocol::{Code, Refusal};

use crate::order::Attached;
use crate::shared::Shared;

pub(crate) struct Snapshot {
    attached: Attached,
}

impl Snapshot {
    pub(crate) fn new(_shared: Arc<Shared>, attached: Attached) -> Snapshot {
        Snapshot { attached }
    }

    pub(crate) async fn open(self) -> Result<Snapshot, Refusal> {
        let text = "this server has no snapshots yet";
        Err(Refusal::new(Code::SnapshotFailed, text).on(&*self.attached.spec.channel))
    }
}

pub(crate) async fn send(_snapshot: Snapshot) {}
