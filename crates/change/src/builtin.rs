//! The types that every Postgres has, under the same OIDs for ever (`pg_type.dat`).
//!
//! Left out, because their columns differ from version to version: the rows of catalogue tables
//! and the arrays of them. They are looked up like a user's types; so is what a later version adds.

use std::sync::Arc;

use Scalar::{Bool, Json, Number, NumberVector, String, StringVector, Timestamp};

use crate::JsonType;

/// How a value of the built-in type `oid` becomes JSON; `None` for every other type.
pub(crate) fn json_type(oid: u32) -> Option<JsonType> {
    let named = |wanted: u32| move |(oid, ..): &&(u32, u32, Scalar)| *oid == wanted;
    if let Some((_, _, scalar)) = TYPES.iter().find(named(oid)) {
        return Some(scalar.json_type());
    }
    let is_array = |(_, array, _): &&(u32, u32, Scalar)| *array == oid && oid != NONE;
    let (element_oid, _, element) = TYPES.iter().find(is_array)?;
    Some(JsonType::Array {
        element: Arc::new(element.json_type()),
        delimiter: if *element_oid == BOX { b';' } else { b',' },
    })
}

/// Whether [`json_type`] knows `oid`.
pub(crate) fn contains(oid: u32) -> bool {
    let has = |(scalar, array, _): &(u32, u32, Scalar)| *scalar == oid || *array == oid;
    oid != NONE && TYPES.iter().any(has)
}

#[derive(Clone, Copy)]
enum Scalar {
    String,
    Number,
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

/// A type, its array type, how a value stands in JSON.
#[rustfmt::skip]
const TYPES: &[(u32, u32, Scalar)] = &[
    (16, 1000, Bool), // bool
    (17, 1001, String), // bytea
    (18, 1002, String), // char
    (19, 1003, String), // name
    (20, 1016, Number), // int8
    (21, 1005, Number), // int2
    (22, 1006, NumberVector), // int2vector
    (23, 1007, Number), // int4
    (24, 1008, String), // regproc
    (25, 1009, String), // text
    (26, 1028, String), // oid
    (27, 1010, String), // tid
    (28, 1011, String), // xid
    (29, 1012, String), // cid
    (30, 1013, StringVector), // oidvector
    (114, 199, Json), // json
    (142, 143, String), // xml
    (194, 0, String), // pg_node_tree
    (600, 1017, String), // point
    (601, 1018, String), // lseg
    (602, 1019, String), // path
    (603, 1020, String), // box
    (604, 1027, String), // polygon
    (628, 629, String), // line
    (650, 651, String), // cidr
    (700, 1021, Number), // float4
    (701, 1022, Number), // float8
    (718, 719, String), // circle
    (774, 775, String), // macaddr8
    (790, 791, String), // money
    (829, 1040, String), // macaddr
    (869, 1041, String), // inet
    (1033, 1034, String), // aclitem
    (1042, 1014, String), // bpchar
    (1043, 1015, String), // varchar
    (1082, 1182, String), // date
    (1083, 1183, String), // time
    (1114, 1115, Timestamp), // timestamp
    (1184, 1185, Timestamp), // timestamptz
    (1186, 1187, String), // interval
    (1266, 1270, String), // timetz
    (1560, 1561, String), // bit
    (1562, 1563, String), // varbit
    (1700, 1231, Number), // numeric
    (1790, 2201, String), // refcursor
    (2202, 2207, String), // regprocedure
    (2203, 2208, String), // regoper
    (2204, 2209, String), // regoperator
    (2205, 2210, String), // regclass
    (2206, 2211, String), // regtype
    (2275, 1263, String), // cstring
    (2950, 2951, String), // uuid
    (2970, 2949, String), // txid_snapshot
    (3220, 3221, String), // pg_lsn
    (3361, 0, String), // pg_ndistinct
    (3402, 0, String), // pg_dependencies
    (3614, 3643, String), // tsvector
    (3615, 3645, String), // tsquery
    (3642, 3644, String), // gtsvector
    (3734, 3735, String), // regconfig
    (3769, 3770, String), // regdictionary
    (3802, 3807, Json), // jsonb
    (3904, 3905, String), // int4range
    (3906, 3907, String), // numrange
    (3908, 3909, String), // tsrange
    (3910, 3911, String), // tstzrange
    (3912, 3913, String), // daterange
    (3926, 3927, String), // int8range
    (4072, 4073, String), // jsonpath
    (4089, 4090, String), // regnamespace
    (4096, 4097, String), // regrole
    (4191, 4192, String), // regcollation
    (4451, 6150, String), // int4multirange
    (4532, 6151, String), // nummultirange
    (4533, 6152, String), // tsmultirange
    (4534, 6153, String), // tstzmultirange
    (4535, 6155, String), // datemultirange
    (4536, 6157, String), // int8multirange
    (4600, 0, String), // pg_brin_bloom_summary
    (4601, 0, String), // pg_brin_minmax_multi_summary
    (5017, 0, String), // pg_mcv_list
    (5038, 5039, String), // pg_snapshot
    (5069, 271, String), // xid8
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_arrays() {
        for (oid, expected) in [
            (20, Some(JsonType::Number)),
            (3802, Some(JsonType::Json)),
            (1186, Some(JsonType::String)),
            (22, Some(vector(JsonType::Number))),
            (1016, Some(array(JsonType::Number, b','))),
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
            .flat_map(|(oid, array, _)| [*oid, *array])
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
