//! A change → its payload.

use std::io::Write;

use walcast_change::{
    Change, ColumnSet, Numbers, Position, Row, unchanged, write_record, write_string,
};
use walcast_hub::View;

use super::style::{is_postgres_changes, numbers};
use crate::{Delivery, SnapshotRows, write_timestamp};

pub(super) fn write(delivery: &Delivery<'_>, out: &mut Vec<u8>) {
    let is_postgres_changes = is_postgres_changes(delivery.format);
    out.extend_from_slice(match is_postgres_changes {
        true => br#"{"type":"postgres_changes","channel":"#,
        false => br#"{"type":"broadcast","channel":"#,
    });
    write_string(delivery.channel.as_bytes(), out);
    out.extend_from_slice(br#","payload":{"type":""#);
    out.extend_from_slice(event_name(delivery.view).as_bytes());
    if is_postgres_changes {
        out.extend_from_slice(br#"","eventType":""#);
        out.extend_from_slice(event_name(delivery.view).as_bytes());
    }
    out.extend_from_slice(br#"","schema":"#);
    write_string(delivery.change.shape.schema.as_bytes(), out);
    out.extend_from_slice(br#","table":"#);
    write_string(delivery.change.shape.table.as_bytes(), out);
    out.extend_from_slice(br#","commit_timestamp":""#);
    write_timestamp(delivery.change.commit_time, out);
    out.extend_from_slice(br#"","cursor":""#);
    let position = Position {
        cursor: delivery.change.cursor,
        epoch: delivery.epoch,
    };
    write!(out, "{position}\"").expect("a vector takes what is written");
    let numbers = numbers(delivery.format);
    rows(delivery.change, delivery.view, numbers, out);
    out.extend_from_slice(b"}}");
}

/// `{"type":"snapshot",…,"payload":{"records":[…],"sent":…}}`
pub(super) fn write_snapshot(snapshot: &SnapshotRows<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"snapshot","channel":"#);
    write_string(snapshot.channel.as_bytes(), out);
    write!(
        out,
        r#","subscription_id":"{}","payload":{{"records":["#,
        snapshot.id
    )
    .expect("a vector takes what is written");
    let numbers = numbers(snapshot.format);
    for (nth, row) in snapshot.rows.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        write_record(row, snapshot.columns, numbers, out);
    }
    write!(out, r#"],"sent":{}}}}}"#, snapshot.sent).expect("a vector takes what is written");
}

fn event_name(view: &View) -> &'static str {
    match view {
        View::Insert { .. } => "INSERT",
        View::Update { .. } => "UPDATE",
        View::Delete { .. } => "DELETE",
        View::Truncate => "TRUNCATE",
    }
}

fn rows(change: &Change, view: &View, numbers: Numbers, out: &mut Vec<u8>) {
    match view {
        View::Insert { columns, entered } => {
            record("record", change.new(), columns, numbers, out);
            if *entered {
                out.extend_from_slice(br#","reason":"entered""#);
            }
            unchanged_columns(change.new(), columns, out);
        }
        View::Update { columns, old } => {
            record("record", change.new(), columns, numbers, out);
            if let Some(old) = old {
                record("old_record", change.old(), old, numbers, out);
            }
            unchanged_columns(change.new(), columns, out);
        }
        View::Delete {
            columns,
            left: false,
        } => record("old_record", change.old(), columns, numbers, out),
        View::Delete {
            columns,
            left: true,
        } => {
            record(
                "old_record",
                change.old(),
                &columns.intersection(&change.shape.key),
                numbers,
                out,
            );
            out.extend_from_slice(br#","reason":"left""#);
        }
        View::Truncate => {}
    }
}

fn record(name: &str, row: Option<&Row>, columns: &ColumnSet, numbers: Numbers, out: &mut Vec<u8>) {
    let Some(row) = row else { return };
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    write_record(row, columns, numbers, out);
}

fn unchanged_columns(row: Option<&Row>, columns: &ColumnSet, out: &mut Vec<u8>) {
    let Some(row) = row else { return };
    for (nth, name) in unchanged(row, columns).enumerate() {
        out.extend_from_slice(if nth == 0 { br#","unchanged":["# } else { b"," });
        write_string(name.as_bytes(), out);
    }
    if unchanged(row, columns).next().is_some() {
        out.push(b']');
    }
}
