//! From the values of a row to the viewers that see it, by lookup.
//!
//! A formula is true for a row only if some of its parts are: where such a part says
//! `column = claim`, only the viewers with that claim have to be looked at. Each of them is then
//! judged by the whole formula.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use walcast_change::Cell;

use crate::formula::{Formula, Value};
use crate::projection::{Group, Prepared};

/// The viewers of one role that watch one table, by what the policies make of their claims.
#[derive(Debug)]
pub(crate) struct Index {
    /// The projection's.
    pub(crate) id: u64,
    pub(crate) prepared: Arc<Prepared>,
    path: Path,
    groups: HashMap<u32, Members>,
    group_of: HashMap<u32, u32>,
    /// Those that only Postgres can judge.
    odd: HashSet<u32>,
    version: u64,
}

static VERSIONS: AtomicU64 = AtomicU64::new(1);

#[derive(Debug)]
struct Members {
    group: Arc<Group>,
    viewers: HashSet<u32>,
}

/// Where to look for the groups that a formula can be true for.
#[derive(Debug)]
enum Path {
    /// Those with this value of the slot.
    Key {
        column: usize,
        slot: usize,
        groups: HashMap<Box<str>, Vec<u32>>,
    },
    /// Those for which a part without columns is true.
    Claims {
        part: Formula,
        groups: HashSet<u32>,
    },
    /// All, if a part that is the same for all viewers is true.
    Row(Formula),
    Either(Vec<Path>),
    All,
}

