//! The task behind the replay: takes in who is to be caught up, and finds everybody a walk. It
//! waits for none of them; each walk is a task of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use walcast_change::{Cursor, Position};
use walcast_hub::{ConnId, Pushed, Withdrawn};
use walcast_log::{History, ReadError, Reader};
use walcast_protocol::Refusal;
use walcast_rls::CheckConfig;

use crate::checks::Checks;
use crate::lane::{Choice, Lane, Seeker, Track, choose, is_near};
use crate::metrics::Metrics;
use crate::order::{Attached, Orders};
use crate::publisher::BatchLimits;
use crate::replay::{Ask, Changes, Resume, Word};
use crate::walk::{Doors, Parts, Seat, Walk};
use crate::walker::{Walker, dismiss, epoch_changed, too_old, unavailable};

/// Between two looks whether those who found no walk find one now.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// At least so long, whatever some wait for.
const LOOK_MIN: Duration = Duration::from_millis(20);
/// Taken in before anybody is placed.
const ASKS_AT_ONCE: usize = 16_384;
/// Groups that may wait to enter a walk. Others go on waiting outside.
const INBOX_MAX: usize = 64;
/// Between two tries to get one.
const CONNECT_AGAIN: Duration = Duration::from_secs(1);

/// What the replay is made of.
pub(crate) struct Replayer {
    pub(crate) history: History,
    pub(crate) check: CheckConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) orders: Orders,
    pub(crate) limits: BatchLimits,
}

struct State {
    metrics: Arc<Metrics>,
    parts: Parts,
    written: watch::Receiver<Position>,
    words: mpsc::Sender<Word>,
    walks: Vec<Begun>,
    /// Those that found no walk yet, or are to enter none before a time. Of a lane, who has waited
    /// longest is first.
    waiting: Vec<Walker>,
    look_at: Instant,
    checks: Checks,
    number_next: u64,
}

/// A walk that was begun.
struct Begun {
    number: u64,
    lane: Lane,
    begun_for: ConnId,
    seat: watch::Receiver<Seat>,
    inbox: mpsc::Sender<Vec<Walker>>,
}

impl Replayer {
    /// Begins the task. It ends with the last sender of `asked`.
    pub(crate) fn begin(
        self,
        changes: Changes,
        asked: mpsc::Receiver<Ask>,
        words: mpsc::Sender<Word>,
        spoken: mpsc::Receiver<Word>,
    ) {
        let state = State {
            written: self.history.written(),
            parts: Parts {
                history: self.history,
                orders: self.orders,
                limits: self.limits,
                changes,
            },
            checks: Checks::new(self.check, self.metrics.clone()),
            metrics: self.metrics,
            words,
            walks: Vec::new(),
            waiting: Vec::new(),
            look_at: Instant::now(),
            number_next: 0,
        };
        tokio::spawn(state.run(asked, spoken));
    }
}

