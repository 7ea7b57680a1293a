//! A subscription's own condition on the rows it wants: `column=operator.value`.

use std::cmp::Ordering;
use std::sync::Arc;

use walcast_change::{Cell, Row};

use crate::pattern;
use crate::value::Comparison;

/// One condition. Like a WHERE clause it selects the rows for which it is true: not those for
/// which it is false, nor those for which it is NULL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    column: Arc<str>,
    operator: Operator,
    negated: bool,
    /// One operand, but for `in`.
    operands: Box<[Box<str>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operator {
    Eq,
    Neq,
    Gt,
    Gte,
    Lt,
    Lte,
    Like,
    Ilike,
    Is,
    In,
}

/// Why a text is no filter, or none for its column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    #[error("invalid filter format (expected column=operator.value, as in id=eq.1)")]
    Format,
    #[error("unknown filter operator (use eq, neq, gt, gte, lt, lte, like, ilike, is or in)")]
    Operator,
    #[error("the filter's operator `is` takes null, not null, true, false or unknown")]
    Is,
    #[error("the filter's operator `in` takes a list in parentheses, as in id=in.(1,2,3)")]
    List,
    #[error("the filter has more than {OPERANDS_MAX} values")]
    TooManyOperands,
    #[error("the filter's column has a type without an order in filters; use eq, neq, in or is")]
    NoOrder,
    #[error("like and ilike filter text columns only")]
    NotText,
    #[error(
        "the filter's pattern is too long (1000 bytes; 64 characters between two % where _ is among them)"
    )]
    Pattern,
    #[error("the filter's value is no value of the column's type")]
    Value,
}

/// What `in` may list. Every change of the table is compared with all of them.
const OPERANDS_MAX: usize = 100;

impl Filter {
    /// Reads `column=operator.value`; `not.` before the operator turns it around.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        let (column, condition) = text.split_once('=').ok_or(FilterError::Format)?;
        let column = unquoted_name(column).ok_or(FilterError::Format)?;
        let (negated, condition) = match condition.strip_prefix("not.") {
            Some(rest) => (true, rest),
            None => (false, condition),
        };
        let (operator, value) = condition.split_once('.').ok_or(FilterError::Format)?;
        let operator = operator_named(operator).ok_or(FilterError::Operator)?;
        Ok(Filter {
            column: column.into(),
            operator,
            negated,
            operands: operands(operator, value)?,
        })
    }

    pub fn column(&self) -> &Arc<str> {
        &self.column
    }

    /// Whether the condition makes sense for a column of the type `oid`.
    pub fn check(&self, oid: u32) -> Result<(), FilterError> {
        let comparison = Comparison::of(oid);
        match self.operator {
            Operator::Is => Ok(()),
            Operator::Like | Operator::Ilike => match comparison {
                Comparison::Text | Comparison::Blank => Ok(()),
                _ => Err(FilterError::NotText),
            },
            Operator::Gt | Operator::Gte | Operator::Lt | Operator::Lte
                if !comparison.has_order() =>
            {
                Err(FilterError::NoOrder)
            }
            _ if self.operands.iter().all(|text| comparison.accepts(text)) => Ok(()),
            _ => Err(FilterError::Value),
        }
    }

    /// Whether the row is selected; `None` if that can't be known, since Postgres did not send
    /// the column's value or the table has no such column (any more).
    pub fn selects(&self, row: &Row) -> Option<bool> {
        let index = row.shape().column(&self.column)?;
        let oid = row.shape().columns.get(index)?.type_oid;
        match row.cell(index) {
            Cell::Missing => None,
            Cell::Null => Some(self.selects_null()),
            Cell::Text(text) => Some(self.selects_value(oid, &String::from_utf8_lossy(text))),
        }
    }

    fn selects_null(&self) -> bool {
        let null = matches!(&*self.operands, [word] if matches!(&**word, "null" | "unknown"));
        let not_null = matches!(&*self.operands, [word] if &**word == "not null");
        match self.operator {
            Operator::Is if not_null => self.negated,
            Operator::Is => null != self.negated,
            // Any other comparison with NULL is NULL, and so is its negation.
            _ => false,
        }
    }

    fn selects_value(&self, oid: u32, value: &str) -> bool {
        let comparison = Comparison::of(oid);
        let order = |operand: &str| comparison.compare(value, operand);
        let first = self.operands.first().map_or("", |operand| &**operand);
        let truth = match self.operator {
            Operator::Eq => order(first).map(Ordering::is_eq),
            Operator::Neq => order(first).map(Ordering::is_ne),
            Operator::Gt => order(first).map(Ordering::is_gt),
            Operator::Gte => order(first).map(Ordering::is_ge),
            Operator::Lt => order(first).map(Ordering::is_lt),
            Operator::Lte => order(first).map(Ordering::is_le),
            Operator::Like => Some(pattern::like(value, first)),
            Operator::Ilike => Some(pattern::like(&value.to_lowercase(), &first.to_lowercase())),
            Operator::Is => Some(is(comparison, value, first)),
            Operator::In => Some(
                self.operands
                    .iter()
                    .any(|one| order(one) == Some(Ordering::Equal)),
            ),
        };
        // A value that does not compare at all selects nothing, whichever way it is asked.
        truth.is_some_and(|truth| truth != self.negated)
    }
}

