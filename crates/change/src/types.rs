//! Which type an OID is, and so how its text becomes JSON.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use walcast_pgoutput::Relation;

use crate::type_info::{TypeInfo, TypeKind};
use crate::{builtin, write_string};

/// How a value's text becomes JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JsonType {
    /// A JSON string.
    String,
    /// Digits as they are, which a double holds exactly: `int2`, `int4`, `float4`, `float8`. `NaN` and
    /// infinities as strings.
    Number,
    /// `int8` and `numeric`: the same, but a double may lose digits, so they stand as
    /// [`Numbers`](crate::Numbers) says.
    LongNumber,
    /// `t` and `f`.
    Bool,
    /// `json` and `jsonb`: spliced as it is.
    Json,
    /// With or without time zone: ISO 8601.
    Timestamp,
    /// `int2vector` and `oidvector`: blanks between the elements.
    Vector { element: Arc<JsonType> },
    Array {
        element: Arc<JsonType>,
        delimiter: u8,
    },
    Composite {
        /// `"name":`, ready to write, and the field's type.
        fields: Arc<[(Box<[u8]>, JsonType)]>,
    },
}

/// Types within types are followed this far; what is deeper is a string. Also ends circles, which
/// Postgres forbids but a catalogue read in the middle of changes might show.
const DEPTH_MAX: usize = 16;

/// The types known so far. Bounded by the types that published tables use.
#[derive(Clone, Debug, Default)]
pub struct Types {
    known: HashMap<u32, TypeInfo>,
}

impl Types {
    /// The types of `relation`, and those inside them, that are neither built in nor known yet.
    ///
    /// Load them with [`TYPES_QUERY`](crate::TYPES_QUERY), which brings those inside them as well,
    /// and [`insert`](Types::insert) them; what is still missing then is gone from the catalogue:
    /// insert it as [`TypeInfo::unknown`]. After that nothing is missing.
    pub fn missing(&self, relation: &Relation) -> Vec<u32> {
        let mut missing = Vec::new();
        self.visit(relation, |oid, info| match info {
            Some(_) => {}
            None => missing.push(oid),
        });
        missing
    }

    /// Forgets what is known of the types of `relation` and of those inside them, so that
    /// [`missing`](Types::missing) names them again: they may have been altered since.
    pub fn forget(&mut self, relation: &Relation) {
        let mut found = Vec::new();
        self.visit(relation, |oid, _| found.push(oid));
        for oid in found {
            self.known.remove(&oid);
        }
    }

    pub fn insert(&mut self, info: TypeInfo) {
        self.known.insert(info.oid, info);
    }

    /// How a value of type `oid` becomes JSON. An unknown type's text becomes a string.
    pub fn json_type(&self, oid: u32) -> JsonType {
        self.resolve(oid, 0, &mut HashMap::new())
    }

    /// What `pg_type` calls the type `oid`: `int8`, `_text`, `mood`. `unknown` if that is not known.
    pub fn type_name(&self, oid: u32) -> Arc<str> {
        let known = || self.known.get(&oid).map(|info| info.name.clone());
        builtin::name(oid)
            .or_else(known)
            .unwrap_or_else(|| "unknown".into())
    }

    /// Calls `found` once for each type of `relation`, and inside those, that is not built in.
    fn visit(&self, relation: &Relation, mut found: impl FnMut(u32, Option<&TypeInfo>)) {
        let mut seen = HashSet::new();
        let columns = relation.columns.iter().rev();
        let mut waiting: Vec<u32> = columns.map(|column| column.type_oid).collect();
        while let Some(oid) = waiting.pop() {
            if builtin::contains(oid) || !seen.insert(oid) {
                continue;
            }
            let info = self.known.get(&oid);
            found(oid, info);
            waiting.extend(info.into_iter().flat_map(|info| info.kind.inner()));
        }
    }

    /// `done` keeps the work linear where a type is used in many places, at each depth.
    fn resolve(
        &self,
        oid: u32,
        depth: usize,
        done: &mut HashMap<(u32, usize), JsonType>,
    ) -> JsonType {
        if let Some(json) = builtin::json_type(oid) {
            return json;
        }
        if depth >= DEPTH_MAX {
            return JsonType::String;
        }
        if let Some(json) = done.get(&(oid, depth)) {
            return json.clone();
        }
        let json = match self.known.get(&oid).map(|info| &info.kind) {
            Some(TypeKind::Domain { base }) => self.resolve(*base, depth + 1, done),
            Some(TypeKind::Array { element, delimiter }) => JsonType::Array {
                element: Arc::new(self.resolve(*element, depth + 1, done)),
                delimiter: *delimiter,
            },
            Some(TypeKind::Composite { fields }) => {
                let field = |(name, oid): &(String, u32)| {
                    (json_key(name), self.resolve(*oid, depth + 1, done))
                };
                JsonType::Composite {
                    fields: fields.iter().map(field).collect(),
                }
            }
            Some(TypeKind::Base | TypeKind::Enum | TypeKind::Range | TypeKind::Multirange)
            | None => JsonType::String,
        };
        done.insert((oid, depth), json.clone());
        json
    }
}

