//! What happened to one row, or to a whole table.

use std::sync::Arc;

use walcast_pgoutput::{PgTime, Xid};

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
