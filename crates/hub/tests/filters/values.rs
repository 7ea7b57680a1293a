//! The columns, what stands in them, and what they are compared with.

use walcast_harness::Dice;

pub(crate) struct Kind {
    pub(crate) column: &'static str,
    pub(crate) sql: &'static str,
    /// What the rows hold, beside NULL; none: texts at random.
    pub(crate) values: &'static [&'static str],
    /// What filters compare with, beside the values.
    pub(crate) operands: &'static [&'static str],
    /// How order and patterns are written in SQL.
    pub(crate) sort: Sort,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sort {
    Plain,
    /// Ordered as under collation "C".
    Text,
    Bool,
    /// Of a type with labels: nothing else can be compared with it.
    Label,
}

const INTEGERS: &[&str] = &[
    " 7 ",
    "+7",
    "007",
    "-0",
    "1.0",
    "",
    "x",
    "32768",
    "2147483648",
    "9223372036854775808",
    "4294967295",
    "-1",
];
const FLOATS: &[&str] = &[
    "1.50",
    "15e-1",
    "1e400",
    "1e-400",
    "1e39",
    "-0",
    "+inf",
    "nan",
    "0.100000001",
    "0.1000000000000000055",
    "x",
    "",
    "1,5",
    ".",
];
const TIMES: &[&str] = &[
    "2024-02-29T12:00:00Z",
    "2024-02-29 12:00",
    "2024-02-29",
    "2024-02-30",
    "2023-02-29",
    "2024-02-29 14:00:00+02",
    "2024-02-29 07:00:00-05:00",
    "2024-02-29 12:00:00.0000005",
    "2024-02-29 11:59:59.9999999",
    "2024-02-29 12:00:00.1234565",
    "2024-02-29 24:00:00",
    "2024-02-29 25:00:00",
    "2024-02-29 12:61:00",
    "2024-2-29",
    "24-02-29",
    "0000-01-01",
    "0044-03-15 BC",
    "0044-03-15 12:00:00 BC",
    "2024-13-01",
    "2024-02-29 12:00:00+16",
    "2024-02-29 12:00:00+1530",
    "2024-02-29 12:00:00.",
    "2024-02-29 12",
    "infinity",
    "-infinity",
    "x",
    "",
];

pub(crate) const KINDS: &[Kind] = &[
    kind("i2", "int2", &["0", "7", "-7", "32767", "-32768"], INTEGERS),
    kind(
        "i4",
        "int4",
        &["0", "7", "-7", "2147483647", "70"],
        INTEGERS,
    ),
    kind(
        "i8",
        "int8",
        &[
            "0",
            "7",
            "-7",
            "9223372036854775807",
            "-9223372036854775808",
        ],
        INTEGERS,
    ),
    kind("o", "oid", &["0", "7", "4294967295"], INTEGERS),
    kind(
        "f4",
        "float4",
        &[
            "0",
            "-0",
            "0.1",
            "1.5",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e38",
            "1e-45",
        ],
        FLOATS,
    ),
    kind(
        "f8",
        "float8",
        &[
            "0",
            "-0",
            "0.1",
            "1.5",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e300",
            "5e-324",
            "0.30000000000000004",
        ],
        FLOATS,
    ),
    kind(
        "n",
        "numeric",
        &[
            "0",
            "-0.0",
            "1.0",
            "1.00",
            "1",
            "-1.5",
            "NaN",
            "Infinity",
            "-Infinity",
            "123456789012345678901234567890.10",
            "0.0001",
        ],
        FLOATS,
    ),
    Kind {
        sort: Sort::Bool,
        ..kind(
            "b",
            "bool",
            &["t", "f"],
            &[
                "true", "FALSE", "yes", "no", "on", "off", "1", "0", " t ", "maybe", "",
            ],
        )
    },
    kind(
        "u",
        "uuid",
        &[
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
        &[
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1-1",
            "a0e",
            "",
            "-a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11}",
        ],
    ),
    text("x", "text"),
    text("quoted \"name\", (x)", "text COLLATE \"C\""),
    text("v", "varchar(10)"),
    text("c", "char(5)"),
    text("m", "name"),
    Kind {
        values: &["a", "b", "", " "],
        operands: &["A", "ab", ","],
        sort: Sort::Text,
        ..text("ch", "\"char\"")
    },
    kind(
        "y",
        "bytea",
        &["\\x", "\\x00", "\\xff", "\\xff00"],
        &["\\xFF", "\\xf", "\\xzz"],
    ),
    kind(
        "d",
        "date",
        &[
            "2024-02-29",
            "2024-03-01",
            "0044-03-15 BC",
            "infinity",
            "-infinity",
            "5874897-12-31",
            "4714-11-24 BC",
        ],
        TIMES,
    ),
    kind(
        "ts",
        "timestamp",
        &[
            "2024-02-29 12:00:00",
            "2024-02-29 12:00:00.000001",
            "2024-02-29 12:00:00.123456",
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00 BC",
            "2024-03-01 00:00:00",
        ],
        TIMES,
    ),
    kind(
        "tz",
        "timestamptz",
        &[
            "2024-02-29 12:00:00+00",
            "2024-02-29 12:00:00.000001+00",
            "2024-02-29 00:00:00+00",
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00+00 BC",
        ],
        TIMES,
    ),
    kind(
        "ti",
        "time",
        &["00:00:00", "12:00:00", "12:00:00.5", "24:00:00"],
        &[
            "12:00",
            "12:00:00.500",
            "24:00",
            "24:00:01",
            "12",
            "1:00",
            "12:60:00",
            "",
            "x",
            "12:00:00.0000005",
        ],
    ),
    Kind {
        sort: Sort::Label,
        ..kind("e", "mood", &["low", "high", "A b"], &[])
    },
    kind("p", "point", &["(1,2)", "(0,0)"], &["(1, 2)"]),
    kind(
        "j",
        "jsonb",
        &["1", "{\"a\": 1}", "null"],
        &["{\"a\":1}", "1.0"],
    ),
];

const fn kind(
    column: &'static str,
    sql: &'static str,
    values: &'static [&'static str],
    operands: &'static [&'static str],
) -> Kind {
    Kind {
        column,
        sql,
        values,
        operands,
        sort: Sort::Plain,
    }
}

