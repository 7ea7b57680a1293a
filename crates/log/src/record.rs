//! What stands inside a block: records, one after the other.
//!
//! A record is `kind u8, size u32, body`; numbers are big-endian.
//!
//! | kind | body |
//! |---|---|
//! | `B` | a transaction, before its first change in the block: `commit_lsn u64, commit_time i64, xid u32, ordinal u64` of the next change; each change after it counts one up |
//! | `S` | a shape, before the first change of the segment that has it: `number u32`, [`Shape::write_bytes`] |
//! | `I` | insert: `shape u32`, the new tuple's values as Postgres sent them |
//! | `U` `k` `f` | update without an old row, with its key, with all of it: `shape u32, size u32`, the new tuple, the old one |
//! | `K` `D` | delete with the key, with all of the old row: `shape u32`, the old tuple |
//! | `T` | truncate: `shape u32` |
//! | `C` | everything that Postgres sends before `end_lsn u64` is in the log |

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use walcast_change::{Change, Cursor, Operation, Row, Shape};
use walcast_pgoutput::{Lsn, OldRow, PgTime, Tuple, Xid};

use crate::error::Damaged;

const FRAME_BYTES: usize = 5;

/// What the changes of one transaction share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) commit_lsn: Lsn,
    pub(crate) commit_time: PgTime,
    pub(crate) xid: Xid,
    /// Of the next change.
    pub(crate) ordinal: u64,
}

impl Transaction {
    /// As it is just before `change`.
    pub(crate) fn before(change: &Change) -> Transaction {
        Transaction {
            commit_lsn: change.cursor.commit_lsn,
            commit_time: change.commit_time,
            xid: change.xid,
            ordinal: change.cursor.ordinal,
        }
    }

    fn cursor(&self) -> Cursor {
        Cursor {
            commit_lsn: self.commit_lsn,
            ordinal: self.ordinal,
        }
    }
}

pub(crate) fn put_transaction(transaction: &Transaction, out: &mut Vec<u8>) {
    put(b'B', out, |out| {
        out.put_u64(transaction.commit_lsn.0);
        out.put_i64(transaction.commit_time.0);
        out.put_u32(transaction.xid.0);
        out.put_u64(transaction.ordinal);
    });
}

pub(crate) fn put_shape(number: u32, shape: &Shape, out: &mut Vec<u8>) {
    put(b'S', out, |out| {
        out.put_u32(number);
        shape.write_bytes(out);
    });
}

pub(crate) fn put_commit(end_lsn: Lsn, out: &mut Vec<u8>) {
    put(b'C', out, |out| out.put_u64(end_lsn.0));
}

/// `change`, whose shape has been written as `shape` before.
pub(crate) fn put_change(change: &Change, shape: u32, out: &mut Vec<u8>) {
    let (kind, first, second) = match &change.operation {
        Operation::Insert { new } => (b'I', Some(new), None),
        Operation::Update { old: None, new } => (b'U', Some(new), None),
        Operation::Update {
            old: Some(old),
            new,
        } if old.is_key_only() => (b'k', Some(new), Some(old)),
        Operation::Update {
            old: Some(old),
            new,
        } => (b'f', Some(new), Some(old)),
        Operation::Delete { old } if old.is_key_only() => (b'K', Some(old), None),
        Operation::Delete { old } => (b'D', Some(old), None),
        Operation::Truncate => (b'T', None, None),
    };
    // The size stands first, so that no value need be moved or looked at again.
    let (first, second) = (values(first), values(second));
    let sized = matches!(kind, b'U' | b'k' | b'f');
    let size = 4 + 4 * usize::from(sized) + first.len() + second.len();
    out.reserve(FRAME_BYTES + size);
    out.put_u8(kind);
    out.put_u32(size_u32(size));
    out.put_u32(shape);
    if sized {
        out.put_u32(size_u32(first.len()));
    }
    out.put_slice(first);
    out.put_slice(second);
}

fn values(row: Option<&Row>) -> &[u8] {
    row.map_or(&[], |row| row.tuple().body())
}

fn put(kind: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.put_u8(kind);
    let at = out.len();
    out.put_u32(0);
    body(out);
    let size = size_u32(out.len() - at - 4);
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
}

fn size_u32(size: usize) -> u32 {
    u32::try_from(size).expect("Postgres's messages are smaller than 2 GiB")
}

/// What a walk over a block meets.
#[derive(Debug)]
pub(crate) enum Item {
    Shape { number: u32, bytes: Bytes },
    Change(RawChange),
    Commit { end_lsn: Lsn },
}

