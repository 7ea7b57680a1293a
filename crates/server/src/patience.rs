//! How long publishing waits for outboxes that are getting full.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use walcast_hub::Outbox;

/// How long the pipeline has waited for crowded outboxes, which holds up everybody.
///
/// A transaction may be larger than any outbox, and a client that reads as fast as it can is not
/// to be cut for that. So a crowded outbox is waited for, but only one that was empty a moment ago,
/// and altogether for no more than half of the time: who reads too slowly is cut, soon. One that
/// does not read at all must not use up what those have left that do.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
    since: Instant,
}

impl Patience {
    const MAX: Duration = Duration::from_secs(1);
    /// For one outbox, from when it was last empty.
    const EACH: Duration = Duration::from_millis(200);

    pub(crate) fn new() -> Patience {
        Patience {
            left: Self::MAX,
            since: Instant::now(),
        }
    }

    pub(crate) async fn wait(&mut self, crowded: &mut Vec<Arc<Outbox>>) {
        let begin = Instant::now();
        self.left = (self.left + begin.duration_since(self.since) / 2).min(Self::MAX);
        let relieved = async {
            for outbox in crowded.drain(..) {
                outbox.relieved(Self::EACH).await;
            }
        };
        let _ = timeout(self.left, relieved).await;
        self.since = Instant::now();
        self.left = self.left.saturating_sub(self.since.duration_since(begin));
    }
}

#[cfg(test)]
mod tests {
    use walcast_hub::Pushed;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_does_not_read_uses_up_a_part_only() {
        let outbox = Arc::new(Outbox::new(10));
        assert_eq!(outbox.push(vec![0; 8].into()), Pushed::Crowded);
        let mut patience = Patience::new();
        for _ in 0..10 {
            patience.wait(&mut vec![outbox.clone()]).await;
        }
        assert!(patience.left > Patience::MAX / 2, "{patience:?}");
    }
}
