//! What happened to one row, or to a whole table.

use std::sync::Arc;

use walcast_pgoutput::{OldRow, PgTime, Tuple, Xid};

use crate::{Cursor, Row, Shape};

/// One change of one table, in its place in the total order.
#[derive(Clone, Debug)]
pub struct Change {
    pub cursor: Cursor,
    /// When its transaction committed.
    pub commit_time: PgTime,
    pub xid: Xid,
    pub shape: Arc<Shape>,
    pub operation: Operation,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Insert {
        new: Row,
    },
    /// `old` is there under replica identity FULL, or as the key alone if the key changed.
    Update {
        old: Option<Row>,
        new: Row,
    },
    Delete {
        old: Row,
    },
    /// All rows of the table went at once.
    Truncate,
}

/// From the tuples of the stream, each with as many values as `shape` has columns.
impl Operation {
    pub fn insert(shape: &Arc<Shape>, new: Tuple) -> Operation {
        let new = Row::full(shape.clone(), new, None);
        Operation::Insert { new }
    }

    /// What the new row leaves out as unchanged is taken from a full old one.
    pub fn update(shape: &Arc<Shape>, old: OldRow, new: Tuple) -> Operation {
        let fill = match &old {
            OldRow::Full(old) => Some(old.clone()),
            OldRow::Key(_) | OldRow::None => None,
        };
        Operation::Update {
            old: old_row(shape, old),
            new: Row::full(shape.clone(), new, fill),
        }
    }

    /// `None` without an old row: nothing says which one went.
    pub fn delete(shape: &Arc<Shape>, old: OldRow) -> Option<Operation> {
        let old = old_row(shape, old)?;
        Some(Operation::Delete { old })
    }
}

fn old_row(shape: &Arc<Shape>, old: OldRow) -> Option<Row> {
    match old {
        OldRow::None => None,
        OldRow::Key(tuple) => Some(Row::key(shape.clone(), tuple)),
        OldRow::Full(tuple) => Some(Row::full(shape.clone(), tuple, None)),
    }
}

impl Change {
    #[expect(clippy::new_ret_no_self, reason = "the new row, beside the old one")]
    pub fn new(&self) -> Option<&Row> {
        match &self.operation {
            Operation::Insert { new } | Operation::Update { new, .. } => Some(new),
            Operation::Delete { .. } | Operation::Truncate => None,
        }
    }

    pub fn old(&self) -> Option<&Row> {
        match &self.operation {
            Operation::Update { old, .. } => old.as_ref(),
            Operation::Delete { old } => Some(old),
            Operation::Insert { .. } | Operation::Truncate => None,
        }
    }

    /// The size of its rows as Postgres sent them, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.new().map_or(0, Row::size_bytes) + self.old().map_or(0, Row::size_bytes)
    }
}