/// `"name":`
pub(crate) fn json_key(name: &str) -> Box<[u8]> {
    let mut out = Vec::with_capacity(name.len() + 3);
    write_string(name.as_bytes(), &mut out);
    out.push(b':');
    out.into_boxed_slice()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use walcast_pgoutput::{Column, RelationId, ReplicaIdentity};

    use super::*;

    fn info(oid: u32, kind: TypeKind) -> TypeInfo {
        let name = format!("t{oid}").into();
        TypeInfo { oid, name, kind }
    }

    fn types<const N: usize>(kinds: [(u32, TypeKind); N]) -> Types {
        let mut types = Types::default();
        for (oid, kind) in kinds {
            types.insert(info(oid, kind));
        }
        types
    }

    fn composite<const N: usize>(fields: [(&str, u32); N]) -> TypeKind {
        let fields = fields.map(|(name, oid)| (name.to_owned(), oid));
        TypeKind::Composite {
            fields: fields.into(),
        }
    }

    fn array(element: u32) -> TypeKind {
        TypeKind::Array {
            element,
            delimiter: b',',
        }
    }

    fn relation<const N: usize>(oids: [u32; N]) -> Relation {
        let column = |type_oid| Column {
            key: false,
            name: Bytes::from_static(b"c"),
            type_oid,
            type_modifier: -1,
        };
        Relation {
            id: RelationId(1),
            schema: Bytes::new(),
            name: Bytes::new(),
            identity: ReplicaIdentity::Default,
            columns: oids.into_iter().map(column).collect(),
        }
    }

    #[test]
    fn nested_types_resolve() {
        let types = types([
            (20001, TypeKind::Enum),
            (20002, TypeKind::Domain { base: 20003 }),
            (20003, TypeKind::Domain { base: 23 }),
            (20004, array(20005)),
            (
                20005,
                composite([("a\"b", 20002), ("e", 20001), ("t", 1185)]),
            ),
            (20006, TypeKind::Range),
            (20007, TypeKind::Multirange),
            (20008, TypeKind::Base),
        ]);
        for oid in [20001, 20006, 20007, 20008, 20009] {
            assert_eq!(types.json_type(oid), JsonType::String, "{oid}");
        }
        assert_eq!(types.json_type(20002), JsonType::Number);
        let JsonType::Array { element, .. } = types.json_type(20004) else {
            panic!("20004 is an array")
        };
        let JsonType::Composite { fields } = &*element else {
            panic!("20005 is a composite")
        };
        let timestamps = JsonType::Array {
            element: Arc::new(JsonType::Timestamp),
            delimiter: b',',
        };
        let expected = [
            (&br#""a\"b":"#[..], JsonType::Number),
            (br#""e":"#, JsonType::String),
            (br#""t":"#, timestamps),
        ];
        let found: Vec<_> = fields
            .iter()
            .map(|(key, json)| (&**key, json.clone()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn names_are_those_of_the_catalogue() {
        let types = types([(20001, TypeKind::Enum)]);
        for (oid, name) in [
            (20, "int8"),
            (1009, "_text"),
            (1042, "bpchar"),
            (20001, "t20001"),
            (20002, "unknown"),
            (0, "unknown"),
        ] {
            assert_eq!(&*types.type_name(oid), name, "{oid}");
        }
    }

    #[test]
    fn circles_and_great_depth_end() {
        let circle = types([
            (20001, array(20002)),
            (20002, composite([("x", 20001), ("y", 20001), ("z", 20002)])),
            (20003, TypeKind::Domain { base: 20003 }),
        ]);
        assert_eq!(circle.json_type(20003), JsonType::String);
        let mut out = Vec::new();
        crate::write_cell(
            &circle.json_type(20001),
            b"{\"(,,)\"}",
            crate::Numbers::Number,
            &mut out,
        );
        assert_eq!(out, br#"[{"x":null,"y":null,"z":null}]"#);
        assert_eq!(circle.missing(&relation([20001, 20003])), []);

        let mut deep = Types::default();
        for oid in 20001..60_000 {
            let kind = composite([
                ("a", oid - 1),
                ("b", oid - 1),
                ("c", oid - 1),
                ("d", oid - 1),
            ]);
            deep.insert(info(oid, kind));
        }
        assert!(matches!(deep.json_type(59_999), JsonType::Composite { .. }));
    }

    #[test]
    fn missing_until_all_is_known() {
        let relation = relation([25, 20004, 20001, 20004, 273]);
        let mut types = Types::default();
        assert_eq!(types.missing(&relation), [20004, 20001, 273]);
        for (oid, kind) in [
            (20004, array(20005)),
            (20001, TypeKind::Domain { base: 20002 }),
            (273, TypeKind::Base),
        ] {
            types.insert(info(oid, kind));
        }
        assert_eq!(types.missing(&relation), [20005, 20002]);
        let kind = composite([("a", 23), ("b", 20001), ("c", 20006)]);
        types.insert(info(20005, kind));
        assert_eq!(types.missing(&relation), [20006, 20002]);
        types.insert(TypeInfo::unknown(20006));
        types.insert(TypeInfo::unknown(20002));
        assert_eq!(types.missing(&relation), []);
        assert_eq!(types.json_type(20001), JsonType::String);

        types.forget(&relation);
        assert_eq!(types.missing(&relation), [20004, 20001, 273]);
    }
}
