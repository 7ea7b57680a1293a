//! [`Message`] → bytes, for tests and for what replays a stream.

use bytes::{BufMut, BytesMut};

use crate::{Message, OldRow, ReplicaIdentity, Tuple, Value};

/// Appends `message` as Postgres would write it.
pub fn message(message: &Message, out: &mut BytesMut) {
    match message {
        Message::Begin(begin) => {
            out.put_u8(b'B');
            out.put_u64(begin.final_lsn.0);
            out.put_i64(begin.commit_time.0);
            out.put_u32(begin.xid.0);
        }
        Message::Commit(commit) => {
            out.put_u8(b'C');
            out.put_u8(commit.flags);
            out.put_u64(commit.commit_lsn.0);
            out.put_u64(commit.end_lsn.0);
            out.put_i64(commit.commit_time.0);
        }
        Message::Origin(origin) => {
            out.put_u8(b'O');
            out.put_u64(origin.commit_lsn.0);
            string(&origin.name, out);
        }
        Message::Relation(relation) => {
            out.put_u8(b'R');
            out.put_u32(relation.id.0);
            string(&relation.schema, out);
            string(&relation.name, out);
            out.put_u8(identity(relation.identity));
            out.put_u16(count(relation.columns.len()));
            for column in &relation.columns {
                out.put_u8(u8::from(column.key));
                string(&column.name, out);
                out.put_u32(column.type_oid);
                out.put_i32(column.type_modifier);
            }
        }
        Message::Type(name) => {
            out.put_u8(b'Y');
            out.put_u32(name.oid);
            string(&name.schema, out);
            string(&name.name, out);
        }
        Message::Insert(insert) => {
            out.put_u8(b'I');
            out.put_u32(insert.relation.0);
            new_row(&insert.new, out);
        }
        Message::Update(update) => {
            out.put_u8(b'U');
            out.put_u32(update.relation.0);
            old_row(&update.old, out);
            new_row(&update.new, out);
        }
        Message::Delete(delete) => {
            out.put_u8(b'D');
            out.put_u32(delete.relation.0);
            old_row(&delete.old, out);
        }
        Message::Truncate(truncate) => {
            out.put_u8(b'T');
            out.put_u32(truncate.relations.len() as u32);
            out.put_u8(u8::from(truncate.cascade) | u8::from(truncate.restart_identity) << 1);
            for relation in &truncate.relations {
                out.put_u32(relation.0);
            }
        }
        Message::Logical(logical) => {
            out.put_u8(b'M');
            out.put_u8(u8::from(logical.transactional));
            out.put_u64(logical.lsn.0);
            string(&logical.prefix, out);
            out.put_u32(logical.content.len() as u32);
            out.put_slice(&logical.content);
        }
    }
}

/// A row made of `values`.
pub fn tuple<'a>(values: impl IntoIterator<Item = Value<'a>>) -> Tuple {
    let mut body = BytesMut::new();
    let mut columns = 0;
    for value in values {
        put_value(value, &mut body);
        columns += 1;
    }
    Tuple::checked(count(columns), body.freeze())
}

fn old_row(old: &OldRow, out: &mut BytesMut) {
    match old {
        OldRow::None => {}
        OldRow::Key(row) => {
            out.put_u8(b'K');
            put_tuple(row, out);
        }
        OldRow::Full(row) => {
            out.put_u8(b'O');
            put_tuple(row, out);
        }
    }
}

fn new_row(row: &Tuple, out: &mut BytesMut) {
    out.put_u8(b'N');
    put_tuple(row, out);
}

fn put_tuple(row: &Tuple, out: &mut BytesMut) {
    out.put_u16(count(row.len()));
    for value in row.values() {
        put_value(value, out);
    }
}

fn put_value(value: Value<'_>, out: &mut BytesMut) {
    match value {
        Value::Null => put_null(out),
        Value::Unchanged => put_unchanged(out),
        Value::Text(text) => put_text_with(out, |out| out.put_slice(text)),
        Value::Binary(data) => put_sized(b'b', data, out),
    }
}

pub(crate) fn put_null(out: &mut BytesMut) {
    out.put_u8(b'n');
}

pub(crate) fn put_unchanged(out: &mut BytesMut) {
    out.put_u8(b'u');
}

/// The text's size is known only once it is written.
pub(crate) fn put_text_with(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    out.put_u8(b't');
    let start = out.len();
    out.put_u32(0);
    write(out);
    let size = (out.len() - start - 4) as u32;
    out[start..start + 4].copy_from_slice(&size.to_be_bytes());
}

fn put_sized(kind: u8, data: &[u8], out: &mut BytesMut) {
    out.put_u8(kind);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
}

fn string(text: &[u8], out: &mut BytesMut) {
    out.put_slice(text);
    out.put_u8(0);
}

fn count(columns: usize) -> u16 {
    u16::try_from(columns).expect("Postgres tables have at most 1,600 columns")
}

fn identity(identity: ReplicaIdentity) -> u8 {
    match identity {
        ReplicaIdentity::Default => b'd',
        ReplicaIdentity::Nothing => b'n',
        ReplicaIdentity::Full => b'f',
        ReplicaIdentity::Index => b'i',
    }
}
