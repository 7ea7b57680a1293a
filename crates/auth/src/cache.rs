use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::identity::Identity;

/// Verified tokens by their SHA-256, so that a crowd that connects again costs no signature checks. Holds no token.
///
/// At most `entries_max`; when full, what has expired goes, and if that frees nothing, everything.
pub(crate) struct Cache {
    entries: HashMap<Digest, Identity>,
    generation: u64,
    entries_max: usize,
}

pub(crate) type Digest = [u8; 32];

impl Cache {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self {
            entries: HashMap::new(),
            generation: 0,
            entries_max,
        }
    }

    pub(crate) fn digest(token: &str) -> Digest {
        Sha256::digest(token).into()
    }

    /// What was verified under the key set `generation`. The caller checks the expiry.
    pub(crate) fn get(&self, digest: &Digest, generation: u64) -> Option<Identity> {
        (self.generation == generation)
            .then(|| self.entries.get(digest).cloned())
            .flatten()
    }

    /// Keeps what was verified under the key set `generation`, unless the keys have changed meanwhile.
    pub(crate) fn insert(&mut self, digest: Digest, identity: Identity, generation: u64, now: i64) {
        if generation < self.generation {
            return;
        }
        if generation > self.generation {
            self.generation = generation;
            self.entries.clear();
        }
        if self.entries.len() >= self.entries_max {
            self.entries
                .retain(|_, kept| kept.expires_at.is_none_or(|exp| exp > now));
        }
        if self.entries.len() >= self.entries_max {
            self.entries.clear();
        }
        self.entries.insert(digest, identity);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(expires_at: Option<i64>) -> Identity {
        Identity {
            expires_at,
            ..Identity::anonymous("anon")
        }
    }

    #[test]
    fn other_keys_mean_an_empty_cache() {
        let mut cache = Cache::new(4);
        cache.insert([1; 32], identity(None), 1, 0);
        assert!(cache.get(&[1; 32], 1).is_some());
        assert!(cache.get(&[1; 32], 2).is_none());
        cache.insert([2; 32], identity(None), 2, 0);
        cache.insert([3; 32], identity(None), 1, 0);
        let left: Vec<_> = (1..4).map(|n| cache.get(&[n; 32], 2).is_some()).collect();
        assert_eq!(left, [false, true, false]);
    }

    #[test]
    fn never_more_than_its_bound() {
        let mut cache = Cache::new(2);
        cache.insert([1; 32], identity(Some(10)), 1, 0);
        cache.insert([2; 32], identity(Some(99)), 1, 0);
        cache.insert([3; 32], identity(Some(99)), 1, 50);
        assert!(cache.get(&[1; 32], 1).is_none() && cache.get(&[2; 32], 1).is_some());
        cache.insert([4; 32], identity(Some(99)), 1, 50);
        assert_eq!(cache.entries.len(), 1);
    }
}
