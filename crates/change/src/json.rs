//! Rows as JSON text, written straight into bytes.
//!
//! What comes out is valid JSON whatever comes in: text that is not what its type promises goes
//! out as a JSON string. One frame carries many columns to many subscribers, so no value may
//! reach beyond its own place in it.

mod array;
mod composite;
mod document;
mod number;
mod plain;
mod quoted;
mod string;
mod timestamp;
mod vector;

use crate::{Cell, ColumnSet, JsonType, Row};

pub use number::Numbers;
pub use string::write_string;

/// Appends a JSON object of the columns in `columns` whose value is known.
pub fn write_record(row: &Row, columns: &ColumnSet, numbers: Numbers, out: &mut Vec<u8>) {
    let keys = row
        .shape()
        .columns
        .iter()
        .map(|column| column.json_key.len());
    out.reserve(keys.sum::<usize>() + row.size_bytes() + 2); // enough where nothing is escaped
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
        out.extend_from_slice(&column.json_key);
        match cell {
            Cell::Text(text) => write_cell(&column.json, text, numbers, out),
            Cell::Null | Cell::Missing => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

/// The names of those of `columns` that a full row does not have: TOASTed values that an UPDATE
/// left alone. [`write_record`] leaves them out; they are not null. Nothing for a row that is the
/// key alone, where every other column is missing.
pub fn unchanged<'a>(row: &'a Row, columns: &'a ColumnSet) -> impl Iterator<Item = &'a str> {
    let cells = row.shape().columns.iter().zip(row.cells()).enumerate();
    cells
        .filter(|(index, (_, cell))| {
            !row.is_key_only() && *cell == Cell::Missing && columns.contains(*index)
        })
        .map(|(_, (column, _))| &*column.name)
}

/// Appends one value, `text` being what its type's output function printed. Text that doesn't fit
/// the type is appended as a JSON string.
///
/// Allocates only for an element or a field in which characters were escaped.
pub fn write_cell(json: &JsonType, text: &[u8], numbers: Numbers, out: &mut Vec<u8>) {
    let start = out.len();
    let written = match json {
        JsonType::String => None,
        JsonType::Number => number::write(text, out),
        JsonType::LongNumber => number::write_long(text, numbers, out),
        JsonType::Bool => write_bool(text, out),
        JsonType::Json => document::write(text, out),
        JsonType::Timestamp => timestamp::write(text, out),
        JsonType::Vector { element } => vector::write(element, text, numbers, out),
        JsonType::Array { element, delimiter } => {
            array::write(element, *delimiter, text, numbers, out)
        }
        JsonType::Composite { fields } => composite::write(fields, text, numbers, out),
    };
    if written.is_none() {
        out.truncate(start);
        write_string(text, out);
    }
}

fn write_bool(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match text {
        b"t" => out.extend_from_slice(b"true"),
        b"f" => out.extend_from_slice(b"false"),
        _ => return None,
    }
    Some(())
}
