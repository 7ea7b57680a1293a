//! One comparison of a column with values.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use walcast_change::{Cell, Row};

use super::regex::Posix;
use super::truth::Truth;
use super::{FilterError, list};
use crate::pattern::{self, Like};
use crate::value::Comparison;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operator {
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
    Match,
    Imatch,
    IsDistinct,
}

/// `column operator operands`
#[derive(Clone, Debug)]
pub(super) struct Predicate {
    pub(super) column: Arc<str>,
    pub(super) operator: Operator,
    /// One, but for `in`, where `None` is NULL.
    pub(super) operands: Box<[Option<Box<str>>]>,
    pub(super) pattern: Pattern,
}

/// What was made of the operand of a pattern's operator.
#[derive(Clone, Debug)]
pub(super) enum Pattern {
    None,
    Like(Like),
    Regex(Posix),
}

impl Operator {
    pub(super) fn named(name: &str) -> Option<Operator> {
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
            "match" => Operator::Match,
            "imatch" => Operator::Imatch,
            "isdistinct" => Operator::IsDistinct,
            _ => return None,
        })
    }
}

impl Predicate {
    /// `value`: as it was written, without quotes around it.
    pub(super) fn new(
        column: Arc<str>,
        operator: Operator,
        value: &str,
    ) -> Result<Predicate, FilterError> {
        let operands = match operator {
            Operator::In => list::items(value)?,
            Operator::Is => {
                let word = value.to_ascii_lowercase();
                let known = ["null", "not null", "true", "false", "unknown"];
                if !known.contains(&word.as_str()) {
                    return Err(FilterError::Is);
                }
                [Some(word.into())].into()
            }
            _ => [Some(value.into())].into(),
        };
        let pattern = match operator {
            Operator::Like => like(value)?,
            Operator::Ilike => like(&pattern::lower(value))?,
            Operator::Match => Pattern::Regex(Posix::new(value, false)?),
            Operator::Imatch => Pattern::Regex(Posix::new(value, true)?),
            _ => Pattern::None,
        };
        Ok(Predicate {
            column,
            operator,
            operands,
            pattern,
        })
    }

    pub(super) fn is_regex(&self) -> bool {
        matches!(self.pattern, Pattern::Regex(_))
    }

    /// Whether it makes sense for a column of the type `oid`.
    pub(super) fn check(&self, oid: u32) -> Result<(), FilterError> {
        let comparison = Comparison::of(oid);
        let mut operands = self.operands.iter().flatten();
        match self.operator {
            Operator::Is => match self.operand() {
                "null" | "not null" => Ok(()),
                _ if comparison == Comparison::Bool => Ok(()),
                _ => Err(FilterError::NotBool),
            },
            Operator::Like | Operator::Ilike | Operator::Match | Operator::Imatch => {
                match comparison.is_text() {
                    true => Ok(()),
                    false => Err(FilterError::NotText),
                }
            }
            _ if comparison == Comparison::Not => Err(FilterError::NotComparable),
            Operator::Gt | Operator::Gte | Operator::Lt | Operator::Lte
                if !comparison.has_order() =>
            {
                Err(FilterError::NoOrder)
            }
            _ if operands.all(|text| comparison.accepts(text)) => Ok(()),
            _ => Err(FilterError::Value),
        }
    }

    /// What it is for a row. A column that the table has not (any more) is as good as not sent, a
    /// value that does not compare as good as NULL.
    pub(super) fn truth(&self, row: &Row) -> Truth {
        let Some(index) = row.shape().column(&self.column) else {
            return Truth::ANY;
        };
        let oid = row
            .shape()
            .columns
            .get(index)
            .map_or(0, |column| column.type_oid);
        match row.cell(index) {
            Cell::Missing => match self.operator {
                Operator::Is | Operator::IsDistinct => Truth::TRUE_OR_FALSE,
                Operator::In if self.operands.is_empty() => Truth::FALSE,
                _ => Truth::ANY,
            },
            Cell::Null => self.truth_of_null(),
            Cell::Text(text) => self.truth_of(oid, &String::from_utf8_lossy(text)),
        }
    }

    pub(super) fn truth_of_null(&self) -> Truth {
        match self.operator {
            Operator::Is => Some(matches!(self.operand(), "null" | "unknown")).into(),
            Operator::IsDistinct => Truth::TRUE,
            Operator::In if self.operands.is_empty() => Truth::FALSE,
            _ => Truth::NULL,
        }
    }

    pub(super) fn truth_of(&self, oid: u32, value: &str) -> Truth {
        let comparison = Comparison::of(oid);
        let operand = self.operand();
        let is = |test: fn(Ordering) -> bool| comparison.compare(value, operand).map(test);
        let truth = match self.operator {
            Operator::Eq => is(Ordering::is_eq),
            Operator::Neq | Operator::IsDistinct => is(Ordering::is_ne),
            Operator::Gt => is(Ordering::is_gt),
            Operator::Gte => is(Ordering::is_ge),
            Operator::Lt => is(Ordering::is_lt),
            Operator::Lte => is(Ordering::is_le),
            Operator::In => return self.is_among(comparison, value),
            Operator::Is => Some(match operand {
                "not null" => true,
                "true" | "false" => is(Ordering::is_eq) == Some(true),
                _ => false,
            }),
            Operator::Like | Operator::Ilike | Operator::Match | Operator::Imatch => {
                match &self.pattern {
                    Pattern::Like(like) if self.operator == Operator::Ilike => {
                        Some(like.matches(&pattern::lower(value)))
                    }
                    Pattern::Like(like) => Some(like.matches(value)),
                    Pattern::Regex(regex) => Some(regex.matches(value)),
                    Pattern::None => None,
                }
            }
        };
        truth.into()
    }

    fn is_among(&self, comparison: Comparison, value: &str) -> Truth {
        let mut truth = Truth::FALSE;
        for operand in &self.operands {
            let order = operand
                .as_deref()
                .and_then(|one| comparison.compare(value, one));
            truth = truth.or(order.map(Ordering::is_eq).into());
            if truth == Truth::TRUE {
                break;
            }
        }
        truth
    }

    pub(super) fn operand(&self) -> &str {
        let first = self.operands.first().and_then(Option::as_deref);
        first.unwrap_or_default()
    }
}

fn like(value: &str) -> Result<Pattern, FilterError> {
    if pattern::ends_in_escape(value) {
        return Err(FilterError::Escape);
    }
    Like::new(value)
        .map(Pattern::Like)
        .ok_or(FilterError::Pattern)
}

impl PartialEq for Predicate {
    fn eq(&self, other: &Predicate) -> bool {
        let of = |one: &Predicate| (one.column.clone(), one.operator);
        of(self) == of(other) && self.operands == other.operands
    }
}

impl Eq for Predicate {}

impl Hash for Predicate {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.column.hash(state);
        self.operator.hash(state);
        self.operands.hash(state);
    }
}