const fn text(column: &'static str, sql: &'static str) -> Kind {
    Kind {
        sort: Sort::Text,
        ..kind(column, sql, &[], &[])
    }
}

impl Kind {
    pub(crate) fn value(&self, dice: &mut Dice) -> String {
        match self.values {
            [] => letters(dice),
            values => pick(dice, values).to_string(),
        }
    }

    pub(crate) fn operand(&self, dice: &mut Dice) -> String {
        match self.operands {
            [_, ..] if dice.percent(40) => pick(dice, self.operands).to_string(),
            _ => self.value(dice),
        }
    }
}

fn letters(dice: &mut Dice) -> String {
    const LETTERS: &[&str] = &[
        "a", "b", "a", "b", "A", "B", "é", "É", "日", "_", "1", " ", "%", ".", "\\", ",", "\"",
        "\n", "'", "(", "ß", "-",
    ];
    (0..dice.below(5)).map(|_| *pick(dice, LETTERS)).collect()
}

pub(crate) fn like(dice: &mut Dice) -> String {
    const PIECES: &[&str] = &[
        "a", "b", "A", "é", "É", "%", "%", "_", "_", "1", " ", "\\%", "\\_", "\\\\", "\\a", "\\",
        "日", "ß",
    ];
    (0..dice.below(6)).map(|_| *pick(dice, PIECES)).collect()
}

pub(crate) fn regex(dice: &mut Dice) -> String {
    const PIECES: &[&str] = &[
        "a",
        "b",
        "A",
        "é",
        "É",
        "日",
        "1",
        "_",
        " ",
        "-",
        "ß",
        ".",
        ".",
        "*",
        "+",
        "?",
        "*?",
        "(",
        ")",
        "(?:",
        "|",
        "^",
        "$",
        "[ab]",
        "[^a]",
        "[a-c]",
        "[A-Z]",
        "[é-ü]",
        "[]a]",
        "[^]a]",
        "[a-]",
        "[-a]",
        "[a-c-e]",
        "[b-a]",
        "[[:alpha:]]",
        "[[:digit:]_]",
        "[[:upper:]]",
        "[[:lower:]]",
        "[[:space:]]",
        "[^[:alnum:]]",
        "[[:punct:]]",
        "[\\d_]",
        "[\\w]",
        "[^\\s]",
        "[\\]]",
        "[a\\-c]",
        "\\d",
        "\\D",
        "\\w",
        "\\W",
        "\\s",
        "\\S",
        "\\m",
        "\\M",
        "\\y",
        "\\Y",
        "\\A",
        "\\Z",
        "\\.",
        "\\n",
        "\\\\",
        "\\1",
        "\\x41",
        "{2}",
        "{1,2}",
        "{0,}",
        "{,3}",
        "{3,1}",
        "{",
        "}",
        "]",
        "[",
        "(?=a)",
        "(?!a)",
        "***=",
        "(?i)",
        "&&",
        "~",
    ];
    (0..1 + dice.below(6))
        .map(|_| *pick(dice, PIECES))
        .collect()
}

pub(crate) fn pick<'a, T>(dice: &mut Dice, all: &'a [T]) -> &'a T {
    &all[dice.below(all.len() as u64) as usize]
}