fn operator_named(name: &str) -> Option<Operator> {
    Some(match name {
        "eq" => Operator::Eq,
        "neq" => Operator::Neq,
        "gt" => Operator::Gt,
        "gte" => Operator::Gte,
        "lt" => Operator::Lt,
        "lte" => Operator::Lte,
        "like" => Operator::Like,
        "ilike" => Operator::Ilike,
        "is" => Operator::Is,
        "in" => Operator::In,
        _ => return None,
    })
}

fn operands(operator: Operator, value: &str) -> Result<Box<[Box<str>]>, FilterError> {
    match operator {
        Operator::In => list(value),
        Operator::Is => {
            let word = value.to_ascii_lowercase();
            let known = ["null", "not null", "true", "false", "unknown"];
            match known.contains(&word.as_str()) {
                true => Ok([word.into_boxed_str()].into()),
                false => Err(FilterError::Is),
            }
        }
        Operator::Like | Operator::Ilike if !pattern::is_short(value) => Err(FilterError::Pattern),
        _ => Ok([value.into()].into()),
    }
}

/// The values of `(1,"two, three",four)`; a backslash takes the next character as it is.
fn list(value: &str) -> Result<Box<[Box<str>]>, FilterError> {
    let inner = value
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    let inner = inner.ok_or(FilterError::List)?;
    let mut values = Vec::new();
    let (mut current, mut quoted) = (String::new(), false);
    let mut chars = inner.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' if quoted => current.extend(chars.next()),
            '"' => quoted = !quoted,
            ',' if !quoted => values.push(std::mem::take(&mut current).into_boxed_str()),
            char => current.push(char),
        }
    }
    values.push(current.into_boxed_str());
    match (quoted, values.len()) {
        (true, _) => Err(FilterError::List),
        (false, count) if count > OPERANDS_MAX => Err(FilterError::TooManyOperands),
        (false, _) => Ok(values.into()),
    }
}

/// `name` or `"any name"`.
fn unquoted_name(text: &str) -> Option<String> {
    let name = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"')?.replace("\"\"", "\""),
        None => text.to_owned(),
    };
    (!name.is_empty() && name.len() <= 63).then_some(name)
}

