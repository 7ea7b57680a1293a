//! Why a text is no filter.

use super::{BYTES_MAX, CONDITIONS_MAX, DEPTH_MAX, OPERANDS_MAX, REGEXES_MAX};

/// Why a text is no filter, or none for its columns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    #[error("filter must not contain empty segments (check for extra commas)")]
    Empty,
    #[error("invalid filter format (expected column=operator.value, as in id=eq.1)")]
    Format {
        /// The pieces that were found.
        parts: Box<[Box<str>]>,
    },
    #[error(
        "unknown filter operator (use eq, neq, gt, gte, lt, lte, in, is, like, ilike, match, imatch or isdistinct)"
    )]
    Operator {
        /// The operator and its value.
        parts: Box<[Box<str>]>,
    },
    #[error("the filter's operator `is` takes null, not null, true, false or unknown")]
    Is,
    #[error("`in` filter value must be wrapped by parentheses")]
    List,
    #[error(
        "the filter's list is no array of Postgres (quote items that hold , \" \\ {{ }} or are empty)"
    )]
    Items,
    #[error("the filter has more than {OPERANDS_MAX} values in a list")]
    TooManyOperands,
    #[error("the filter has more than {CONDITIONS_MAX} conditions")]
    TooManyConditions,
    #[error("the filter has more than {REGEXES_MAX} regular expressions")]
    TooManyRegexes,
    #[error("the filter is nested deeper than {DEPTH_MAX} levels")]
    TooDeep,
    #[error("the filter is longer than {BYTES_MAX} bytes")]
    TooLong,
    #[error("the filter's column does not exist")]
    NoColumn,
    #[error("values of the filter's column can't be compared; use `is`")]
    NotComparable,
    #[error(
        "the filter's column has a type without an order in filters; use eq, neq, in, is or isdistinct"
    )]
    NoOrder,
    #[error("like, ilike, match and imatch filter text columns only")]
    NotText,
    #[error("is true, is false and is unknown filter boolean columns only")]
    NotBool,
    #[error(
        "the filter's pattern is too long (1000 bytes; 64 characters between two % where _ is among them)"
    )]
    Pattern,
    #[error("the filter's pattern must not end with a backslash")]
    Escape,
    #[error("the filter's regular expression is not supported: {0}")]
    Regex(&'static str),
    #[error("the filter's value is no value of the column's type")]
    Value,
}

impl FilterError {
    /// What was found instead of a condition, for dialects that tell it.
    pub fn parts(&self) -> &[Box<str>] {
        match self {
            FilterError::Format { parts } | FilterError::Operator { parts } => parts,
            _ => &[],
        }
    }

    pub(super) fn format(parts: &[&str]) -> FilterError {
        FilterError::Format {
            parts: parts.iter().map(|part| (*part).into()).collect(),
        }
    }
}
