//! The types of columns, with few enough values that two of them are often equal.

/// A type of columns.
#[derive(Debug, PartialEq)]
pub(crate) struct Kind {
    /// As a cast names it.
    pub(crate) sql: &'static str,
    /// After the type in a column's definition.
    pub(crate) collation: &'static str,
    pub(crate) family: Family,
    /// As their input functions take them, and `NULL`.
    pub(crate) values: &'static [&'static str],
    /// Claims that may hold such a value.
    pub(crate) claims: &'static [&'static str],
}

/// What more than comparisons a type has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Text,
    Whole,
    Truth,
    Array,
    Json,
    /// Compared only.
    Other,
}

pub(crate) const IDS: [&str; 4] = [
    "00000000-0000-0000-0000-00000000000a",
    "00000000-0000-0000-0000-00000000000b",
    "00000000-0000-0000-0000-00000000000c",
    "abcdefab-cdef-abcd-efab-cdefabcdef0d",
];

const TEXTS: &[&str] = &[
    "",
    "a",
    "A",
    "b",
    "a ",
    " a",
    "acme",
    "ACME",
    "Acme",
    "\u{e9}",
    "e\u{301}",
    "1",
    "01",
    "null",
    "t",
    "%",
    "x_y%",
    "umbrella",
    "strasse",
    "stra\u{df}e",
    "it's",
    "a\\b",
    "\"",
    "NULL",
];
const SHORT: &[&str] = &[
    "", "a", "A", "a ", "a  ", "ab", "abcd", "1", "acme", "ACME", "\u{e9}",
];
const WHOLE: &[&str] = &["-1", "0", "1", "2", "3", "7"];
const NUMERIC: &[&str] = &[
    "1", "1.0", "1.00", "0", "-0", "0.0", "2.5", "NaN", "Infinity", "-1", "10", "1e1",
];
const FLOAT: &[&str] = &[
    "1",
    "0",
    "-0",
    "2.5",
    "NaN",
    "Infinity",
    "-Infinity",
    "0.1",
    "1e-5",
    "10",
];
const UUID: &[&str] = &[
    IDS[0],
    IDS[1],
    IDS[2],
    IDS[3],
    "ABCDEFAB-CDEF-ABCD-EFAB-CDEFABCDEF0D",
    "{abcdefab-cdef-abcd-efab-cdefabcdef0d}",
];
const IDENTITY: &[&str] = &["sub", "owner"];
const NUMBERS: &[&str] = &["org", "level", "score"];
const WORDS: &[&str] = &["tenant", "email", "role", "org"];
const TIMES: &[&str] = &["when", "since"];

const fn kind(
    sql: &'static str,
    family: Family,
    values: &'static [&'static str],
    claims: &'static [&'static str],
) -> Kind {
    Kind {
        sql,
        collation: "",
        family,
        values,
        claims,
    }
}

const fn collated(sql: &'static str, collation: &'static str) -> Kind {
    Kind {
        sql,
        collation,
        family: Family::Text,
        values: TEXTS,
        claims: WORDS,
    }
}

