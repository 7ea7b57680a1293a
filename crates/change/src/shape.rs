//! A table as the stream described it when the row was written.

use std::sync::Arc;

use walcast_pgoutput::{Relation, RelationId, ReplicaIdentity};

use crate::types::json_key;
use crate::{ColumnSet, JsonType, Types};

/// A table's name and columns. A new one is made for every Relation message.
#[derive(Debug)]
pub struct Shape {
    pub id: RelationId,
    pub schema: Arc<str>,
    pub table: Arc<str>,
    pub identity: ReplicaIdentity,
    pub columns: Box<[Column]>,
    /// What names a row to a subscriber: the primary key's columns, where the catalogue told us;
    /// else those of the replica identity (all columns under FULL).
    pub key: ColumnSet,
}

#[derive(Debug)]
pub struct Column {
    pub name: Arc<str>,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// What `pg_type` calls the type.
    pub type_name: Arc<str>,
    /// Part of the replica identity: an old row of kind "key" has it.
    pub identity: bool,
    /// How its text becomes JSON.
    pub json: JsonType,
    /// `"name":`, ready to write.
    pub(crate) json_key: Box<[u8]>,
}

impl Shape {
    /// The shape that `relation` describes. `primary_key` names the key's columns if the caller
    /// knows them: `pgoutput` marks every column as key under replica identity FULL.
    /// Bytes that are no UTF-8 in a name become U+FFFD.
    pub fn new(relation: &Relation, primary_key: Option<&[String]>, types: &Types) -> Shape {
        let columns: Box<[Column]> = relation
            .columns
            .iter()
            .map(|column| {
                let name = text(&column.name);
                Column {
                    json_key: json_key(&name),
                    name,
                    type_oid: column.type_oid,
                    type_modifier: column.type_modifier,
                    type_name: types.type_name(column.type_oid),
                    identity: column.key,
                    json: types.json_type(column.type_oid),
                }
            })
            .collect();
        Shape {
            id: relation.id,
            schema: match relation.schema.is_empty() {
                true => "pg_catalog".into(),
                false => text(&relation.schema),
            },
            table: text(&relation.name),
            identity: relation.identity,
            key: key(&columns, primary_key),
            columns,
        }
    }

    /// The position of the column called `name`.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }
}

fn key(columns: &[Column], primary_key: Option<&[String]>) -> ColumnSet {
    let named = |name: &String| columns.iter().position(|column| *column.name == **name);
    let primary: Option<ColumnSet> = primary_key
        .filter(|names| !names.is_empty())
        .and_then(|names| names.iter().map(named).collect());
    primary.unwrap_or_else(|| {
        let identity = columns
            .iter()
            .enumerate()
            .filter(|(_, column)| column.identity);
        identity.map(|(index, _)| index).collect()
    })
}

fn text(bytes: &[u8]) -> Arc<str> {
    String::from_utf8_lossy(bytes).into()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use walcast_pgoutput::Column;

    use super::*;

    fn shape(schema: &'static [u8], keys: [bool; 3], primary_key: Option<&[&str]>) -> Shape {
        let names: [&'static [u8]; 3] = [b"id", "ü\"".as_bytes(), b"c\xff"];
        let column = |(name, key)| Column {
            key,
            name: Bytes::from_static(name),
            type_oid: 20,
            type_modifier: -1,
        };
        let relation = Relation {
            id: RelationId(1),
            schema: Bytes::from_static(schema),
            name: Bytes::from_static(b"T"),
            identity: ReplicaIdentity::Default,
            columns: names.into_iter().zip(keys).map(column).collect(),
        };
        let primary_key = primary_key.map(|names| names.iter().map(|&name| name.into()).collect());
        let primary_key: Option<Vec<String>> = primary_key;
        Shape::new(&relation, primary_key.as_deref(), &Types::default())
    }

    #[test]
    fn keys() {
        let full = [true; 3];
        for (identity, primary_key, expected) in [
            (full, Some(&["id"][..]), &[0][..]),
            (full, Some(&["ü\"", "id"]), &[0, 1]),
            (full, None, &[0, 1, 2]),
            (full, Some(&[]), &[0, 1, 2]),
            (full, Some(&["id", "gone"]), &[0, 1, 2]),
            ([false, true, false], None, &[1]),
            ([false, true, false], Some(&["id"]), &[0]),
            ([false; 3], None, &[]),
        ] {
            let shape = shape(b"public", identity, primary_key);
            let expected: ColumnSet = expected.iter().copied().collect();
            assert_eq!(shape.key, expected, "{identity:?} {primary_key:?}");
        }
    }

    #[test]
    fn names() {
        let shape = shape(b"", [true; 3], None);
        assert_eq!((&*shape.schema, &*shape.table), ("pg_catalog", "T"));
        assert_eq!(shape.column("ü\""), Some(1));
        assert_eq!(shape.column("c\u{fffd}"), Some(2));
        assert_eq!(shape.column("ID"), None);
        assert_eq!(&*shape.columns[1].json_key, "\"ü\\\"\":".as_bytes());
        assert_eq!(shape.columns[0].json, JsonType::LongNumber);
    }
}
