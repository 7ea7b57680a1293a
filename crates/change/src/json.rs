//! Rows as JSON text, written straight into bytes.

use crate::{Cell, ColumnSet, Row};

/// Appends a JSON object of the columns in `columns` whose value is known.
pub fn write_record(row: &Row, columns: &ColumnSet, out: &mut Vec<u8>) {
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
            Cell::Text(text) => write_string(text, out),
            Cell::Null | Cell::Missing => out.extend_from_slice(b"null"),
        }
    }
    out.push(b'}');
}

/// Appends `text` as a JSON string; bytes that are no UTF-8 become U+FFFD.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for char in String::from_utf8_lossy(text).chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            char if char < ' ' => {
                out.extend_from_slice(format!("\\u{:04x}", char as u32).as_bytes());
            }
            char => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}
