//! A condition at random, written as a filter and as SQL.

use walcast_harness::Dice;

use crate::table::{literal, name};
use crate::values::{KINDS, Kind, Sort, like, pick, regex};

pub(crate) struct Condition {
    pub(crate) filter: String,
    pub(crate) sql: String,
}

const OPERATORS: &[(&str, &str)] = &[
    ("eq", "="),
    ("eq", "="),
    ("neq", "<>"),
    ("gt", ">"),
    ("gte", ">="),
    ("lt", "<"),
    ("lte", "<="),
    ("like", "LIKE"),
    ("ilike", "ILIKE"),
    ("match", "~"),
    ("imatch", "~*"),
    ("isdistinct", "IS DISTINCT FROM"),
    ("is", "IS"),
    ("in", "= ANY"),
];

impl Condition {
    pub(crate) fn random(dice: &mut Dice, unicode: &str) -> Condition {
        let mut parts = Vec::new();
        for _ in 0..1 + dice.below(10) / 7 {
            parts.push(segment(dice, unicode));
        }
        let (filters, sql): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .map(|part| (part.filter, part.sql))
            .unzip();
        Condition {
            filter: filters.join(*pick(dice, &[",", " ,", ", "])),
            sql: sql.join(" AND "),
        }
    }
}

fn segment(dice: &mut Dice, unicode: &str) -> Condition {
    match dice.percent(25) {
        true => group(dice, unicode, "=", 0),
        false => comparison(dice, unicode, "="),
    }
}

fn group(dice: &mut Dice, unicode: &str, separator: &str, depth: u32) -> Condition {
    let (word, sql) = *pick(dice, &[("or", " OR "), ("and", " AND ")]);
    let mut parts = Vec::new();
    for _ in 0..1 + dice.below(3) {
        parts.push(match depth < 2 && dice.percent(25) {
            true => {
                let separator = *pick(dice, &["", "="]);
                group(dice, unicode, separator, depth + 1)
            }
            false => comparison(dice, unicode, "."),
        });
    }
    let (filters, clauses): (Vec<_>, Vec<_>) = parts
        .into_iter()
        .map(|part| (part.filter, part.sql))
        .unzip();
    let (not, not_sql) = *pick(dice, &[("", ""), ("", ""), ("not.", "NOT ")]);
    Condition {
        filter: format!("{not}{word}{separator}({})", filters.join(",")),
        sql: format!("({not_sql}({}))", clauses.join(sql)),
    }
}

fn comparison(dice: &mut Dice, unicode: &str, separator: &str) -> Condition {
    let (operator, sql) = *pick(dice, OPERATORS);
    let kind = fitting(dice, operator);
    let column = match kind.column {
        plain if plain.chars().all(char::is_alphanumeric) && dice.percent(80) => plain.to_owned(),
        other => name(other),
    };
    let (value, right) = match operator {
        "is" => is(dice),
        "in" => list(dice, kind),
        _ => {
            let operand = match operator {
                "like" | "ilike" => like(dice),
                "match" | "imatch" => regex(dice),
                _ => kind.operand(dice),
            };
            (quoted(dice, &operand), literal(&operand))
        }
    };
    let left = match (kind.sort, operator) {
        (Sort::Text, "ilike" | "match" | "imatch") => {
            format!("{} COLLATE {unicode}", name(kind.column))
        }
        // "char" has an order of its own that is no collation's.
        (Sort::Text, "gt" | "gte" | "lt" | "lte") if kind.sql != "\"char\"" => {
            format!("{} COLLATE \"C\"", name(kind.column))
        }
        _ => name(kind.column),
    };
    let (not, not_sql) = *pick(dice, &[("", ""), ("", ""), ("not.", "NOT ")]);
    Condition {
        filter: format!("{column}{separator}{not}{operator}.{value}"),
        sql: format!("({not_sql}({left} {sql} {right}))"),
    }
}

/// A column that the operator is for, mostly.
fn fitting(dice: &mut Dice, operator: &str) -> &'static Kind {
    let kind = pick(dice, KINDS);
    let fits = match operator {
        "like" | "ilike" | "match" | "imatch" => kind.sort == Sort::Text,
        "is" => kind.sort == Sort::Bool || dice.percent(50),
        _ => true,
    };
    match fits || dice.percent(5) {
        true => kind,
        false => fitting(dice, operator),
    }
}

fn is(dice: &mut Dice) -> (String, String) {
    let word = *pick(
        dice,
        &[
            "null", "null", "not null", "true", "false", "unknown", "NULL",
        ],
    );
    (word.to_owned(), word.to_uppercase())
}

/// The list of `in` is an array of Postgres as it stands.
fn list(dice: &mut Dice, kind: &Kind) -> (String, String) {
    let items = (0..dice.below(4)).map(|_| match dice.percent(8) && kind.sort != Sort::Label {
        true => (*pick(dice, &["NULL", "null", "", "{", "a\"b", "\\n", " b "])).to_owned(),
        false => {
            let operand = kind.operand(dice);
            let plain = !operand.is_empty()
                && operand
                    .chars()
                    .all(|char| char.is_alphanumeric() || "-. :+".contains(char));
            match plain && dice.percent(70) {
                true => operand,
                false => escaped(&operand),
            }
        }
    });
    let items: Vec<String> = items.collect();
    let inner = items.join(*pick(dice, &[",", ", "]));
    (
        format!("({inner})"),
        format!("({})", literal(&format!("{{{inner}}}"))),
    )
}

/// In quotes where it has to be, as the clients do, and sometimes elsewhere.
fn quoted(dice: &mut Dice, text: &str) -> String {
    let special = text.contains([',', '(', ')', '"', '\\', '[']) || text.trim() != text;
    match special || dice.percent(10) {
        true => escaped(text),
        false => text.to_owned(),
    }
}

fn escaped(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
