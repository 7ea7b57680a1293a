//! Waiting with a deadline for what announces itself by no event.

use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

/// Calls `look` until it answers `Some`, at most for `deadline`; the pauses grow from 1 to 50 ms.
///
/// For facts that only asking can tell (a slot's state in a catalogue); where there is an event, wait
/// for that. Errors after the deadline.
pub async fn eventually<T>(
    deadline: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Ok(Some(found)) = tokio::time::timeout_at(end, look()).await {
            return Ok(found);
        }
        anyhow::ensure!(Instant::now() < end, "nothing after {deadline:?}");
        tokio::time::sleep(pause.min(end - Instant::now())).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
