use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jsonwebtoken::Algorithm;

use crate::key::{Key, KeyId};

/// Every key that is accepted at one moment. Never changed: a new set takes its place.
pub(crate) struct KeySet {
    keys: Vec<Arc<Key>>,
    by_kid: HashMap<String, Vec<usize>>,
    ids: HashSet<KeyId>,
    /// Grows with every set; what was cached under another number is not valid.
    pub(crate) generation: u64,
    /// False until a configured JWKS has been read for the first time.
    pub(crate) is_complete: bool,
}

impl KeySet {
    pub(crate) fn new(keys: Vec<Arc<Key>>, generation: u64, is_complete: bool) -> Self {
        let mut by_kid: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, key) in keys.iter().enumerate() {
            if let Some(kid) = &key.kid {
                by_kid.entry(kid.clone()).or_default().push(index);
            }
        }
        let ids = keys.iter().map(|key| key.id).collect();
        Self {
            keys,
            by_kid,
            ids,
            generation,
            is_complete,
        }
    }

    pub(crate) fn contains(&self, id: &KeyId) -> bool {
        self.ids.contains(id)
    }

    /// The keys a token may be signed with, before its algorithm is looked at. A token that names a key is checked
    /// with that key alone; a name we don't know can only mean a key that has none (a secret, a PEM file). A token
    /// that names none may be signed by any.
    pub(crate) fn named(&self, kid: Option<&str>) -> Vec<&Key> {
        match kid {
            None => self.keys.iter().map(Arc::as_ref).collect(),
            Some(kid) => match self.by_kid.get(kid) {
                Some(found) => found
                    .iter()
                    .filter_map(|i| self.keys.get(*i))
                    .map(Arc::as_ref)
                    .collect(),
                None => self
                    .keys
                    .iter()
                    .map(Arc::as_ref)
                    .filter(|key| key.kid.is_none())
                    .collect(),
            },
        }
    }

    pub(crate) fn has_kid(&self, kid: &str) -> bool {
        self.by_kid.contains_key(kid)
    }

    /// Whether these are the keys it has already, under the same names.
    pub(crate) fn is_same(&self, keys: &[Arc<Key>]) -> bool {
        self.keys.len() == keys.len()
            && self
                .keys
                .iter()
                .zip(keys)
                .all(|(a, b)| a.id == b.id && a.kid == b.kid)
    }

    /// Whether any key at all does this algorithm.
    pub(crate) fn does(&self, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.allows(algorithm))
    }
}
