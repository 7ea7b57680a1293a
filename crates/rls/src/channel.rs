//! May this viewer read or write a channel? The policies on `realtime.messages` decide.
//!
//! As Supabase means it: who may see a message of this topic and extension (SELECT) may read, who may
//! insert one (INSERT) may write. Where they insert a row and take it back, here the policies run over a row
//! that is in no table, as for changes: nothing is written, so nothing is locked, logged or triggered, and
//! the login needs no rights on the table.
//!
//! Two round trips: the catalogue's word on the policies as they are now (`facts`), then every question
//! in a transaction of its own, sent together (`probe`). Only prepared statements are remembered.

mod ask;
mod facts;
mod pool;
mod probe;
mod replay;
mod seat;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;

pub use ask::{
    ChannelAction, ChannelAsk, ChannelDenial, ChannelFailure, ChannelRefusal, ChannelViewer,
};
pub use replay::{Replayed, ReplayedPayload};

use crate::lane::Failure;
use crate::session::SILENCE;
use crate::{CheckConfig, ConnectError, Viewer, role};
use ask::{Answer, refused};
use pool::Pool;
use replay::Request;
use seat::Seat;

/// Cheap to clone; the clones share the sessions and their queue.
#[derive(Clone)]
pub struct ChannelAccess {
    shared: Arc<Shared>,
}

struct Shared {
    config: CheckConfig,
    pool: Pool,
    slow: Mutex<HashMap<Viewer, Instant>>,
}