impl Index {
    pub(crate) fn new(id: u64, prepared: &Arc<Prepared>, varies: &[bool]) -> Index {
        let path = match &prepared.formula {
            Ok(formula) => Path::of(formula, varies),
            Err(_) => Path::All,
        };
        Index {
            id,
            path,
            prepared: prepared.clone(),
            groups: HashMap::new(),
            group_of: HashMap::new(),
            odd: HashSet::new(),
            version: VERSIONS.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Another one whenever a group has come; no two indexes have the same.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// `None`: it has no group.
    pub(crate) fn insert(&mut self, viewer: u32, group: Option<Arc<Group>>) {
        self.remove(viewer);
        let Some(group) = group.filter(|group| group.fits) else {
            self.odd.insert(viewer);
            return;
        };
        self.group_of.insert(viewer, group.id);
        let (path, version) = (&mut self.path, &mut self.version);
        let members = self.groups.entry(group.id).or_insert_with(|| {
            *version = VERSIONS.fetch_add(1, Ordering::Relaxed);
            path.insert(&group);
            Members {
                group,
                viewers: HashSet::new(),
            }
        });
        members.viewers.insert(viewer);
    }

    pub(crate) fn remove(&mut self, viewer: u32) {
        self.odd.remove(&viewer);
        let Some(id) = self.group_of.remove(&viewer) else {
            return;
        };
        let Some(members) = self.groups.get_mut(&id) else {
            return;
        };
        members.viewers.remove(&viewer);
        if members.viewers.is_empty()
            && let Some(members) = self.groups.remove(&id)
        {
            self.path.remove(&members.group);
        }
    }

    /// All that are not odd, with a member of each.
    pub(crate) fn groups(&self) -> (Vec<Arc<Group>>, Option<u32>) {
        let groups = self.groups.values().map(|members| members.group.clone());
        let any = self.groups.values().flat_map(|members| &members.viewers);
        (groups.collect(), any.copied().next())
    }

    pub(crate) fn members(&self, group: u32) -> impl Iterator<Item = u32> {
        let members = self.groups.get(&group);
        members
            .into_iter()
            .flat_map(|members| members.viewers.iter().copied())
    }

    /// The viewers of each group.
    pub(crate) fn each_group(&self) -> impl Iterator<Item = Box<dyn Iterator<Item = u32> + '_>> {
        let groups = self.groups.values();
        groups
            .map(|members| Box::new(members.viewers.iter().copied()) as Box<dyn Iterator<Item = _>>)
    }

    /// The viewer's group; `None`, if it has none.
    pub(crate) fn as_one_with(&self, viewer: u32) -> Option<impl Iterator<Item = u32>> {
        let group = self.group_of.get(&viewer)?;
        Some(self.members(*group))
    }

    /// How many verdicts a row costs.
    pub(crate) fn cost(&self) -> usize {
        match self.prepared.formula.is_ok() || self.prepared.set.is_some() {
            true => 1,
            false => self.groups.len() + self.odd.len(),
        }
    }

    pub(crate) fn odd(&self) -> impl Iterator<Item = u32> {
        self.odd.iter().copied()
    }

    /// The viewers that see the row (by the table's columns); of `among` only (growing), if there is
    /// that.
    pub(crate) fn find(&self, row: &[Cell<'_>], among: Option<&[u32]>) -> Vec<u32> {
        let Ok(formula) = &self.prepared.formula else {
            return Vec::new();
        };
        let any = self.groups.values().next();
        let Some(any) = any.map(|members| &*members.group.values) else {
            return Vec::new();
        };
        let mut candidates = Vec::new();
        if self.path.find(row, any, &mut candidates) {
            candidates = self.groups.keys().copied().collect();
        } else {
            candidates.sort_unstable();
            candidates.dedup();
        }
        let members = candidates.iter().filter_map(|id| self.groups.get(id));
        let sees = |members: &&Members| formula.holds(row, &members.group.values) == Some(true);
        let Some(among) = among else {
            let seeing = members.filter(sees);
            return seeing
                .flat_map(|members| members.viewers.iter().copied())
                .collect();
        };
        let viewers: usize = members.clone().map(|members| members.viewers.len()).sum();
        if viewers < among.len() {
            let seeing = members.filter(sees);
            let viewers = seeing.flat_map(|members| members.viewers.iter().copied());
            return viewers
                .filter(|viewer| among.binary_search(viewer).is_ok())
                .collect();
        }
        let seeing = among.iter().copied().filter(|viewer| {
            let group = self.group_of.get(viewer);
            let members = group.and_then(|id| self.groups.get(id));
            members.is_some_and(|members| sees(&members))
        });
        seeing.collect()
    }
}

impl Path {
    fn of(formula: &Formula, varies: &[bool]) -> Path {
        let mut columns = Vec::new();
        formula.columns(&mut columns);
        let changes = |slot: &usize| varies.get(*slot) == Some(&true);
        if !formula.slots().iter().any(changes) {
            return Path::Row(formula.clone());
        }
        if columns.is_empty() {
            return Path::Claims {
                part: formula.clone(),
                groups: HashSet::new(),
            };
        }
        match formula {
            Formula::Equal(column, slot) | Formula::Any(column, slot) => Path::Key {
                column: *column,
                slot: *slot,
                groups: HashMap::new(),
            },
            Formula::And(parts) => {
                let paths = parts.iter().map(|part| Path::of(part, varies));
                paths.min_by_key(Path::rank).unwrap_or(Path::All)
            }
            Formula::Or(parts) => {
                Path::Either(parts.iter().map(|part| Path::of(part, varies)).collect())
            }
            _ => Path::All,
        }
    }

    /// How many groups it may lead to.
    fn rank(&self) -> u32 {
        match self {
            Path::Key { .. } => 0,
            Path::Claims { .. } => 1,
            Path::Row(_) => 2,
            Path::Either(parts) => parts.iter().map(Path::rank).max().unwrap_or(0),
            Path::All => 3,
        }
    }

    fn insert(&mut self, group: &Group) {
        match self {
            Path::Key { slot, groups, .. } => {
                for value in keys(group, *slot) {
                    let ids = groups.entry(value.into()).or_default();
                    if ids.last() != Some(&group.id) {
                        ids.push(group.id);
                    }
                }
            }
            Path::Claims { part, groups } => {
                if part.holds(&[], &group.values) == Some(true) {
                    groups.insert(group.id);
                }
            }
            Path::Either(parts) => parts.iter_mut().for_each(|part| part.insert(group)),
            Path::Row(_) | Path::All => {}
        }
    }

    fn remove(&mut self, group: &Group) {
        match self {
            Path::Key { slot, groups, .. } => {
                for value in keys(group, *slot) {
                    if let Some(ids) = groups.get_mut(value) {
                        ids.retain(|id| *id != group.id);
                        if ids.is_empty() {
                            groups.remove(value);
                        }
                    }
                }
            }
            Path::Claims { groups, .. } => {
                groups.remove(&group.id);
            }
            Path::Either(parts) => parts.iter_mut().for_each(|part| part.remove(group)),
            Path::Row(_) | Path::All => {}
        }
    }

    /// True: all groups have to be looked at. `any`: the values of any group.
    fn find(&self, row: &[Cell<'_>], any: &[Value], into: &mut Vec<u32>) -> bool {
        match self {
            Path::Key { column, groups, .. } => {
                let text = match row.get(*column) {
                    Some(Cell::Text(text)) => std::str::from_utf8(text).ok(),
                    _ => None,
                };
                if let Some(found) = text.and_then(|text| groups.get(text)) {
                    into.extend(found);
                }
                false
            }
            Path::Claims { groups, .. } => {
                into.extend(groups);
                false
            }
            Path::Row(part) => part.holds(row, any) == Some(true),
            Path::Either(parts) => parts.iter().any(|part| part.find(row, any, into)),
            Path::All => true,
        }
    }
}

/// The values under which a group is found.
fn keys(group: &Group, slot: usize) -> Vec<&str> {
    match group.values.get(slot) {
        Some(Value::Text(text)) => vec![text],
        Some(Value::Array(list)) => list.iter().flatten().map(|value| &**value).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each group is found exactly where the formula is true for it.
    #[test]
    fn lookup_finds_what_the_formula_says() {
        use Formula::{And, Any, Column, Equal, IsNull, Not, Or, Slot};
        let text = |text: &str| Value::Text(text.into());
        let list =
            |items: &[&str]| Value::Array(items.iter().map(|item| Some((*item).into())).collect());
        let names = ["a", "b", "c"];
        let mut groups = Vec::new();
        for name in names {
            for flag in ["t", "f"] {
                for lists in [&["a", "a"][..], &["b", "c"], &[]] {
                    let values = [text(name), text(flag), list(lists), Value::Null, text("a")];
                    groups.push(Arc::new(Group {
                        id: groups.len() as u32,
                        values: values.into(),
                        fits: true,
                    }));
                }
            }
        }
        let all: Vec<u32> = (0..200).collect();
        let not = |formula| Not(Box::new(formula));
        for formula in [
            Equal(0, 0),
            Any(0, 2),
            Or(vec![Equal(0, 0), Any(1, 2)]),
            Or(vec![Equal(0, 0), Slot(1)]),
            Or(vec![Equal(0, 0), Column(2)]),
            And(vec![Equal(0, 0), Slot(1), not(Equal(1, 0))]),
            And(vec![Column(2), Slot(1)]),
            Or(vec![Equal(0, 3), Equal(0, 4)]),
            not(Equal(0, 0)),
            Or(vec![IsNull(1), And(vec![Equal(1, 0), Equal(0, 0)])]),
        ] {
            let prepared = Arc::new(Prepared {
                types: Vec::new(),
                formula: Ok(formula.clone()),
                set: None,
            });
            let mut index = Index::new(1, &prepared, &[true, true, true, true, false]);
            for group in &groups {
                index.insert(group.id, Some(group.clone()));
                index.insert(group.id + 100, Some(group.clone()));
            }
            index.insert(99, None);
            for gone in [5, 6, 106, 99] {
                index.remove(gone);
            }
            for first in [Cell::Null, Cell::Text(b"a"), Cell::Text(b"c")] {
                for second in [Cell::Null, Cell::Text(b"b")] {
                    for third in [Cell::Text(b"t"), Cell::Text(b"f")] {
                        let row = [first, second, third];
                        let mut found = index.find(&row, None);
                        found.sort_unstable();
                        let seeing = groups
                            .iter()
                            .filter(|group| formula.holds(&row, &group.values) == Some(true));
                        let mut expected: Vec<u32> = seeing
                            .flat_map(|group| [group.id, group.id + 100])
                            .filter(|viewer| ![5, 6, 106].contains(viewer))
                            .collect();
                        expected.sort_unstable();
                        assert_eq!(found, expected, "{formula:?} {row:?}");
                        for among in [&[][..], &[3], &[0, 5, 101, 106, 500], &all] {
                            let mut found = index.find(&row, Some(among));
                            found.sort_unstable();
                            let expected = expected.iter().filter(|one| among.contains(one));
                            let expected: Vec<u32> = expected.copied().collect();
                            assert_eq!(found, expected, "{formula:?} {row:?} {among:?}");
                        }
                    }
                }
            }
            for viewer in 0..200 {
                index.remove(viewer);
            }
            assert!(index.groups.is_empty() && index.group_of.is_empty());
        }
    }
}
