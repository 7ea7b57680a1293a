//! What a subscription names.

use std::fmt;
use std::sync::Arc;

use walcast_change::Shape;

/// A connection, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// A subscription, for as long as the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionId(pub u64);

impl fmt::Display for SubscriptionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Which tables: one, or all published ones of a schema.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    pub schema: Arc<str>,
    /// `None` means every table of the schema.
    pub table: Option<Arc<str>>,
}

impl Target {
    /// Whether it names the table of `shape`.
    pub fn includes(&self, shape: &Shape) -> bool {
        let table = self.table.as_ref();
        *self.schema == *shape.schema && table.is_none_or(|table| **table == *shape.table)
    }
}

/// Which kinds of event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Events(u8);

impl Events {
    pub const INSERT: Events = Events(1);
    pub const UPDATE: Events = Events(2);
    pub const DELETE: Events = Events(4);
    pub const TRUNCATE: Events = Events(8);
    pub const ALL: Events = Events(15);
    pub const NONE: Events = Events(0);

    pub fn contains(self, other: Events) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn union(self, other: Events) -> Events {
        Events(self.0 | other.0)
    }

    /// `*`, or one of `INSERT UPDATE DELETE TRUNCATE` in any case.
    pub fn parse(name: &str) -> Option<Events> {
        Some(match name.to_ascii_uppercase().as_str() {
            "*" | "ALL" => Events::ALL,
            "INSERT" => Events::INSERT,
            "UPDATE" => Events::UPDATE,
            "DELETE" => Events::DELETE,
            "TRUNCATE" => Events::TRUNCATE,
            _ => return None,
        })
    }
}
