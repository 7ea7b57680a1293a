//! A filter as SQL, to read the rows that it may select.
//!
//! The clause is true wherever the filter is, and may be true elsewhere: what SQL can't say exactly
//! is left out. Inside of NOT that means: false wherever what is negated is.

use super::condition::Condition;
use super::predicate::{Operator, Pattern, Predicate};
use crate::pattern;
use crate::value::{Comparison, with_zone};

/// `type_of`: the OID of a column's type.
pub(super) fn clause(condition: &Condition, type_of: &dyn Fn(&str) -> u32) -> String {
    let mut sql = String::new();
    Writer {
        type_of,
        sql: &mut sql,
    }
    .condition(condition, true);
    sql
}

struct Writer<'w> {
    type_of: &'w dyn Fn(&str) -> u32,
    sql: &'w mut String,
}

impl Writer<'_> {
    /// `positive`: under an even number of negations.
    fn condition(&mut self, condition: &Condition, positive: bool) {
        match condition {
            Condition::All(parts) => self.joined(parts, " AND ", positive),
            Condition::Any(parts) => self.joined(parts, " OR ", positive),
            Condition::Not(part) => {
                self.sql.push_str("(NOT ");
                self.condition(part, !positive);
                self.sql.push(')');
            }
            Condition::One(predicate) => {
                let comparison = Comparison::of((self.type_of)(&predicate.column));
                match one(predicate, comparison, positive) {
                    Some(sql) => self.sql.push_str(&sql),
                    None if positive => self.sql.push_str("true"),
                    None => self.sql.push_str("false"),
                }
            }
        }
    }

    fn joined(&mut self, parts: &[Condition], with: &str, positive: bool) {
        self.sql.push('(');
        for (nth, part) in parts.iter().enumerate() {
            if nth > 0 {
                self.sql.push_str(with);
            }
            self.condition(part, positive);
        }
        self.sql.push(')');
    }
}

/// `None`: it can't be said.
fn one(predicate: &Predicate, comparison: Comparison, positive: bool) -> Option<String> {
    let column = quoted(&predicate.column, '"');
    if predicate.operator == Operator::Is {
        return Some(format!(
            "({column} IS {})",
            predicate.operand().to_ascii_uppercase()
        ));
    }
    let sort = sort(comparison)?;
    let comparable = match comparison {
        // An enum's literals are its labels alone; its text may be anything.
        Comparison::Label | Comparison::Byte => format!("{column}::pg_catalog.text COLLATE \"C\""),
        // Bare, an index can be used. More may be equal under the column's own collation.
        Comparison::Text | Comparison::Blank if positive && is_equality(predicate.operator) => {
            column
        }
        Comparison::Text | Comparison::Blank => format!("{column} COLLATE \"C\""),
        _ => column,
    };
    let typed = |text: &str| match comparison {
        Comparison::TimestampTz => format!("{}::{sort}", literal(&with_zone(text))),
        _ => format!("{}::{sort}", literal(text)),
    };
    let with = |operator: &str| {
        Some(format!(
            "({comparable} {operator} {})",
            typed(predicate.operand())
        ))
    };
    match (predicate.operator, &predicate.pattern) {
        (Operator::Eq, _) => with("="),
        (Operator::Neq, _) => with("<>"),
        (Operator::Gt, _) => with(">"),
        (Operator::Gte, _) => with(">="),
        (Operator::Lt, _) => with("<"),
        (Operator::Lte, _) => with("<="),
        (Operator::IsDistinct, _) => with("IS DISTINCT FROM"),
        (Operator::In, _) => {
            let items = predicate.operands.iter().map(|operand| match operand {
                Some(operand) => typed(operand),
                None => "NULL".to_owned(),
            });
            let items: Vec<_> = items.collect();
            Some(format!(
                "({comparable} = ANY (ARRAY[{}]::{sort}[]))",
                items.join(", ")
            ))
        }
        (Operator::Like, _) => {
            let pattern = literal(&pattern::in_sql(predicate.operand()));
            Some(format!("({comparable} LIKE {pattern}::pg_catalog.text)"))
        }
        (Operator::Match, Pattern::Regex(regex)) if regex.everywhere => {
            let pattern = literal(predicate.operand());
            Some(format!("({comparable} ~ {pattern}::pg_catalog.text)"))
        }
        // What is the same in another case is up to the column's collation.
        _ => None,
    }
}

fn is_equality(operator: Operator) -> bool {
    matches!(operator, Operator::Eq | Operator::In)
}

/// The type that literals are written in.
fn sort(comparison: Comparison) -> Option<&'static str> {
    Some(match comparison {
        Comparison::Int2 => "pg_catalog.int2",
        Comparison::Int4 => "pg_catalog.int4",
        Comparison::Int8 => "pg_catalog.int8",
        Comparison::Oid => "pg_catalog.oid",
        Comparison::Float4 => "pg_catalog.float4",
        Comparison::Float8 => "pg_catalog.float8",
        Comparison::Numeric => "pg_catalog.numeric",
        Comparison::Bool => "pg_catalog.bool",
        Comparison::Uuid => "pg_catalog.uuid",
        Comparison::Text | Comparison::Label | Comparison::Byte => "pg_catalog.text",
        Comparison::Blank => "pg_catalog.bpchar",
        Comparison::Bytea => "pg_catalog.bytea",
        Comparison::Date => "pg_catalog.date",
        Comparison::Time => "pg_catalog.time",
        Comparison::Timestamp => "pg_catalog.timestamp",
        Comparison::TimestampTz => "pg_catalog.timestamptz",
        Comparison::Not => return None,
    })
}

/// Means the same whatever `standard_conforming_strings` is.
fn literal(text: &str) -> String {
    match text.contains('\\') {
        true => format!(" E{}", quoted(&text.replace('\\', r"\\"), '\'')),
        false => quoted(text, '\''),
    }
}

fn quoted(text: &str, quote: char) -> String {
    let doubled = text.replace(quote, &format!("{quote}{quote}"));
    format!("{quote}{doubled}{quote}")
}
