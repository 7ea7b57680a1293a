//! Who watches which table, so that nobody has to be named again for every change.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use walcast_change::Shape;

use crate::index::Index;
use crate::rules::Rules;
use crate::{Question, Sighting, Verdict, Viewer};

/// The watching viewers. Bounded by who calls [`Roster::watch`]: one entry for each call.
#[derive(Debug, Default)]
pub(crate) struct Roster {
    viewers: HashMap<u32, (Viewer, usize)>,
    schemas: HashMap<Arc<str>, Schema>,
    /// By table and role.
    indexes: HashMap<(u32, Arc<str>), Entry>,
    /// By table, the most viewers that one of its last changes was shown to.
    busiest: HashMap<u32, usize>,
    /// Who has begun to watch a table, first come first. What is left out is done when it is needed.
    unprepared: VecDeque<(u32, Arc<str>, Arc<str>)>,
}

/// Some who watch a table, and whose claims have not been looked at.
#[derive(Debug)]
pub(crate) struct Portion {
    pub(crate) schema: Arc<str>,
    pub(crate) table: Arc<str>,
    /// By role.
    pub(crate) viewers: HashMap<Arc<str>, Vec<Viewer>>,
}

#[derive(Debug, Default)]
struct Schema {
    all: Members,
    tables: HashMap<Arc<str>, Members>,
}

/// By role, the viewers, each with how often it watches.
type Members = HashMap<Arc<str>, HashMap<u32, usize>>;

#[derive(Debug)]
struct Entry {
    schema: Arc<str>,
    table: Arc<str>,
    index: Index,
    /// Watching, and not in the index yet.
    pending: HashSet<u32>,
}

/// Indexes kept. More, and all are made anew.
const INDEXES_MAX: usize = 10_000;
const UNPREPARED_MAX: usize = 100_000;

impl Roster {
    pub(crate) fn watch(
        &mut self,
        number: u32,
        viewer: &Viewer,
        schema: &str,
        table: Option<&str>,
    ) {
        let (_, uses) = self
            .viewers
            .entry(number)
            .or_insert_with(|| (viewer.clone(), 0));
        *uses += 1;
        if let Some(table) = table
            && self.unprepared.len() < UNPREPARED_MAX
        {
            let (schema, table) = match self.unprepared.back() {
                Some((_, s, t)) if **s == *schema && **t == *table => (s.clone(), t.clone()),
                _ => (schema.into(), table.into()),
            };
            self.unprepared.push_back((number, schema, table));
        }
        let members = self.members_mut(schema, table);
        let members = members.entry(viewer.role.clone()).or_default();
        *members.entry(number).or_default() += 1;
        for ((_, role), entry) in &mut self.indexes {
            if *role == viewer.role && entry.is_of(schema, table) {
                entry.pending.insert(number);
            }
        }
    }

    pub(crate) fn unwatch(&mut self, number: u32, schema: &str, table: Option<&str>) {
        let Some(role) = self.viewer(number).map(|viewer| viewer.role.clone()) else {
            return;
        };
        let members = self.members_mut(schema, table);
        let watching = members
            .get(&role)
            .is_some_and(|members| members.contains_key(&number));
        if !watching {
            return self.forget_empty(schema, table);
        }
        let Some((_, uses)) = self.viewers.get_mut(&number) else {
            return;
        };
        *uses -= 1;
        if *uses == 0 {
            self.viewers.remove(&number);
        }
        let members = self.members_mut(schema, table);
        if let Some(found) = members.get_mut(&role) {
            if let Some(uses) = found.get_mut(&number) {
                *uses -= 1;
                if *uses == 0 {
                    found.remove(&number);
                }
            }
            if found.is_empty() {
                members.remove(&role);
            }
        }
        self.forget_empty(schema, table);
        let schemas = &self.schemas;
        for ((_, of), entry) in &mut self.indexes {
            if *of == role
                && entry.is_of(schema, table)
                && !is_member(schemas, &entry.schema, &entry.table, &role, number)
            {
                entry.pending.remove(&number);
                entry.index.remove(number);
            }
        }
    }

