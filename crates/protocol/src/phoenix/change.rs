//! A change → `postgres_changes`.

use std::fmt::Display;

use walcast_change::{
    Cell, Change, ColumnSet, Numbers, Row, unchanged, write_cell, write_record, write_string,
};
use walcast_hub::View;

use super::Version;
use super::frame::write_frame;
use super::reference::write_display;
use crate::timestamp::write_timestamp_ms;

/// How a subscription's changes are written: what `Spec.format` says of this dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Style {
    pub version: Version,
    /// The channel was joined without `config`: see [`Join::legacy`](super::Join).
    pub legacy: bool,
}

impl Style {
    /// 2 and 3 are versions 1 and 2; 4 and 5 the same in the old style.
    pub fn of_format(format: u8) -> Option<Style> {
        let (version, legacy) = match format {
            2 => (Version::V1, false),
            3 => (Version::V2, false),
            4 => (Version::V1, true),
            5 => (Version::V2, true),
            _ => return None,
        };
        Some(Style { version, legacy })
    }

    pub fn format(self) -> u8 {
        let version = match self.version {
            Version::V1 => 2,
            Version::V2 => 3,
        };
        version + 2 * u8::from(self.legacy)
    }
}

/// One change as the subscribers of one binding see it.
#[derive(Clone, Copy, Debug)]
pub struct PostgresChange<'a, P> {
    pub change: &'a Change,
    pub view: &'a View,
    /// With `realtime:`.
    pub topic: &'a str,
    /// The binding's [`id`](super::Binding::id).
    pub id: u32,
    /// Where it stands in the stream; goes out as `cursor`, which their clients pass over.
    pub position: P,
}

/// `bytea`, whose values these clients are given without `\x`.
const BYTEA: u32 = 17;

