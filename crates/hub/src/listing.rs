//! The groups that want a table, so that a row finds those whose filter may select it by lookup.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use walcast_change::{Cell, Row};

use crate::Filter;
use crate::value::{key, keys};

/// Groups of subscriptions, by what their filters compare for equality. Bounded by the groups, times
/// the values that a filter may list.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    all: HashSet<u32>,
    /// Those that have to be looked at for every row.
    rest: HashSet<u32>,
    columns: HashMap<Arc<str>, Column>,
}

/// Groups whose filter selects a row only where this column has one of certain values.
#[derive(Debug, Default)]
struct Column {
    groups: HashSet<u32>,
    values: HashMap<Box<str>, BTreeSet<u32>>,
}

impl Listing {
    pub(crate) fn insert(&mut self, group: u32, filter: Option<&Filter>) {
        self.all.insert(group);
        let Some(found) = filter.and_then(Filter::keys) else {
            self.rest.insert(group);
            return;
        };
        for (name, value) in found {
            let column = self.columns.entry(name.clone()).or_default();
            column.groups.insert(group);
            for key in keys(value) {
                column.values.entry(key).or_default().insert(group);
            }
        }
    }

    /// `filter`: the one that it was inserted with.
    pub(crate) fn remove(&mut self, group: u32, filter: Option<&Filter>) {
        self.all.remove(&group);
        self.rest.remove(&group);
        for (name, value) in filter.and_then(Filter::keys).into_iter().flatten() {
            let Some(column) = self.columns.get_mut(name) else {
                continue;
            };
            column.groups.remove(&group);
            for key in keys(value) {
                if let Some(groups) = column.values.get_mut(&key) {
                    groups.remove(&group);
                    if groups.is_empty() {
                        column.values.remove(&key);
                    }
                }
            }
            if column.groups.is_empty() {
                self.columns.remove(name);
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn groups(&self) -> &HashSet<u32> {
        &self.all
    }

    /// How many groups a row can do without looking at, at best.
    pub(crate) fn avoidable(&self) -> usize {
        self.all.len() - self.rest.len()
    }

    /// Those whose filter may select the row, or for which that is not known; some of them more
    /// than once.
    pub(crate) fn candidates<'a>(&'a self, row: &'a Row) -> impl Iterator<Item = u32> + 'a {
        let found = self.columns.iter().flat_map(|(name, column)| {
            let (all, these) = match column.find(name, row) {
                Found::All => (Some(&column.groups), None),
                Found::These(groups) => (None, groups),
            };
            let all = all.into_iter().flatten();
            all.chain(these.into_iter().flatten())
        });
        self.rest.iter().chain(found).copied()
    }
}

enum Found<'a> {
    All,
    These(Option<&'a BTreeSet<u32>>),
}

impl Column {
    fn find(&self, name: &str, row: &Row) -> Found<'_> {
        let shape = row.shape();
        let Some((at, column)) = shape
            .column(name)
            .and_then(|at| shape.columns.get(at).map(|column| (at, column)))
        else {
            return Found::All;
        };
        match row.cell(at) {
            Cell::Missing => Found::All,
            Cell::Null => Found::These(None),
            Cell::Text(text) => {
                let text = std::str::from_utf8(text).ok();
                match text.and_then(|text| key(column.type_oid, text)) {
                    Some(key) => Found::These(self.values.get(key)),
                    None => Found::All,
                }
            }
        }
    }
}