fn is(comparison: Comparison, value: &str, word: &str) -> bool {
    match word {
        "not null" => true,
        "true" | "false" => {
            comparison == Comparison::Bool
                && comparison.compare(value, word) == Some(Ordering::Equal)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INT: u32 = 23;
    const TEXT: u32 = 25;
    const BOOL: u32 = 16;
    const POINT: u32 = 600;

    #[test]
    fn conditions() {
        for (filter, oid, value, expected) in [
            ("id=eq.1", INT, Some("1"), true),
            ("id=eq.1", INT, Some("10"), false),
            ("id=gt.9", INT, Some("10"), true),
            ("id=lte.9", INT, Some("10"), false),
            ("id=neq.1", INT, None, false),
            ("id=not.eq.1", INT, Some("2"), true),
            ("id=not.eq.1", INT, None, false),
            ("id=in.(1,2)", INT, Some("2"), true),
            ("id=not.in.(1,2)", INT, Some("3"), true),
            ("id=not.in.(1,2)", INT, None, false),
            ("a=in.(\"x,y\",z)", TEXT, Some("x,y"), true),
            ("a=in.(\"q\\\"\",z)", TEXT, Some("q\""), true),
            ("a=eq.", TEXT, Some(""), true),
            ("a=eq.x=y.z", TEXT, Some("x=y.z"), true),
            ("\"My \"\"Col\"=eq.x", TEXT, Some("x"), true),
            ("a=like.h%o", TEXT, Some("hello"), true),
            ("a=like.h*o", TEXT, Some("hello"), true),
            ("a=like.h_o", TEXT, Some("hello"), false),
            ("a=like.%a%b%", TEXT, Some("xxaxxbxx"), true),
            ("a=like.100\\%", TEXT, Some("100%"), true),
            ("a=like.100\\%", TEXT, Some("1000"), false),
            ("a=ilike.HÉL%", TEXT, Some("héllo"), true),
            ("a=is.null", TEXT, None, true),
            ("a=is.null", TEXT, Some("null"), false),
            ("a=not.is.null", TEXT, Some("x"), true),
            ("a=not.is.null", TEXT, None, false),
            ("a=is.not null", TEXT, Some("x"), true),
            ("a=is.true", BOOL, Some("t"), true),
            ("a=is.false", BOOL, None, false),
            ("a=not.is.true", BOOL, None, true),
            ("a=is.unknown", BOOL, None, true),
            ("a=eq.true", BOOL, Some("t"), true),
            ("a=eq.(1,2)", POINT, Some("(1,2)"), true),
        ] {
            let parsed = Filter::parse(filter).expect("a filter");
            assert_eq!(parsed.check(oid), Ok(()), "{filter}");
            let selected = match value {
                Some(value) => parsed.selects_value(oid, value),
                None => parsed.selects_null(),
            };
            assert_eq!(selected, expected, "{filter} on {value:?}");
        }
    }

    #[test]
    fn bad_filters() {
        let many = format!("id=in.({})", "1,".repeat(OPERANDS_MAX));
        let long = format!("a=like.{}", "x".repeat(1001));
        for (filter, expected) in [
            ("", FilterError::Format),
            ("id", FilterError::Format),
            ("=eq.1", FilterError::Format),
            ("id=eq", FilterError::Format),
            ("\"id=eq.1", FilterError::Format),
            ("id=foo.1", FilterError::Operator),
            ("id=not.not.eq.1", FilterError::Operator),
            ("id=in.1,2", FilterError::List),
            ("id=in.(\"1,2)", FilterError::List),
            ("id=is.maybe", FilterError::Is),
            (&many, FilterError::TooManyOperands),
            (&long, FilterError::Pattern),
        ] {
            assert_eq!(Filter::parse(filter), Err(expected), "{filter:.40}");
        }
        for (filter, oid, expected) in [
            ("id=eq.x", INT, FilterError::Value),
            ("id=in.(1,x)", INT, FilterError::Value),
            ("a=gt.(1,2)", POINT, FilterError::NoOrder),
            ("id=like.1%", INT, FilterError::NotText),
        ] {
            let parsed = Filter::parse(filter).expect("a filter");
            assert_eq!(parsed.check(oid), Err(expected), "{filter}");
        }
    }
}
