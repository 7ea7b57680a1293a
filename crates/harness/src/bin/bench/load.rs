//! Rows or messages to a crowd: as many as it takes, and at a rate with the delay of every delivery.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::crowd::Crowd;
use crate::dialect::Dialect;
use crate::samples::Histogram;
use crate::stage::{Table, insert};
use crate::times::Times;
use crate::wire::Wire;

/// Everything that was sent must have arrived after this.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is due is sent this often: a commit costs more than a frame.
const ROWS_TICK: Duration = Duration::from_millis(10);
const MESSAGES_TICK: Duration = Duration::from_millis(2);

/// Who sends.
pub(crate) enum Speaker {
    /// Inserts in transactions; the row `id` belongs to the user `id % users`.
    Rows {
        sql: Wire,
        table: Table,
        users: usize,
    },
    /// Messages to a topic, one frame each.
    Messages {
        stream: TcpStream,
        dialect: Dialect,
        topic: String,
        payload_bytes: usize,
    },
}

/// A crowd and who speaks to it. Blocks.
pub(crate) struct Load {
    pub(crate) crowd: Crowd,
    pub(crate) times: Arc<Times>,
    pub(crate) speaker: Speaker,
    /// The next id.
    pub(crate) next: usize,
    /// The most that are on the way; more would fill outboxes, and cut whoever they belong to.
    pub(crate) window: usize,
    /// The most that are sent at once.
    pub(crate) batch: usize,
}

/// What came of it.
pub(crate) struct Outcome {
    /// Arrived at all their receivers per second, from the first one sent to the last one received.
    pub(crate) rate: f64,
    pub(crate) delays: Histogram,
}

impl Speaker {
    fn tick(&self) -> Duration {
        match self {
            Speaker::Rows { .. } => ROWS_TICK,
            Speaker::Messages { .. } => MESSAGES_TICK,
        }
    }

    fn say(&mut self, first: usize, count: usize) -> Result<()> {
        match self {
            Speaker::Rows { sql, table, users } => sql.run(&insert(*table, first, count, *users)),
            Speaker::Messages {
                stream,
                dialect,
                topic,
                payload_bytes,
            } => {
                let frames = (first..first + count)
                    .map(|id| dialect.broadcast(topic, &payload(id, *payload_bytes)));
                let bytes: Vec<u8> = frames.flatten().collect();
                Ok(stream.write_all(&bytes)?)
            }
        }
    }
}

/// JSON of so many bytes, if they are enough for the id.
fn payload(id: usize, bytes: usize) -> String {
    let frame = format!(r#"{{"id":{id},"text":""}}"#);
    let fill = "x".repeat(bytes.saturating_sub(frame.len()));
    format!(r#"{{"id":{id},"text":"{fill}"}}"#)
}

impl Load {
    /// As many as arrive, for so long.
    pub(crate) fn flood(&mut self, time: Duration) -> Result<Outcome> {
        let (begin, first) = (Instant::now(), self.next);
        let (mut open, mut last) = (0, begin);
        while begin.elapsed() < time {
            while open + self.batch <= self.window {
                self.say(self.batch)?;
                open += self.batch;
            }
            last = self.crowd.arrival(PATIENCE)?.1;
            open -= 1;
            while let Some(arrived) = self.crowd.arrival_within(Duration::ZERO)? {
                last = arrived;
                open -= 1;
            }
        }
        self.outcome(first, begin, last, open)
    }

    /// At a rate per second, for so long. One that can't be kept shows in the outcome's rate.
    pub(crate) fn pace(&mut self, rate: f64, time: Duration) -> Result<Outcome> {
        let count = ((rate * time.as_secs_f64()) as usize).max(1);
        let (begin, first) = (Instant::now(), self.next);
        let (mut said, mut open, mut last) = (0, 0, begin);
        while said < count {
            let due = ((begin.elapsed().as_secs_f64() * rate) as usize + 1).min(count);
            let now = (due - said).min(self.batch).min(self.window - open);
            if now > 0 {
                self.say(now)?;
                (said, open) = (said + now, open + now);
            }
            let tick =
                Instant::now() + self.speaker.tick().max(Duration::from_secs_f64(0.5 / rate));
            while let Some(arrived) = self
                .crowd
                .arrival_within(tick.saturating_duration_since(Instant::now()))?
            {
                last = arrived;
                open -= 1;
            }
        }
        self.outcome(first, begin, last, open)
    }

    fn say(&mut self, count: usize) -> Result<()> {
        let ids = self.next..self.next + count;
        ids.for_each(|id| self.times.send(id));
        self.speaker.say(self.next, count)?;
        self.next += count;
        Ok(())
    }

    /// Waits for what is on the way.
    fn outcome(
        &mut self,
        first: usize,
        begin: Instant,
        mut last: Instant,
        open: usize,
    ) -> Result<Outcome> {
        for _ in 0..open {
            last = last.max(self.crowd.arrival(PATIENCE)?.1);
        }
        Ok(Outcome {
            rate: (self.next - first) as f64 / last.duration_since(begin).as_secs_f64(),
            delays: self.times.take(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::payload;

    #[test]
    fn payloads_are_as_long_as_they_should_be() {
        assert_eq!(payload(7, 100).len(), 100);
        assert_eq!(payload(7, 4096).len(), 4096);
        assert_eq!(payload(12_345, 0), r#"{"id":12345,"text":""}"#);
    }
}
