//! `replication_ready`: a word to the client once messages from the database will arrive.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use walcast_hub::Outbox;
use walcast_protocol::phoenix::{Ref, Shutdown, System, Version, write_error, write_system};
use walcast_source::StreamState;

use crate::session::text_frame;

/// Ends when it is dropped.
pub(super) type Telling = AbortOnDropHandle<()>;

/// As theirs; then the client is told to join again.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn tell(
    version: Version,
    outbox: Arc<Outbox>,
    topic: Arc<str>,
    join_ref: Option<Ref>,
    mut stream: watch::Receiver<StreamState>,
) -> Telling {
    AbortOnDropHandle::new(tokio::spawn(async move {
        let live = stream.wait_for(|state| matches!(state, StreamState::Streaming { .. }));
        let is_live = matches!(timeout(PATIENCE, live).await, Ok(Ok(_)));
        let system = match is_live {
            true => System::ReplicationReady,
            false => System::Shutdown(Shutdown::ReplicationNotReady),
        };
        outbox.push(text_frame(|out| {
            write_system(version, join_ref.as_ref(), &topic, &system, out);
        }));
        if !is_live {
            outbox.push(text_frame(|out| {
                write_error(version, join_ref.as_ref(), &topic, out);
            }));
        }
    }))
}