/// A change whose rows nobody has looked at yet.
#[derive(Clone, Debug)]
pub(crate) struct RawChange {
    pub(crate) cursor: Cursor,
    pub(crate) shape: u32,
    commit_time: PgTime,
    pub(crate) xid: Xid,
    kind: u8,
    body: Bytes,
}

/// Walks the records of one block.
pub(crate) struct Walk {
    rest: Bytes,
    transaction: Option<Transaction>,
}

impl Walk {
    pub(crate) fn new(body: Bytes) -> Walk {
        Walk {
            rest: body,
            transaction: None,
        }
    }

    /// `None` at the end of the block.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, Damaged> {
        loop {
            let Some((kind, mut body)) = self.record()? else {
                return Ok(None);
            };
            let item = match kind {
                b'B' => {
                    self.transaction = Some(transaction(&mut body)?);
                    continue;
                }
                b'S' => Item::Shape {
                    number: u32_of(&mut body)?,
                    bytes: body,
                },
                b'C' => {
                    self.transaction = None;
                    let end_lsn = body.try_get_u64().map_err(|_| Damaged)?;
                    ended(&body)?;
                    Item::Commit {
                        end_lsn: Lsn(end_lsn),
                    }
                }
                _ => Item::Change(self.change(kind, body)?),
            };
            return Ok(Some(item));
        }
    }

    fn record(&mut self) -> Result<Option<(u8, Bytes)>, Damaged> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let kind = self.rest.try_get_u8().map_err(|_| Damaged)?;
        let size = u32_of(&mut self.rest)? as usize;
        Ok(Some((kind, split_to(&mut self.rest, size)?)))
    }

    fn change(&mut self, kind: u8, mut body: Bytes) -> Result<RawChange, Damaged> {
        let transaction = self.transaction.as_mut().ok_or(Damaged)?;
        let change = RawChange {
            cursor: transaction.cursor(),
            shape: u32_of(&mut body)?,
            commit_time: transaction.commit_time,
            xid: transaction.xid,
            kind,
            body,
        };
        transaction.ordinal = transaction.ordinal.checked_add(1).ok_or(Damaged)?;
        Ok(change)
    }
}

impl RawChange {
    /// With its rows, which share the block's bytes.
    pub(crate) fn decode(self, shape: &Arc<Shape>) -> Result<Change, Damaged> {
        let mut body = self.body;
        let tuple = |body| {
            let columns = u16::try_from(shape.columns.len()).map_err(|_| Damaged)?;
            Tuple::from_body(columns, body).ok_or(Damaged)
        };
        let mut new_and_old = || {
            let size = u32_of(&mut body)? as usize;
            let new = split_to(&mut body, size)?;
            Ok((tuple(new)?, std::mem::take(&mut body)))
        };
        let operation = match self.kind {
            b'I' => Operation::insert(shape, tuple(body)?),
            b'U' => {
                let (new, old) = new_and_old()?;
                ended(&old)?;
                Operation::update(shape, OldRow::None, new)
            }
            b'k' => {
                let (new, old) = new_and_old()?;
                Operation::update(shape, OldRow::Key(tuple(old)?), new)
            }
            b'f' => {
                let (new, old) = new_and_old()?;
                Operation::update(shape, OldRow::Full(tuple(old)?), new)
            }
            b'K' => Operation::delete(shape, OldRow::Key(tuple(body)?)).ok_or(Damaged)?,
            b'D' => Operation::delete(shape, OldRow::Full(tuple(body)?)).ok_or(Damaged)?,
            b'T' => {
                ended(&body)?;
                Operation::Truncate
            }
            _ => return Err(Damaged),
        };
        Ok(Change {
            cursor: self.cursor,
            commit_time: self.commit_time,
            xid: self.xid,
            shape: shape.clone(),
            operation,
        })
    }
}

fn transaction(body: &mut Bytes) -> Result<Transaction, Damaged> {
    let transaction = Transaction {
        commit_lsn: Lsn(body.try_get_u64().map_err(|_| Damaged)?),
        commit_time: PgTime(body.try_get_i64().map_err(|_| Damaged)?),
        xid: Xid(u32_of(body)?),
        ordinal: body.try_get_u64().map_err(|_| Damaged)?,
    };
    ended(body)?;
    Ok(transaction)
}

fn u32_of(bytes: &mut Bytes) -> Result<u32, Damaged> {
    bytes.try_get_u32().map_err(|_| Damaged)
}

fn split_to(bytes: &mut Bytes, size: usize) -> Result<Bytes, Damaged> {
    match size <= bytes.len() {
        true => Ok(bytes.split_to(size)),
        false => Err(Damaged),
    }
}

fn ended(bytes: &Bytes) -> Result<(), Damaged> {
    match bytes.is_empty() {
        true => Ok(()),
        false => Err(Damaged),
    }
}
