//! The types that every Postgres has, under the same OIDs for ever (`pg_type.dat`).
//!
//! Left out, because their columns differ from version to version: the rows of catalogue tables
//! and the arrays of them. They are looked up like a user's types; so is what a later version adds.

use std::sync::Arc;

use Scalar::{Bool, Json, LongNumber, Number, NumberVector, String, StringVector, Timestamp};

use crate::JsonType;

/// How a value of the built-in type `oid` becomes JSON; `None` for every other type.
pub(crate) fn json_type(oid: u32) -> Option<JsonType> {
    let (builtin, is_array) = find(oid)?;
    let (element_oid, _, _, scalar) = *builtin;
    Some(match is_array {
        false => scalar.json_type(),
        true => JsonType::Array {
            element: Arc::new(scalar.json_type()),
            delimiter: if element_oid == BOX { b';' } else { b',' },
        },
    })
}

/// What `pg_type` calls the built-in type `oid`: arrays have their element's name after a `_`.
pub(crate) fn name(oid: u32) -> Option<Arc<str>> {
    let ((_, _, name, _), is_array) = find(oid)?;
    Some(match is_array {
        false => (*name).into(),
        true => format!("_{name}").into(),
    })
}

/// Whether [`json_type`] knows `oid`.
pub(crate) fn contains(oid: u32) -> bool {
    find(oid).is_some()
}

/// The type, and whether `oid` is that of its array.
fn find(oid: u32) -> Option<(&'static Builtin, bool)> {
    let has = |(scalar, array, ..): &&Builtin| *scalar == oid || *array == oid;
    let found = TYPES.iter().find(has).filter(|_| oid != NONE)?;
    Some((found, found.1 == oid))
}

#[derive(Clone, Copy)]
enum Scalar {
    String,
    Number,
    LongNumber,
    Bool,
    Json,
    Timestamp,
    NumberVector,
    StringVector,
}

impl Scalar {
    fn json_type(self) -> JsonType {
        match self {
            String => JsonType::String,
            Number => JsonType::Number,
            LongNumber => JsonType::LongNumber,
            Bool => JsonType::Bool,
            Json => JsonType::Json,
            Timestamp => JsonType::Timestamp,
            NumberVector => vector(JsonType::Number),
            StringVector => vector(JsonType::String),
        }
    }
}

fn vector(element: JsonType) -> JsonType {
    JsonType::Vector {
        element: Arc::new(element),
    }
}

/// In the place of an array type that there isn't.
const NONE: u32 = 0;

/// The one built-in type whose elements are not separated by commas.
const BOX: u32 = 603;

