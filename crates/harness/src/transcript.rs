//! What one client received, and what it was told. No IO.

use std::time::Instant;

use anyhow::{Context, Result};
use serde::Deserialize;
use walcast_change::Cursor;

use crate::book::{Kind, Rows, View, apply, body};

/// Everything that happened to one client.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    /// One for each time it began anew; the first is the beginning.
    pub segments: Vec<Segment>,
    /// One for each subscription that was acknowledged.
    pub connections: Vec<Connection>,
    /// Why it had to begin anew.
    pub gaps: Vec<String>,
    /// How connections ended: a close code and its reason, or the transport's error.
    pub ends: Vec<String>,
}

/// From one fresh start on.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// The acknowledgement's.
    pub from: Cursor,
    /// What was there: read after the acknowledgement, so the events may repeat some of it.
    pub rows: Rows,
    /// The server read them, and sends nothing again that they have. They may be ahead of the stream.
    pub is_snapshot: bool,
    pub events: Vec<Received>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    pub cursor: Cursor,
    pub view: View,
    /// The row's body is not that of its version.
    pub torn: bool,
}

/// One acknowledged subscription.
#[derive(Clone, Copy, Debug)]
pub struct Connection {
    pub acknowledged: Instant,
    /// It went on from a cursor.
    pub resumed: bool,
    pub first_event: Option<Instant>,
    pub caught_up: Option<Instant>,
}

impl Transcript {
    /// The state that the client shows: the last segment's rows, with its events applied.
    pub fn rows(&self) -> Rows {
        let Some(segment) = self.segments.last() else {
            return Rows::new();
        };
        let mut rows = segment.rows.clone();
        for event in &segment.events {
            apply(&event.view, &mut rows);
        }
        rows
    }

    pub fn received(&self) -> usize {
        self.segments
            .iter()
            .map(|segment| segment.events.len())
            .sum()
    }

    /// Subscriptions that went on where an earlier one ended.
    pub fn resumed(&self) -> usize {
        self.connections.iter().filter(|one| one.resumed).count()
    }

    /// When the first event arrived on a connection that was acknowledged after `then`.
    pub fn first_event_after(&self, then: Instant) -> Option<Instant> {
        self.connections
            .iter()
            .filter(|connection| connection.acknowledged >= then)
            .find_map(|connection| connection.first_event)
    }
}

/// A message of the native protocol, as far as a recorder reads it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Heard {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) event: String,
    pub(crate) code: String,
    pub(crate) reason: String,
    pub(crate) cursor: String,
    pub(crate) recovered: bool,
    pub(crate) payload: Payload,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Payload {
    #[serde(rename = "type")]
    kind: String,
    reason: String,
    pub(crate) cursor: String,
    record: Option<Row>,
    old_record: Option<Row>,
    pub(crate) records: Vec<Row>,
}

/// A row of the ledger; some roles don't see its body.
#[derive(Debug, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) version: Option<i64>,
    body: Option<String>,
}

impl Row {
    fn is_torn(&self) -> bool {
        let expected = self.version.map(body);
        self.body.is_some() && self.body != expected
    }
}

impl Payload {
    /// Errors: no event of the ledger.
    pub(crate) fn received(&self) -> Result<Received> {
        let entered = self.reason == "entered";
        let left = self.reason == "left";
        let (kind, row) = match (self.kind.as_str(), &self.record, &self.old_record) {
            ("INSERT", Some(row), _) if entered => (Kind::Entered, row),
            ("INSERT", Some(row), _) => (Kind::Insert, row),
            ("UPDATE", Some(row), _) => (Kind::Update, row),
            ("DELETE", _, Some(row)) if left => (Kind::Left, row),
            ("DELETE", _, Some(row)) => (Kind::Delete, row),
            _ => anyhow::bail!("not an event of the ledger: {self:?}"),
        };
        let torn = row.is_torn() || self.old_record.as_ref().is_some_and(Row::is_torn);
        let view = View {
            kind,
            id: row.id,
            version: row.version,
        };
        Ok(Received {
            cursor: cursor(&self.cursor)?,
            view,
            torn,
        })
    }
}

/// The cursor in a position; the epoch behind the `@` is the server's business.
pub(crate) fn cursor(position: &str) -> Result<Cursor> {
    let cursor = position.split('@').next().unwrap_or_default();
    cursor
        .parse()
        .with_context(|| format!("a position: {position:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: &str) -> Heard {
        serde_json::from_str(text).expect("a table's message")
    }

    #[test]
    fn events_are_read() {
        let cases = [
            (
                r#"{"type":"INSERT","cursor":"0/10:0","record":{"id":1,"version":3,"body":"3·3·3·"}}"#,
                (Kind::Insert, Some(3), false),
            ),
            (
                r#"{"type":"INSERT","cursor":"0/10:0","record":{"id":1,"version":3,"body":"3·3·"},"reason":"entered"}"#,
                (Kind::Entered, Some(3), true),
            ),
            (
                r#"{"type":"UPDATE","cursor":"0/10:0@5f","record":{"id":1,"version":4},"old_record":{"id":1,"version":3,"body":""}}"#,
                (Kind::Update, Some(4), true),
            ),
            (
                r#"{"type":"DELETE","cursor":"0/10:0","old_record":{"id":1},"reason":"left"}"#,
                (Kind::Left, None, false),
            ),
        ];
        for (payload, (kind, version, torn)) in cases {
            let message = heard(&format!(r#"{{"type":"broadcast","payload":{payload}}}"#));
            let received = message.payload.received().expect("an event");
            let view = View {
                kind,
                id: 1,
                version,
            };
            assert_eq!((received.view, received.torn), (view, torn), "{payload}");
            assert_eq!(received.cursor.to_string(), "0/10:0");
        }
        assert!(
            heard(r#"{"payload":{"type":"TRUNCATE"}}"#)
                .payload
                .received()
                .is_err()
        );
    }
}