/// What a session is taken for.
enum Job<'a> {
    Judge(&'a [ChannelAsk]),
    Replay(Request<'a>),
}

enum Done {
    Judged(Vec<Answer>),
    Replayed(Result<Vec<Replayed>, ChannelRefusal>),
}

/// Transactions on their way at once.
const WINDOW: usize = 8;
/// A viewer whose policies took too long is not asked about again for so long: topics are chosen by
/// strangers, and each such question costs a session its whole timeout.
const SLOW_FOR: Duration = Duration::from_secs(10);
const SLOW_MAX: usize = 10_000;

impl ChannelAccess {
    /// Questions in one call. More are refused as [`ChannelFailure::Busy`].
    pub const ASKS_MAX: usize = 200;
    /// The most messages of one [`ChannelAccess::replay`].
    pub const REPLAY_MAX: u32 = 25;

    /// `config.connections` sessions judge at once. Opens the first, to see that it works.
    pub async fn connect(config: CheckConfig) -> Result<ChannelAccess, ConnectError> {
        let mut first = Seat::default();
        first.slot.open(&config).await?;
        Ok(ChannelAccess {
            shared: Arc::new(Shared {
                pool: Pool::new(first, config.connections),
                config,
                slow: Mutex::default(),
            }),
        })
    }

    /// One answer for each question, in their order. `Ok`: allowed.
    pub async fn judge(
        &self,
        viewer: &ChannelViewer,
        asks: &[ChannelAsk],
    ) -> Vec<Result<(), ChannelRefusal>> {
        if asks.is_empty() {
            return Vec::new();
        }
        if asks.len() > Self::ASKS_MAX {
            return vec![Err(ChannelFailure::Busy.into()); asks.len()];
        }
        match self.carry_out(viewer, &Job::Judge(asks)).await {
            Ok(Done::Judged(answers)) => {
                let timed_out = Err(ChannelFailure::Timeout.into());
                if answers.contains(&timed_out) {
                    self.remember_slow(&viewer.viewer);
                }
                answers
            }
            Ok(Done::Replayed(_)) => vec![Err(ChannelFailure::Unavailable.into()); asks.len()],
            Err(refusal) => vec![Err(refusal); asks.len()],
        }
    }

    /// The newest `limit` (1 to [`REPLAY_MAX`](Self::REPLAY_MAX)) private broadcasts of a topic since
    /// a moment (milliseconds since 1970) that the viewer may see; the oldest first, in the order of
    /// sending.
    pub async fn replay(
        &self,
        viewer: &ChannelViewer,
        topic: &str,
        since_ms: i64,
        limit: u32,
    ) -> Result<Vec<Replayed>, ChannelRefusal> {
        if topic.contains('\0') {
            return Err(ChannelDenial::Topic.into());
        }
        let request = Request {
            topic,
            since_ms,
            limit: limit.clamp(1, Self::REPLAY_MAX),
        };
        match self.carry_out(viewer, &Job::Replay(request)).await? {
            Done::Replayed(found) => {
                if found == Err(ChannelFailure::Timeout.into()) {
                    self.remember_slow(&viewer.viewer);
                }
                found
            }
            Done::Judged(_) => Err(ChannelFailure::Unavailable.into()),
        }
    }

    /// A session that was lost is opened anew, once.
    async fn carry_out(
        &self,
        viewer: &ChannelViewer,
        job: &Job<'_>,
    ) -> Result<Done, ChannelRefusal> {
        let shared = &*self.shared;
        role::check_name(&viewer.viewer.role, &shared.config).map_err(refused)?;
        if self.is_slow(&viewer.viewer) {
            return Err(ChannelFailure::Timeout.into());
        }
        let mut taken = shared.pool.take().await?;
        let limit = shared.config.statement_timeout * WINDOW as u32 + SILENCE;
        for last in [false, true] {
            let seat = taken.seat();
            match timeout(limit, work(seat, &shared.config, viewer, job)).await {
                Ok(Ok(done)) => {
                    taken.keep();
                    return Ok(done);
                }
                Ok(Err(failure)) if is_of_the_session(&failure) && !last => seat.slot.give_up(),
                Ok(Err(failure)) => return Err(ChannelFailure::from(failure).into()),
                Err(_) => return Err(ChannelFailure::Unavailable.into()),
            }
        }
        Err(ChannelFailure::Unavailable.into())
    }

    fn is_slow(&self, viewer: &Viewer) -> bool {
        let slow = self.shared.slow.lock();
        slow.get(viewer)
            .is_some_and(|since| since.elapsed() < SLOW_FOR)
    }

    fn remember_slow(&self, viewer: &Viewer) {
        let mut slow = self.shared.slow.lock();
        slow.retain(|_, since| since.elapsed() < SLOW_FOR);
        if slow.len() < SLOW_MAX {
            slow.insert(viewer.clone(), Instant::now());
        }
    }
}

async fn work(
    seat: &mut Seat,
    config: &CheckConfig,
    viewer: &ChannelViewer,
    job: &Job<'_>,
) -> Result<Done, Failure> {
    let mut session = seat.open(config).await?;
    let facts = session.facts(&viewer.viewer.role).await?;
    let facts = facts.as_ref();
    let escaped = ChannelRefusal::Failed(ChannelFailure::Escaped);
    let (done, escapes) = match job {
        Job::Judge(asks) => {
            let answers = probe::judge(&mut session, config, viewer, facts, asks).await?;
            let escapes = answers.contains(&Err(escaped));
            (Done::Judged(answers), escapes)
        }
        Job::Replay(request) => {
            let found = replay::read(&mut session, config, viewer, facts, request).await?;
            let escapes = found.as_ref().is_err_and(|refusal| *refusal == escaped);
            (Done::Replayed(found), escapes)
        }
    };
    if escapes {
        seat.slot.give_up(); // whatever else was done to it
    }
    Ok(done)
}

/// A new session may do better: lost, or its prepared statements are gone or out of date.
fn is_of_the_session(failure: &Failure) -> bool {
    match failure {
        Failure::Disconnected => true,
        Failure::Sql(code) => {
            *code == SqlState::INVALID_SQL_STATEMENT_NAME
                || *code == SqlState::FEATURE_NOT_SUPPORTED
        }
        Failure::Escaped => false,
    }
}