/// A type, its array type, its name, how a value stands in JSON.
type Builtin = (u32, u32, &'static str, Scalar);

#[rustfmt::skip]
const TYPES: &[Builtin] = &[
    (16, 1000, "bool", Bool),
    (17, 1001, "bytea", String),
    (18, 1002, "char", String),
    (19, 1003, "name", String),
    (20, 1016, "int8", LongNumber),
    (21, 1005, "int2", Number),
    (22, 1006, "int2vector", NumberVector),
    (23, 1007, "int4", Number),
    (24, 1008, "regproc", String),
    (25, 1009, "text", String),
    (26, 1028, "oid", String),
    (27, 1010, "tid", String),
    (28, 1011, "xid", String),
    (29, 1012, "cid", String),
    (30, 1013, "oidvector", StringVector),
    (114, 199, "json", Json),
    (142, 143, "xml", String),
    (194, 0, "pg_node_tree", String),
    (600, 1017, "point", String),
    (601, 1018, "lseg", String),
    (602, 1019, "path", String),
    (603, 1020, "box", String),
    (604, 1027, "polygon", String),
    (628, 629, "line", String),
    (650, 651, "cidr", String),
    (700, 1021, "float4", Number),
    (701, 1022, "float8", Number),
    (718, 719, "circle", String),
    (774, 775, "macaddr8", String),
    (790, 791, "money", String),
    (829, 1040, "macaddr", String),
    (869, 1041, "inet", String),
    (1033, 1034, "aclitem", String),
    (1042, 1014, "bpchar", String),
    (1043, 1015, "varchar", String),
    (1082, 1182, "date", String),
    (1083, 1183, "time", String),
    (1114, 1115, "timestamp", Timestamp),
    (1184, 1185, "timestamptz", Timestamp),
    (1186, 1187, "interval", String),
    (1266, 1270, "timetz", String),
    (1560, 1561, "bit", String),
    (1562, 1563, "varbit", String),
    (1700, 1231, "numeric", LongNumber),
    (1790, 2201, "refcursor", String),
    (2202, 2207, "regprocedure", String),
    (2203, 2208, "regoper", String),
    (2204, 2209, "regoperator", String),
    (2205, 2210, "regclass", String),
    (2206, 2211, "regtype", String),
    (2275, 1263, "cstring", String),
    (2950, 2951, "uuid", String),
    (2970, 2949, "txid_snapshot", String),
    (3220, 3221, "pg_lsn", String),
    (3361, 0, "pg_ndistinct", String),
    (3402, 0, "pg_dependencies", String),
    (3614, 3643, "tsvector", String),
    (3615, 3645, "tsquery", String),
    (3642, 3644, "gtsvector", String),
    (3734, 3735, "regconfig", String),
    (3769, 3770, "regdictionary", String),
    (3802, 3807, "jsonb", Json),
    (3904, 3905, "int4range", String),
    (3906, 3907, "numrange", String),
    (3908, 3909, "tsrange", String),
    (3910, 3911, "tstzrange", String),
    (3912, 3913, "daterange", String),
    (3926, 3927, "int8range", String),
    (4072, 4073, "jsonpath", String),
    (4089, 4090, "regnamespace", String),
    (4096, 4097, "regrole", String),
    (4191, 4192, "regcollation", String),
    (4451, 6150, "int4multirange", String),
    (4532, 6151, "nummultirange", String),
    (4533, 6152, "tsmultirange", String),
    (4534, 6153, "tstzmultirange", String),
    (4535, 6155, "datemultirange", String),
    (4536, 6157, "int8multirange", String),
    (4600, 0, "pg_brin_bloom_summary", String),
    (4601, 0, "pg_brin_minmax_multi_summary", String),
    (5017, 0, "pg_mcv_list", String),
    (5038, 5039, "pg_snapshot", String),
    (5069, 271, "xid8", String),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_arrays() {
        for (oid, expected) in [
            (20, Some(JsonType::LongNumber)),
            (21, Some(JsonType::Number)),
            (23, Some(JsonType::Number)),
            (700, Some(JsonType::Number)),
            (701, Some(JsonType::Number)),
            (1700, Some(JsonType::LongNumber)),
            (1231, Some(array(JsonType::LongNumber, b','))),
            (1007, Some(array(JsonType::Number, b','))),
            (3802, Some(JsonType::Json)),
            (1186, Some(JsonType::String)),
            (22, Some(vector(JsonType::Number))),
            (1016, Some(array(JsonType::LongNumber, b','))),
            (1020, Some(array(JsonType::String, b';'))),
            (1006, Some(array(vector(JsonType::Number), b','))),
            (0, None),
            (83, None),
            (16384, None),
        ] {
            assert_eq!(json_type(oid), expected, "{oid}");
            assert_eq!(contains(oid), expected.is_some(), "{oid}");
        }
    }

    #[test]
    fn no_oid_stands_twice() {
        let mut oids: Vec<u32> = TYPES
            .iter()
            .flat_map(|(oid, array, ..)| [*oid, *array])
            .collect();
        oids.retain(|oid| *oid != NONE);
        let count = oids.len();
        oids.sort_unstable();
        oids.dedup();
        assert_eq!(oids.len(), count);
    }

    fn array(element: JsonType, delimiter: u8) -> JsonType {
        JsonType::Array {
            element: Arc::new(element),
            delimiter,
        }
    }
}
