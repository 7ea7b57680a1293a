//! Whether a session still answers: a network that swallows everything tells nobody.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

/// When a session last answered. Copies share it.
#[derive(Clone, Debug)]
pub(crate) struct Beat(Arc<Mutex<Instant>>);

impl Default for Beat {
    fn default() -> Beat {
        Beat(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Beat {
    /// It has answered.
    pub(crate) fn touch(&self) {
        *self.0.lock() = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock()
    }

    /// Does the work, however long it takes while answers come. `None`: there was none for `limit`;
    /// the session is not to be used again.
    pub(crate) async fn watch<T>(
        &self,
        limit: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        self.touch();
        let mut work = pin!(work);
        loop {
            let end = self.last() + limit;
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = sleep_until(end) => {
                    if self.last() + limit <= Instant::now() {
                        return None;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test]
    async fn long_work_may_go_on_while_there_are_answers() {
        let beat = Beat::default();
        let limit = Duration::from_millis(500);
        let work = async {
            for _ in 0..8 {
                sleep(limit / 5).await;
                beat.touch();
            }
            7
        };
        assert_eq!(beat.watch(limit, work).await, Some(7));
        let silent = sleep(limit * 20);
        assert_eq!(beat.watch(limit, silent).await, None);
    }
}