impl State {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>, mut spoken: mpsc::Receiver<Word>) {
        loop {
            let mut come = Vec::new();
            tokio::select! {
                ask = asked.recv() => match ask {
                    Some(ask) => come.extend(self.answer(ask)),
                    None => return,
                },
                Some(word) = spoken.recv() => self.hear(word, &mut come),
                () = sleep_until(self.look_at), if !self.waiting.is_empty() => {}
            }
            for _ in 0..ASKS_AT_ONCE {
                match asked.try_recv() {
                    Ok(ask) => come.extend(self.answer(ask)),
                    Err(_) => break,
                }
            }
            while let Ok(word) = spoken.try_recv() {
                self.hear(word, &mut come);
            }
            // Who has waited comes before who has just come.
            if self.look_at <= Instant::now() {
                self.look();
            }
            self.place(come);
            self.count();
        }
    }

    /// Whether those who wait find a walk now.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK_AGAIN;
        let waiting = std::mem::take(&mut self.waiting);
        self.place(waiting);
    }

    fn count(&self) {
        let walking = self.walks.iter().map(|walk| walk.seat.borrow().members);
        let replaying = self.waiting.len() + walking.sum::<usize>();
        self.metrics.replaying.set(replaying as i64);
    }

    fn hear(&mut self, word: Word, come: &mut Vec<Walker>) {
        match word {
            Word::Rejoin(withdrawn, since, until) => {
                let withdrawn = withdrawn.into_iter();
                come.extend(withdrawn.filter_map(|one| self.take_back(one, since, until)));
            }
            Word::Leave(walkers) => come.extend(walkers),
            Word::Ended(number) => {
                self.walks.retain(|walk| walk.number != number);
                self.look_at = Instant::now();
            }
        }
    }

    fn take_back(&self, withdrawn: Withdrawn, since: Position, until: Instant) -> Option<Walker> {
        let Withdrawn {
            id,
            connection,
            spec,
            mut member,
        } = withdrawn;
        let had = member.gate.take().and_then(|gate| gate.skip());
        let lane = Lane::aside(&spec, &member.standing.viewer().role);
        let attached = Attached {
            id,
            connection,
            spec,
            member,
        };
        if let Err(refusal) = self.readable(since) {
            dismiss(&attached, &refusal);
            return None;
        }
        let mut walker = Walker::new(attached, since, lane);
        walker.had = had;
        walker.until = until;
        Some(walker)
    }

    /// Acknowledges it if what it missed is still there.
    fn answer(&self, (resume, done): Ask) -> Option<Walker> {
        let Resume {
            attached,
            since,
            had,
            acknowledge,
            caught_up,
        } = resume;
        if let Err(refusal) = self.readable(since) {
            let _ = done.send(Err(refusal));
            return None;
        }
        let closed = acknowledge.is_some_and(|acknowledge| {
            attached.member.outbox.push(acknowledge(since)) == Pushed::Closed
        });
        let _ = done.send(Ok(()));
        (!closed).then(|| {
            let mut walker = Walker::new(attached, since, Lane::Back);
            walker.had = had;
            walker.caught_up = caught_up;
            walker
        })
    }

    fn readable(&self, since: Position) -> Result<Reader, Refusal> {
        let reader = self.parts.history.reader_after(since);
        reader.map_err(|error| match error {
            ReadError::EpochChanged { .. } => epoch_changed(),
            ReadError::TooOld { oldest } => Refusal {
                oldest: Some(Position {
                    cursor: oldest,
                    ..since
                }),
                ..too_old()
            },
            _ => unavailable(),
        })
    }

    /// Finds everybody a walk: one that will come by soon, or a new one. Others wait.
    fn place(&mut self, walkers: Vec<Walker>) {
        let now = Instant::now();
        let mut seeking = Vec::with_capacity(walkers.len());
        for walker in walkers {
            if walker.attached.has_ended() {
                continue;
            }
            // Retention, or a gap, may have been faster.
            if let Err(refusal) = self.readable(walker.since) {
                dismiss(&walker.attached, &refusal);
                continue;
            }
            match walker.not_before <= now {
                true => seeking.push(walker),
                false => {
                    self.look_at = self.look_at.min(walker.not_before.max(now + LOOK_MIN));
                    self.waiting.push(walker);
                }
            }
        }
        while !seeking.is_empty() {
            seeking = self.join(seeking);
            // Each of these walks takes in one at least.
            if let Some(first) = seeking.first() {
                let start = start_for(first, &seeking);
                let (lane, connection) = (first.lane, first.attached.connection);
                match self.readable(start) {
                    Ok(reader) => self.begin(reader, start.cursor, lane, connection),
                    Err(refusal) => {
                        let gone = |walker: &mut Walker| walker.since == start;
                        for walker in seeking.extract_if(.., gone) {
                            dismiss(&walker.attached, &refusal);
                        }
                    }
                }
            }
        }
    }

    /// Returns those for whom a walk may be begun.
    fn join(&mut self, seeking: Vec<Walker>) -> Vec<Walker> {
        let end = self.written.borrow().cursor;
        let tracks: Vec<Track> = self.walks.iter().map(Begun::track).collect();
        let mut joining: Vec<Vec<Walker>> = self.walks.iter().map(|_| Vec::new()).collect();
        let mut beginning = Vec::new();
        for walker in seeking {
            let seeker = Seeker {
                lane: walker.lane,
                since: walker.since.cursor,
                connection: walker.attached.connection,
            };
            match choose(seeker, &tracks, end) {
                Choice::Join(at) => match joining.get_mut(at) {
                    Some(group) => group.push(walker),
                    None => self.waiting.push(walker),
                },
                Choice::Begin => beginning.push(walker),
                Choice::Wait => self.waiting.push(walker),
            }
        }
        for (walk, group) in self.walks.iter().zip(joining) {
            // Full, or just over: they try again.
            if !group.is_empty()
                && let Err(error) = walk.inbox.try_send(group)
            {
                self.waiting.extend(error.into_inner());
            }
        }
        beginning
    }

    fn begin(&mut self, reader: Reader, reached: Cursor, lane: Lane, begun_for: ConnId) {
        let number = self.number_next;
        self.number_next += 1;
        let (inbox, joined) = mpsc::channel(INBOX_MAX);
        let members = 0;
        let (told, seat) = watch::channel(Seat { reached, members });
        self.walks.push(Begun {
            number,
            lane,
            begun_for,
            seat,
            inbox,
        });
        let doors = Doors {
            inbox: joined,
            leave: self.words.clone(),
            seat: told,
        };
        let walking = walk(self.checks.clone(), self.parts.clone(), reader, lane, doors);
        let words = self.words.clone();
        tokio::spawn(async move {
            // Its place is free in any case.
            let _ = tokio::spawn(walking).await;
            let _ = words.send(Word::Ended(number)).await;
        });
    }
}

impl Begun {
    fn track(&self) -> Track {
        Track {
            lane: self.lane,
            reached: self.seat.borrow().reached,
            begun_for: self.begun_for,
        }
    }
}

/// Where a walk for `first` begins: not far before it, so that it takes others in as well.
fn start_for(first: &Walker, seeking: &[Walker]) -> Position {
    let place = first.since.cursor;
    let with_it = seeking.iter().filter(|walker| {
        let since = walker.since;
        walker.lane == first.lane && since.cursor <= place && is_near(since.cursor, place)
    });
    let starts = with_it.map(|walker| walker.since);
    starts
        .min_by_key(|since| since.cursor)
        .unwrap_or(first.since)
}

/// A whole walk, with a connection for its checks.
async fn walk(checks: Checks, parts: Parts, reader: Reader, lane: Lane, mut doors: Doors) {
    let mut pause = Duration::ZERO;
    match checks.take().await {
        Some(publisher) => {
            let walk = Walk::new(publisher, reader, parts, lane);
            checks.put_back(walk.run(&mut doors).await);
        }
        None => pause = CONNECT_AGAIN,
    }
    // Who was about to enter goes elsewhere.
    doors.inbox.close();
    while let Some(mut walkers) = doors.inbox.recv().await {
        let not_before = Instant::now() + pause;
        walkers.iter_mut().for_each(|walker| {
            walker.not_before = walker.not_before.max(not_before);
        });
        let _ = doors.leave.send(Word::Leave(walkers)).await;
    }
}

#[cfg(test)]
mod tests;