    /// Some of those who have begun to watch a table, each given out once. `None`: there are none.
    pub(crate) fn unprepared(&mut self, max: usize) -> Option<Portion> {
        let (_, schema, table) = self.unprepared.front()?.clone();
        let mut viewers: HashMap<Arc<str>, Vec<Viewer>> = HashMap::new();
        for _ in 0..max {
            let next = self.unprepared.front();
            if !next.is_some_and(|(_, s, t)| *s == schema && *t == table) {
                break;
            }
            let number = self.unprepared.pop_front().map(|(number, ..)| number);
            if let Some(viewer) = number.and_then(|number| self.viewer(number)) {
                let viewer = viewer.clone();
                viewers.entry(viewer.role.clone()).or_default().push(viewer);
            }
        }
        Some(Portion {
            schema,
            table,
            viewers,
        })
    }

    /// All who watch, at each table's first question: nobody knows what they would have seen.
    pub(crate) fn everybody(&self, questions: &[Question]) -> Vec<Vec<Sighting>> {
        let mut told = HashSet::new();
        let sightings = questions.iter().map(|question| {
            let shape = question.row.shape();
            if !told.insert(shape.id.0) {
                return Vec::new();
            }
            let all = self.lists(shape).flat_map(HashMap::values);
            let all: HashSet<u32> = all.flat_map(|members| members.keys().copied()).collect();
            let sighting = |viewer| Sighting {
                viewer,
                verdict: Verdict::Unjudged,
            };
            all.into_iter().map(sighting).collect()
        });
        sightings.collect()
    }

    pub(crate) fn viewer(&self, number: u32) -> Option<&Viewer> {
        self.viewers.get(&number).map(|(viewer, _)| viewer)
    }

    /// The roles of those who watch a table.
    pub(crate) fn roles(&self, shape: &Shape) -> HashSet<Arc<str>> {
        self.lists(shape)
            .flat_map(|members| members.keys().cloned())
            .collect()
    }

    /// Those of a role who watch a table.
    pub(crate) fn members(&self, shape: &Shape, role: &str) -> HashSet<u32> {
        self.lists(shape)
            .filter_map(|members| members.get(role))
            .flat_map(|members| members.keys().copied())
            .collect()
    }

    /// Those of a role who watch the table of a question, and are to have an answer.
    pub(crate) fn concerned(&self, question: &crate::Question, role: &str) -> Vec<u32> {
        let shape = question.row.shape();
        let Some(among) = &question.among else {
            return self.members(shape, role).into_iter().collect();
        };
        let lists = self.lists(shape).filter_map(|members| members.get(role));
        let lists: Vec<_> = lists.collect();
        let watches = |viewer: &u32| lists.iter().any(|members| members.contains_key(viewer));
        among.iter().copied().filter(watches).collect()
    }

    /// What a change of the table was shown to at most, of those judged together.
    pub(crate) fn note(&mut self, relation: u32, viewers: usize) {
        if self.busiest.len() >= INDEXES_MAX {
            self.busiest.clear();
        }
        self.busiest.insert(relation, viewers);
    }

    /// About how many viewers a change of the table costs something: all of a role that has no
    /// index, one of each group where a statement is needed for each, else as many as lately.
    pub(crate) fn cost(&self, shape: &Shape) -> usize {
        let roles = self
            .lists(shape)
            .flat_map(|members| members.iter())
            .map(
                |(role, members)| match self.indexes.get(&(shape.id.0, role.clone())) {
                    Some(entry) => entry.index.cost(),
                    None => members.len(),
                },
            );
        let judged: usize = roles.sum();
        judged.max(self.busiest.get(&shape.id.0).copied().unwrap_or(0))
    }

