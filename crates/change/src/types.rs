//! Which type an OID is, and so how its text becomes JSON.

use std::collections::HashMap;
use std::sync::Arc;

use walcast_pgoutput::Relation;

/// What `pg_type` says of a type that is not built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeInfo {
    pub oid: u32,
    pub kind: TypeKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A base type of an extension or a user: its text as a string.
    Base,
    Enum,
    Domain {
        base: u32,
    },
    Array {
        element: u32,
        delimiter: u8,
    },
    Composite {
        fields: Vec<(String, u32)>,
    },
    Range,
    Multirange,
}

/// How a value's text becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonType {
    /// A JSON string.
    String,
    /// Digits as they are; `NaN` and infinities as strings.
    Number,
    /// `t` and `f`.
    Bool,
    /// `json` and `jsonb`: spliced as it is.
    Json,
    Date,
    /// With or without time zone: ISO 8601.
    Timestamp,
    Array {
        element: Arc<JsonType>,
        delimiter: u8,
    },
    Composite {
        fields: Arc<[(Box<[u8]>, JsonType)]>,
    },
}

/// The types known so far.
#[derive(Clone, Debug, Default)]
pub struct Types {
    known: HashMap<u32, TypeInfo>,
}

impl Types {
    /// The types of `relation` that are neither built in nor known yet.
    pub fn missing(&self, relation: &Relation) -> Vec<u32> {
        let oids = relation.columns.iter().map(|column| column.type_oid);
        oids.filter(|oid| *oid >= 16384 && !self.known.contains_key(oid))
            .collect()
    }

    pub fn insert(&mut self, info: TypeInfo) {
        self.known.insert(info.oid, info);
    }

    pub fn json_type(&self, _oid: u32) -> JsonType {
        JsonType::String
    }
}
