//! What a change is to one subscription.

use std::sync::Arc;

use walcast_change::{ColumnSet, Operation};

use crate::Events;

/// Whether a subscription sees one version of a row: row-level security and its own filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    No,
    /// These of its columns.
    Yes(Arc<ColumnSet>),
    /// Postgres did not send enough of the row to tell.
    Unknown,
}

/// A change as the subscription's own view of the table underwent it: a row that an UPDATE brings
/// into sight is an insert there, one that it takes out of sight a delete.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum View {
    Insert {
        columns: Arc<ColumnSet>,
        /// The row existed before, out of sight.
        entered: bool,
    },
    /// `old` is what it may see of the old version, if that was sent at all.
    Update {
        columns: Arc<ColumnSet>,
        old: Option<Arc<ColumnSet>>,
    },
    Delete {
        columns: Arc<ColumnSet>,
        /// The row still exists, out of sight; only its key is given.
        left: bool,
    },
    Truncate,
}

impl View {
    /// The view of a change of rows; `None` where there is nothing to tell.
    /// A truncation is a view of its own: [`View::Truncate`].
    pub fn of(operation: &Operation, new: Seen, old: Seen) -> Option<View> {
        match (operation, new, old) {
            (Operation::Insert { .. }, Seen::Yes(columns), _) => Some(View::Insert {
                columns,
                entered: false,
            }),
            (Operation::Delete { .. }, _, Seen::Yes(columns)) => Some(View::Delete {
                columns,
                left: false,
            }),
            (Operation::Update { .. }, Seen::Yes(columns), Seen::Yes(old)) => Some(View::Update {
                columns,
                old: Some(old),
            }),
            (Operation::Update { .. }, Seen::Yes(columns), Seen::Unknown) => {
                Some(View::Update { columns, old: None })
            }
            (Operation::Update { .. }, Seen::Yes(columns), Seen::No) => Some(View::Insert {
                columns,
                entered: true,
            }),
            (Operation::Update { .. }, _, Seen::Yes(columns)) => Some(View::Delete {
                columns,
                left: true,
            }),
            _ => None,
        }
    }

    /// The same, of these columns only.
    pub fn of_columns(self, asked: &ColumnSet) -> View {
        let of = |columns: Arc<ColumnSet>| Arc::new(columns.intersection(asked));
        match self {
            View::Insert { columns, entered } => View::Insert {
                columns: of(columns),
                entered,
            },
            View::Update { columns, old } => View::Update {
                columns: of(columns),
                old: old.map(of),
            },
            View::Delete { columns, left } => View::Delete {
                columns: of(columns),
                left,
            },
            View::Truncate => View::Truncate,
        }
    }

    /// The kind of event it is delivered as.
    pub fn event(&self) -> Events {
        match self {
            View::Insert { .. } => Events::INSERT,
            View::Update { .. } => Events::UPDATE,
            View::Delete { .. } => Events::DELETE,
            View::Truncate => Events::TRUNCATE,
        }
    }
}
