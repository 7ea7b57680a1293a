//! Who is there: keyed metas that can be merged with those of other nodes.
//!
//! A set that forgets nothing it should know (an "optimised OR-set without tombstones", Bieniusa et
//! al. 2012, as in Phoenix.Tracker): every meta has a [`Dot`] that is never used again, and a roster
//! remembers per node the highest counter it has heard of. What one side has and the other has not
//! is new if the other has not heard of its dot, and gone otherwise. A change of a meta is the end of
//! one dot and the beginning of another. So merging is commutative, associative and idempotent,
//! provided that a node's counters grow and that a meta never changes under its dot.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// When and where a meta began: unique for ever, and its reference on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dot {
    /// The process that the client is connected to.
    pub node: u64,
    /// Grows with everything that begins on that node.
    pub counter: u64,
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}.{:x}", self.node, self.counter)
    }
}

/// What one connection says of itself under its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub dot: Dot,
    /// The dot of what it said before, if this is an update.
    pub previous: Option<Dot>,
    /// A JSON object, as the client wrote it.
    pub payload: Bytes,
}

/// Everybody who is present in a topic, by key; several connections may share a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roster {
    keys: HashMap<Arc<str>, Vec<Meta>>,
    /// Per node, up to which counter its dots are known, whether present or gone.
    heard: HashMap<u64, u64>,
    metas: usize,
    bytes: usize,
}

/// What became different, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    pub keys: Vec<KeyDiff>,
}

/// What became different under one key. An update is in both lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDiff {
    pub key: Arc<str>,
    pub joins: Vec<Meta>,
    pub leaves: Vec<Meta>,
    /// How many metas the key had before, and has now.
    pub before: usize,
    pub after: usize,
}

impl KeyDiff {
    pub(crate) fn new(key: Arc<str>, before: usize) -> KeyDiff {
        KeyDiff {
            key,
            joins: Vec::new(),
            leaves: Vec::new(),
            before,
            after: before,
        }
    }

    /// Nobody was there under this key before.
    pub fn is_arrival(&self) -> bool {
        self.before == 0 && self.after > 0
    }

    /// Nobody is there under this key any more.
    pub fn is_departure(&self) -> bool {
        self.before > 0 && self.after == 0
    }
}

impl Diff {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys with metas that began, for dialects that tell these first or apart.
    pub fn joins(&self) -> impl Iterator<Item = (&str, &[Meta])> {
        let keys = self.keys.iter().filter(|key| !key.joins.is_empty());
        keys.map(|key| (&*key.key, &*key.joins))
    }

    /// The keys with metas that ended.
    pub fn leaves(&self) -> impl Iterator<Item = (&str, &[Meta])> {
        let keys = self.keys.iter().filter(|key| !key.leaves.is_empty());
        keys.map(|key| (&*key.key, &*key.leaves))
    }
}

impl Roster {
    /// Keys and their metas, these in the order of their dots; the keys in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[Meta])> {
        self.keys.iter().map(|(key, metas)| (&**key, &**metas))
    }

    /// The metas of one key, in the order of their dots: those of one node oldest first.
    pub fn get(&self, key: &str) -> &[Meta] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }

    /// The number of metas.
    pub fn len(&self) -> usize {
        self.metas
    }

    pub fn is_empty(&self) -> bool {
        self.metas == 0
    }

    /// The number of keys.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// What keys and payloads take, each meta with its key, as it stands in a full state.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds a meta under a dot that is new: greater than every other of its node.
    pub fn insert(&mut self, key: &Arc<str>, meta: Meta) {
        let heard = self.heard.entry(meta.dot.node).or_default();
        *heard = meta.dot.counter.max(*heard);
        self.metas += 1;
        self.bytes += key.len() + meta.payload.len();
        let metas = self.keys.entry(key.clone()).or_default();
        let at = metas.partition_point(|other| other.dot < meta.dot);
        metas.insert(at, meta);
    }

    /// Takes a meta out. Its dot stays known, so no merge brings it back.
    pub fn remove(&mut self, key: &str, dot: Dot) -> Option<Meta> {
        let metas = self.keys.get_mut(key)?;
        let at = metas.binary_search_by_key(&dot, |meta| meta.dot).ok()?;
        let meta = metas.remove(at);
        if metas.is_empty() {
            self.keys.remove(key);
        }
        self.metas -= 1;
        self.bytes -= key.len() + meta.payload.len();
        Some(meta)
    }

    /// Takes in what another node knows; the answer is what that changed here.
    pub fn merge(&mut self, other: &Roster) -> Diff {
        let gone = self.not_in(other, |dot| other.has_heard(dot));
        let new = other.not_in(self, |dot| !self.has_heard(dot));
        let mut changes: HashMap<Arc<str>, KeyDiff> = HashMap::new();
        for (key, meta) in gone {
            self.change(&mut changes, &key).leaves.push(meta.clone());
            self.remove(&key, meta.dot);
        }
        for (key, meta) in new {
            self.change(&mut changes, &key).joins.push(meta.clone());
            self.insert(&key, meta);
        }
        for (&node, &counter) in &other.heard {
            let heard = self.heard.entry(node).or_default();
            *heard = counter.max(*heard);
        }
        let mut keys: Vec<KeyDiff> = changes.into_values().collect();
        for change in &mut keys {
            change.after = self.get(&change.key).len();
        }
        Diff { keys }
    }

    fn change<'a>(
        &self,
        changes: &'a mut HashMap<Arc<str>, KeyDiff>,
        key: &Arc<str>,
    ) -> &'a mut KeyDiff {
        let before = self.get(key).len();
        let entry = changes.entry(key.clone());
        entry.or_insert_with(|| KeyDiff::new(key.clone(), before))
    }

    fn has_heard(&self, dot: Dot) -> bool {
        self.heard
            .get(&dot.node)
            .is_some_and(|heard| *heard >= dot.counter)
    }

    /// The metas here, of those dots, that `other` has not.
    fn not_in(&self, other: &Roster, among: impl Fn(Dot) -> bool) -> Vec<(Arc<str>, Meta)> {
        let mut missing = Vec::new();
        for (key, metas) in &self.keys {
            let theirs = other.get(key);
            for meta in metas.iter().filter(|meta| among(meta.dot)) {
                let held = theirs.binary_search_by_key(&meta.dot, |their| their.dot);
                if held.is_err() {
                    missing.push((key.clone(), meta.clone()));
                }
            }
        }
        missing
    }
}

#[cfg(test)]
mod tests;