    /// Viewers that are to be put into an index. Empty where there is none and can't be any.
    pub(crate) fn pending(&mut self, shape: &Shape, rules: &Rules) -> Vec<Viewer> {
        let Ok(projection) = &rules.projection else {
            self.indexes.remove(&(rules.relation, rules.role.clone()));
            return Vec::new();
        };
        let key = (rules.relation, rules.role.clone());
        let entry = self.indexes.get(&key).filter(|entry| {
            entry.index.id == projection.id
                && *entry.schema == *shape.schema
                && *entry.table == *shape.table
        });
        let viewer = |number: &u32| self.viewer(*number).cloned();
        match entry {
            Some(entry) => entry.pending.iter().filter_map(viewer).collect(),
            None => {
                let pending = self.members(shape, &rules.role);
                let viewers = pending.iter().filter_map(viewer).collect();
                self.indexes.remove(&key);
                viewers
            }
        }
    }

    /// The index of a table and role, with all who watch. `None`: nobody is as one with another.
    pub(crate) fn index(&mut self, shape: &Shape, rules: &Rules) -> Option<&Index> {
        let projection = rules.projection.as_ref().ok()?;
        let key = (rules.relation, rules.role.clone());
        if !self.indexes.contains_key(&key) {
            let prepared = projection.prepared()?;
            let varies: Vec<bool> = projection
                .outline
                .slots
                .iter()
                .map(|slot| slot.varies)
                .collect();
            let index = Index::new(projection.id, &prepared, &varies);
            let pending = self.members(shape, &rules.role);
            if self.indexes.len() >= INDEXES_MAX {
                self.indexes.clear();
            }
            let entry = Entry {
                schema: shape.schema.clone(),
                table: shape.table.clone(),
                index,
                pending,
            };
            self.indexes.insert(key.clone(), entry);
        }
        let viewers = &self.viewers;
        let entry = self.indexes.get_mut(&key)?;
        for number in std::mem::take(&mut entry.pending) {
            let Some((viewer, _)) = viewers.get(&number) else {
                continue;
            };
            let group = projection.group(&viewer.claims);
            if group.is_none() {
                entry.pending.insert(number); // not computed this time: by Postgres, as yet
            }
            entry.index.insert(number, group.flatten());
        }
        Some(&entry.index)
    }

    fn lists(&self, shape: &Shape) -> impl Iterator<Item = &Members> {
        let schema = self.schemas.get(&*shape.schema);
        let table = schema.and_then(|schema| schema.tables.get(&*shape.table));
        schema.map(|schema| &schema.all).into_iter().chain(table)
    }

    fn members_mut(&mut self, schema: &str, table: Option<&str>) -> &mut Members {
        let schema = self.schemas.entry(schema.into()).or_default();
        match table {
            None => &mut schema.all,
            Some(table) => schema.tables.entry(table.into()).or_default(),
        }
    }

    fn forget_empty(&mut self, name: &str, table: Option<&str>) {
        let Some(schema) = self.schemas.get_mut(name) else {
            return;
        };
        if let Some(table) = table
            && schema.tables.get(table).is_some_and(HashMap::is_empty)
        {
            schema.tables.remove(table);
        }
        if schema.all.is_empty() && schema.tables.is_empty() {
            self.schemas.remove(name);
        }
    }
}

fn is_member(
    schemas: &HashMap<Arc<str>, Schema>,
    schema: &str,
    table: &str,
    role: &str,
    number: u32,
) -> bool {
    let Some(schema) = schemas.get(schema) else {
        return false;
    };
    let lists = [Some(&schema.all), schema.tables.get(table)];
    lists.into_iter().flatten().any(|members| {
        members
            .get(role)
            .is_some_and(|members| members.contains_key(&number))
    })
}

impl Entry {
    fn is_of(&self, schema: &str, table: Option<&str>) -> bool {
        *self.schema == *schema && table.is_none_or(|table| *self.table == *table)
    }
}
