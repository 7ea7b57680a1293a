//! A subscription's own condition on the rows it wants: `column=operator.value`, and more of them.

mod condition;
mod error;
mod list;
mod parse;
mod predicate;
mod regex;
mod sql;
mod truth;

use std::sync::Arc;

use walcast_change::Row;

use condition::Condition;
pub(crate) use condition::Key;
pub use error::FilterError;

/// In bytes.
const BYTES_MAX: usize = 16 << 10;
/// Comparisons. Every change of the table is compared with all of them.
const CONDITIONS_MAX: usize = 32;
/// Each takes some 100 KiB of memory at worst.
const REGEXES_MAX: usize = 4;
/// Groups within groups.
const DEPTH_MAX: usize = 8;
/// What `in` may list.
const OPERANDS_MAX: usize = 100;

/// A condition. Like a WHERE clause it selects the rows for which it is true: not those for which it
/// is false, nor those for which it is NULL.
///
/// Comparisons are those of Postgres, with text ordered as under collation "C" and patterns matched
/// as under a collation that knows Unicode.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    condition: Condition,
    /// Each once.
    columns: Box<[Arc<str>]>,
}

impl Filter {
    /// Reads `column=operator.value`, several of them with commas between, and groups:
    /// `a=eq.1,or=(b.gt.2,not.and=(c.is.null,d.in.(x,y)))`. `not.` turns what follows it around.
    ///
    /// A text of blanks is [`FilterError::Empty`]: whoever takes that for no filter looks first.
    pub fn parse(text: &str) -> Result<Filter, FilterError> {
        let (condition, columns) = parse::filter(text)?;
        Ok(Filter {
            condition,
            columns: columns.into(),
        })
    }

    /// The columns that it reads, each once.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.columns.iter()
    }

    /// Whether it makes sense for columns of these types (OIDs, in the order of
    /// [`Filter::columns`]). Whatever Postgres would refuse is refused.
    pub fn check(&self, types: &[u32]) -> Result<(), FilterError> {
        self.condition.each(&mut |predicate| {
            let oid = self.type_of(types, &predicate.column);
            predicate.check(oid.ok_or(FilterError::NoColumn)?)
        })
    }

    /// Whether the row is selected; `None` if that can't be known, since Postgres did not send the
    /// value of a column or the table has no such column (any more).
    pub fn selects(&self, row: &Row) -> Option<bool> {
        self.condition.truth(row).selects()
    }

    /// A WHERE clause (without the word) for a table whose columns have these types, as in
    /// [`Filter::check`]. It is true for all rows that the filter selects and may be true for more:
    /// ask [`Filter::selects`] about what it gives. Column names are not qualified.
    pub fn to_sql(&self, types: &[u32]) -> String {
        sql::clause(&self.condition, &|column| {
            self.type_of(types, column).unwrap_or(0)
        })
    }

    /// In every row that may be selected one of these columns has the value beside it, or was not
    /// sent. `None`: nothing of the kind can be said.
    pub(crate) fn keys(&self) -> Option<Vec<Key<'_>>> {
        self.condition.keys()
    }

    fn type_of(&self, types: &[u32], column: &str) -> Option<u32> {
        let at = self.columns.iter().position(|known| **known == *column)?;
        types.get(at).copied()
    }
}

#[cfg(test)]
mod tests;
