//! A row of `realtime.messages` as a message.

use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Cell, Change, Numbers, Operation, Row, Shape, write_cell};
use walcast_hub::{Body, Message};

/// What `realtime.send` and the like have written, or an INSERT of one's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseMessage {
    /// As Postgres prints a uuid.
    pub(crate) id: Arc<str>,
    /// As the table has it: no prefix of any protocol.
    pub(crate) topic: Arc<str>,
    /// Empty, if the sender gave none.
    pub(crate) event: Arc<str>,
    /// For members of the private channel; else of the public one.
    pub(crate) private: bool,
    /// Only `broadcast` is to be delivered.
    pub(crate) extension: Arc<str>,
    pub(crate) body: Body,
    /// As the table prints it, without a time zone: UTC.
    pub(crate) inserted_at: Option<Arc<str>>,
    /// InsForge's: `system` or `user`, and who.
    pub(crate) sender_type: Option<Arc<str>>,
    pub(crate) sender_id: Option<Arc<str>>,
}

/// Why a row can't be delivered. Without its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MessageError {
    #[error("a message in realtime.messages has no {column}")]
    Lacks { column: &'static str },
    #[error("column {column} of realtime.messages is no UTF-8")]
    Text { column: &'static str },
    #[error("binary_payload of realtime.messages is not what bytea prints")]
    Binary,
}

/// Whether changes of this table are messages to channels, and never events of a table.
pub(crate) fn is_message_table(shape: &Shape) -> bool {
    &*shape.schema == "realtime" && &*shape.table == "messages"
}

impl DatabaseMessage {
    /// The message that this change is; `None` if it is none. UPDATE and DELETE of a message, and the
    /// table's TRUNCATE, send nothing.
    ///
    /// Columns are found by their names, so that the table may be another product's: Supabase's has no
    /// `channel_name`, InsForge's no `topic`.
    pub(crate) fn read(change: &Change) -> Option<Result<DatabaseMessage, MessageError>> {
        match &change.operation {
            Operation::Insert { new } if is_message_table(&change.shape) => Some(read(new)),
            _ => None,
        }
    }

    /// What the hub carries. Its metadata is the id, as Supabase's clients expect it.
    pub(crate) fn to_message(&self) -> Message {
        let mut meta = br#"{"id":"#.to_vec();
        walcast_change::write_string(self.id.as_bytes(), &mut meta);
        meta.push(b'}');
        Message {
            event: self.event.clone(),
            body: self.body.clone(),
            meta: Some(meta.into()),
            envelope: None,
        }
    }
}

fn read(row: &Row) -> Result<DatabaseMessage, MessageError> {
    let either = |ours: &'static str, theirs| Ok(text(row, ours)?.or(text(row, theirs)?));
    let needed = |column, value: Option<Arc<str>>| value.ok_or(MessageError::Lacks { column });
    Ok(DatabaseMessage {
        id: needed("id", text(row, "id")?)?,
        topic: needed("topic", either("topic", "channel_name")?)?,
        event: either("event", "event_name")?.unwrap_or_default(),
        private: matches!(find(row, "private"), Some((_, b"t"))),
        extension: text(row, "extension")?.unwrap_or_else(|| "broadcast".into()),
        body: body(row)?,
        inserted_at: either("inserted_at", "created_at")?,
        sender_type: text(row, "sender_type")?,
        sender_id: text(row, "sender_id")?,
    })
}

/// A column's place and text, if the table has it and it is not NULL.
fn find<'r>(row: &'r Row, column: &str) -> Option<(usize, &'r [u8])> {
    let at = row.shape().column(column)?;
    match row.cell(at) {
        Cell::Text(text) => Some((at, text)),
        Cell::Null | Cell::Missing => None,
    }
}

fn text(row: &Row, column: &'static str) -> Result<Option<Arc<str>>, MessageError> {
    let Some((_, bytes)) = find(row, column) else {
        return Ok(None);
    };
    let text = std::str::from_utf8(bytes).map_err(|_| MessageError::Text { column })?;
    Ok(Some(text.into()))
}

/// Bytes, or JSON; without either an empty object, which is what a message with nothing to say is to
/// the clients.
fn body(row: &Row) -> Result<Body, MessageError> {
    if let Some((_, printed)) = find(row, "binary_payload") {
        let bytes = bytea(printed).ok_or(MessageError::Binary)?;
        return Ok(Body::Binary(bytes.into()));
    }
    let Some((at, printed)) = find(row, "payload") else {
        return Ok(Body::Json(Bytes::from_static(b"{}")));
    };
    let mut json = Vec::with_capacity(printed.len());
    if let Some(column) = row.shape().columns.get(at) {
        write_cell(&column.json, printed, Numbers::Number, &mut json);
    }
    Ok(Body::Json(json.into()))
}

/// What `bytea` prints, in either of its formats.
///
/// Source: the Postgres manual, "Binary Data Types".
fn bytea(printed: &[u8]) -> Option<Vec<u8>> {
    match printed.strip_prefix(b"\\x") {
        Some(digits) => hex(digits),
        None => escaped(printed),
    }
}

fn hex(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for pair in digits.chunks(2) {
        let &[high, low] = pair else { return None };
        bytes.push(u8::try_from(digit(high)? << 4 | digit(low)?).ok()?);
    }
    Some(bytes)
}

/// `\\` is a backslash, `\012` the byte with that octal number.
fn escaped(printed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(printed.len());
    let mut rest = printed;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
        } else if let Some(after) = rest.strip_prefix(b"\\") {
            bytes.push(b'\\');
            rest = after;
        } else {
            let (octal, after) = rest.split_at_checked(3)?;
            let digit = |byte: u8| char::from(byte).to_digit(8);
            let number = octal
                .iter()
                .try_fold(0, |sum, &byte| Some(sum << 3 | digit(byte)?))?;
            bytes.push(u8::try_from(number).ok()?);
            rest = after;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
