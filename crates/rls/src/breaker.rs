//! Who took too long is not asked again for a while.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Viewer;

/// A statement that times out costs its timeout. So its viewer is denied on this table for a
/// while, and after three different viewers of a role the whole role is.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    viewers: HashMap<(u32, Viewer), Instant>,
    roles: HashMap<(u32, Arc<str>), Strikes>,
}

#[derive(Debug)]
struct Strikes {
    count: u32,
    last: Instant,
}

pub(crate) const OPEN_FOR: Duration = Duration::from_secs(30);
const STRIKES_MAX: u32 = 3;
const ENTRIES_MAX: usize = 10_000;

impl Breaker {
    pub(crate) fn timed_out(&mut self, relation: u32, viewer: &Viewer, now: Instant) {
        self.viewers
            .retain(|_, since| now.duration_since(*since) < OPEN_FOR);
        self.roles
            .retain(|_, strikes| now.duration_since(strikes.last) < OPEN_FOR);
        if self.viewers.len() < ENTRIES_MAX {
            self.viewers.insert((relation, viewer.clone()), now);
        }
        if self.roles.len() < ENTRIES_MAX {
            let strikes = self.roles.entry((relation, viewer.role.clone()));
            let strikes = strikes.or_insert(Strikes {
                count: 0,
                last: now,
            });
            strikes.count = strikes.count.saturating_add(1);
            strikes.last = now;
        }
    }

    pub(crate) fn denies(&self, relation: u32, viewer: &Viewer, now: Instant) -> bool {
        if self.roles.is_empty() {
            return false;
        }
        let role = self.roles.get(&(relation, viewer.role.clone()));
        let role = role
            .filter(|strikes| strikes.count >= STRIKES_MAX)
            .map(|strikes| strikes.last);
        let viewer = self.viewers.get(&(relation, viewer.clone())).copied();
        [role, viewer]
            .into_iter()
            .flatten()
            .any(|since| now.duration_since(since) < OPEN_FOR)
    }

    /// The policies have changed: everybody gets a new chance.
    pub(crate) fn reset(&mut self) {
        self.viewers.clear();
        self.roles.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_first_then_its_role() {
        let viewer = |name: &str| Viewer {
            role: "anon".into(),
            claims: name.into(),
        };
        let mut breaker = Breaker::default();
        let start = Instant::now();
        breaker.timed_out(1, &viewer("a"), start);
        assert!(breaker.denies(1, &viewer("a"), start));
        assert!(!breaker.denies(2, &viewer("a"), start), "another table");
        assert!(!breaker.denies(1, &viewer("b"), start), "another viewer");
        breaker.timed_out(1, &viewer("b"), start);
        breaker.timed_out(1, &viewer("c"), start);
        assert!(breaker.denies(1, &viewer("d"), start), "the role");
        assert!(!breaker.denies(1, &viewer("d"), start + OPEN_FOR));
    }
}
