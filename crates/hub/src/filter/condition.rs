//! Comparisons joined by AND, OR and NOT.

use std::sync::Arc;

use walcast_change::Row;

use super::FilterError;
use super::predicate::{Operator, Predicate};
use super::truth::Truth;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    All(Box<[Condition]>),
    Any(Box<[Condition]>),
    Not(Box<Condition>),
    One(Predicate),
}

/// A column, and one of the values that it has in every row which may be selected.
pub(crate) type Key<'f> = (&'f Arc<str>, &'f str);

impl Condition {
    pub(super) fn truth(&self, row: &Row) -> Truth {
        match self {
            Condition::All(parts) => {
                let mut truth = Truth::TRUE;
                for part in parts {
                    truth = truth.and(part.truth(row));
                    if truth == Truth::FALSE {
                        break;
                    }
                }
                truth
            }
            Condition::Any(parts) => {
                let mut truth = Truth::FALSE;
                for part in parts {
                    truth = truth.or(part.truth(row));
                    if truth == Truth::TRUE {
                        break;
                    }
                }
                truth
            }
            Condition::Not(part) => !part.truth(row),
            Condition::One(predicate) => predicate.truth(row),
        }
    }

    /// Calls `with` for each comparison, until one fails.
    pub(super) fn each<'c>(
        &'c self,
        with: &mut dyn FnMut(&'c Predicate) -> Result<(), FilterError>,
    ) -> Result<(), FilterError> {
        match self {
            Condition::All(parts) | Condition::Any(parts) => {
                parts.iter().try_for_each(|part| part.each(with))
            }
            Condition::Not(part) => part.each(with),
            Condition::One(predicate) => with(predicate),
        }
    }

    /// If it is true, one of these holds. `None`: nothing of the kind can be said.
    pub(super) fn keys(&self) -> Option<Vec<Key<'_>>> {
        match self {
            Condition::All(parts) => {
                let keys = parts.iter().filter_map(Condition::keys);
                keys.min_by_key(Vec::len)
            }
            Condition::Any(parts) => {
                let keys: Option<Vec<_>> = parts.iter().map(Condition::keys).collect();
                keys.map(|keys| keys.concat())
            }
            Condition::Not(_) => None,
            Condition::One(predicate) => match predicate.operator {
                Operator::Eq | Operator::In => {
                    let values = predicate.operands.iter().flatten();
                    Some(values.map(|value| (&predicate.column, &**value)).collect())
                }
                _ => None,
            },
        }
    }
}