pub(crate) static KINDS: &[Kind] = &[
    kind("uuid", Family::Other, UUID, IDENTITY),
    kind("uuid", Family::Other, UUID, IDENTITY),
    kind("text", Family::Text, TEXTS, WORDS),
    kind("text", Family::Text, TEXTS, WORDS),
    kind("int4", Family::Whole, WHOLE, NUMBERS),
    kind("int4", Family::Whole, WHOLE, NUMBERS),
    kind("int8", Family::Whole, WHOLE, NUMBERS),
    kind("int2", Family::Whole, WHOLE, NUMBERS),
    kind("bool", Family::Truth, &["t", "f"], &["flag"]),
    kind("numeric", Family::Other, NUMERIC, NUMBERS),
    kind(
        "numeric(6,2)",
        Family::Other,
        &["1", "2.5", "0", "NaN", "10"],
        NUMBERS,
    ),
    kind("float8", Family::Other, FLOAT, NUMBERS),
    kind("float4", Family::Other, FLOAT, NUMBERS),
    kind("varchar(9)", Family::Text, SHORT, WORDS),
    kind("varchar", Family::Text, TEXTS, WORDS),
    kind("char(4)", Family::Text, SHORT, WORDS),
    kind("name", Family::Other, SHORT, WORDS),
    kind("\"char\"", Family::Other, &["", "a", "A", "1"], WORDS),
    collated("text", "COLLATE m.blind"),
    collated("text", "COLLATE m.accents"),
    collated("text", "COLLATE \"en-x-icu\""),
    collated("varchar", "COLLATE m.blind"),
    kind(
        "date",
        Family::Other,
        &["2024-01-01", "2024-02-29", "infinity", "0001-01-01 BC"],
        TIMES,
    ),
    kind(
        "timestamp",
        Family::Other,
        &["2024-01-01 00:00", "2024-01-01 12:00:00.5", "-infinity"],
        TIMES,
    ),
    kind(
        "timestamptz",
        Family::Other,
        &[
            "2024-01-01 00:00+00",
            "2024-01-01 02:00+02",
            "2024-01-01 12:00:00.5+00",
            "infinity",
        ],
        TIMES,
    ),
    kind(
        "time",
        Family::Other,
        &["00:00", "24:00", "12:00:00.5"],
        &["clock"],
    ),
    kind(
        "timetz",
        Family::Other,
        &["12:00+00", "14:00+02", "12:00-01"],
        &["clock"],
    ),
    kind(
        "interval",
        Family::Other,
        &["1 day", "24:00:00", "30 days", "1 mon", "-1 day"],
        &["span"],
    ),
    kind(
        "m.mood",
        Family::Other,
        &["sad", "ok", "happy", "Angry"],
        &["mood"],
    ),
    kind("m.count", Family::Whole, WHOLE, NUMBERS),
    kind("m.code", Family::Text, SHORT, WORDS),
    kind("m.blind_code", Family::Text, SHORT, WORDS),
    kind("m.person", Family::Other, UUID, IDENTITY),
    kind(
        "int4[]",
        Family::Array,
        &["{}", "{1,2}", "{3}", "{NULL}", "{1,NULL,7}", "{{1},{2}}"],
        &["array"],
    ),
    kind(
        "text[]",
        Family::Array,
        &["{}", "{a,b}", "{NULL}", "{acme,\"NULL\"}", "{\"a \",A}"],
        &["array"],
    ),
    kind(
        "uuid[]",
        Family::Array,
        &[
            "{}",
            "{00000000-0000-0000-0000-00000000000a}",
            "{00000000-0000-0000-0000-00000000000b,NULL}",
        ],
        &["array"],
    ),
    kind(
        "jsonb",
        Family::Json,
        &[
            "null",
            "{}",
            "{\"a\": 1}",
            "{\"a\": 1.0, \"tenant\": \"acme\"}",
            "[\"acme\", 1]",
            "\"acme\"",
            "1",
            "1.0",
        ],
        &["app"],
    ),
    kind(
        "inet",
        Family::Other,
        &["10.0.0.1", "10.0.0.1/32", "10.0.0.0/8", "::1"],
        &["address"],
    ),
    kind("bytea", Family::Other, &["\\x", "\\x61", "a"], WORDS),
    kind("oid", Family::Other, &["0", "1", "4294967295"], NUMBERS),
    kind("bit(3)", Family::Other, &["101", "000"], &["bits"]),
    kind(
        "m.pair",
        Family::Other,
        &["(1,a)", "(1,)", "(,)", "(2,A)"],
        &["pair"],
    ),
    kind(
        "int4range",
        Family::Other,
        &["[1,3)", "[1,2]", "empty", "(,)"],
        &["range"],
    ),
];

/// A literal of the kind.
pub(crate) fn literal(kind: &Kind, value: &str) -> String {
    if value == "NULL" && kind.family != Family::Text {
        return format!("NULL::{}", kind.sql);
    }
    format!("{}::{}", quoted(value), kind.sql)
}

pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