/// Appends the frame for all subscribers of a style and a binding: a text frame that names no join.
/// `false`, and nothing is appended, for a truncation, which these clients don't know.
///
/// Version 2, `data` on lines of its own here:
/// ```json
/// [null,null,"realtime:room","postgres_changes",{"ids":[27199102],"data":
///   {"schema":"public","table":"t","commit_timestamp":"2026-11-21T08:46:49.881Z","type":"UPDATE",
///    "columns":[{"name":"id","type":"int8"}],"record":{"id":1},"old_record":{"id":1},"errors":null,
///    "cursor":"0/16B3748:3@5f3c9a12"}}]
/// ```
/// A row that comes into sight is an INSERT with `"reason":"entered"`, one that goes out of sight a
/// DELETE with its key and `"reason":"left"`. `unchanged` names large values that an UPDATE left
/// alone and Postgres did not send.
pub fn write_change<P: Display>(
    style: Style,
    change: &PostgresChange<'_, P>,
    out: &mut Vec<u8>,
) -> bool {
    let kind = match change.view {
        View::Insert { .. } => "INSERT",
        View::Update { .. } => "UPDATE",
        View::Delete { .. } => "DELETE",
        View::Truncate => return false,
    };
    let (none, topic) = ([None, None], change.topic);
    match style.legacy {
        true => write_frame(style.version, none, topic, kind, out, |out| {
            data(change, kind, out);
        }),
        false => write_frame(style.version, none, topic, "postgres_changes", out, |out| {
            out.extend_from_slice(br#"{"ids":["#);
            out.extend_from_slice(itoa::Buffer::new().format(change.id).as_bytes());
            out.extend_from_slice(br#"],"data":"#);
            data(change, kind, out);
            out.push(b'}');
        }),
    }
    true
}

fn data<P: Display>(delivery: &PostgresChange<'_, P>, kind: &str, out: &mut Vec<u8>) {
    let (change, view) = (delivery.change, delivery.view);
    out.extend_from_slice(br#"{"schema":"#);
    write_string(change.shape.schema.as_bytes(), out);
    out.extend_from_slice(br#","table":"#);
    write_string(change.shape.table.as_bytes(), out);
    out.extend_from_slice(br#","commit_timestamp":""#);
    write_timestamp_ms(change.commit_time, out);
    out.extend_from_slice(br#"","type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","columns":["#);
    columns(change, view, out);
    out.push(b']');
    rows(change, view, out);
    out.extend_from_slice(br#","errors":null,"cursor":"#);
    write_display(&delivery.position, out);
    out.push(b'}');
}

/// `{"name":"id","type":"int8"}` for each that the new or the old record may have.
fn columns(change: &Change, view: &View, out: &mut Vec<u8>) {
    let (shown, old) = match view {
        View::Insert { columns, .. } | View::Delete { columns, .. } => (columns, None),
        View::Update { columns, old } => (columns, old.as_ref()),
        View::Truncate => return,
    };
    let mut first = true;
    for (index, column) in change.shape.columns.iter().enumerate() {
        if !shown.contains(index) && !old.is_some_and(|old| old.contains(index)) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        out.extend_from_slice(br#"{"name":"#);
        write_string(column.name.as_bytes(), out);
        out.extend_from_slice(br#","type":"#);
        write_string(column.type_name.as_bytes(), out);
        out.push(b'}');
    }
}

fn rows(change: &Change, view: &View, out: &mut Vec<u8>) {
    match view {
        View::Insert { columns, entered } => {
            record("record", change.new(), columns, out);
            if *entered {
                out.extend_from_slice(br#","reason":"entered""#);
            }
            unchanged_columns(change.new(), columns, out);
        }
        View::Update { columns, old } => {
            record("record", change.new(), columns, out);
            match (change.old(), old) {
                (Some(row), Some(old)) => record("old_record", Some(row), old, out),
                // Its visibility could not be judged.
                (Some(_), None) => out.extend_from_slice(br#","old_record":{}"#),
                // Postgres sends the old row of itself where the key changed, so it did not.
                (None, _) => {
                    let key = columns.intersection(&change.shape.key);
                    record("old_record", change.new(), &key, out);
                }
            }
            unchanged_columns(change.new(), columns, out);
        }
        View::Delete {
            columns,
            left: false,
        } => record("old_record", change.old(), columns, out),
        View::Delete {
            columns,
            left: true,
        } => {
            let key = columns.intersection(&change.shape.key);
            // Without FULL the old row is there only if the key changed.
            let row = change.old().or(change.new());
            record("old_record", row, &key, out);
            out.extend_from_slice(br#","reason":"left""#);
        }
        View::Truncate => {}
    }
}

fn record(name: &str, row: Option<&Row>, columns: &ColumnSet, out: &mut Vec<u8>) {
    let Some(row) = row else { return };
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    match row
        .shape()
        .columns
        .iter()
        .any(|column| column.type_oid == BYTEA)
    {
        false => write_record(row, columns, Numbers::Number, out),
        true => write_record_with_bytea(row, columns, out),
    }
}

fn write_record_with_bytea(row: &Row, columns: &ColumnSet, out: &mut Vec<u8>) {
    out.push(b'{');
    let mut first = true;
    for (index, (column, cell)) in row.shape().columns.iter().zip(row.cells()).enumerate() {
        if cell == Cell::Missing || !columns.contains(index) {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        write_string(column.name.as_bytes(), out);
        out.push(b':');
        match cell {
            Cell::Text(text) if column.type_oid == BYTEA => {
                write_string(text.strip_prefix(br"\x").unwrap_or(text), out);
            }
            Cell::Text(text) => write_cell(&column.json, text, Numbers::Number, out),
            Cell::Null | Cell::Missing => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

fn unchanged_columns(row: Option<&Row>, columns: &ColumnSet, out: &mut Vec<u8>) {
    let Some(row) = row else { return };
    let mut names = unchanged(row, columns).peekable();
    if names.peek().is_none() {
        return;
    }
    for (nth, name) in names.enumerate() {
        out.extend_from_slice(if nth == 0 { br#","unchanged":["# } else { b"," });
        write_string(name.as_bytes(), out);
    }
    out.push(b']');
}
