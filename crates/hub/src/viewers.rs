//! Viewers and their numbers.

use std::collections::HashMap;

use walcast_rls::Viewer;

/// Each distinct viewer once, under a number.
#[derive(Debug, Default)]
pub(crate) struct Viewers {
    pub(crate) by_number: HashMap<u32, (Viewer, usize)>,
    pub(crate) numbers: HashMap<Viewer, u32>,
    next: u32,
}

impl Viewers {
    pub(crate) fn enter(&mut self, viewer: &Viewer) -> u32 {
        if let Some(&number) = self.numbers.get(viewer) {
            if let Some((_, uses)) = self.by_number.get_mut(&number) {
                *uses += 1;
            }
            return number;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.numbers.insert(viewer.clone(), number);
        self.by_number.insert(number, (viewer.clone(), 1));
        number
    }

    pub(crate) fn leave(&mut self, number: u32) {
        let Some((_, uses)) = self.by_number.get_mut(&number) else {
            return;
        };
        *uses -= 1;
        if *uses == 0
            && let Some((viewer, _)) = self.by_number.remove(&number)
        {
            self.numbers.remove(&viewer);
        }
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Viewer> {
        self.by_number.get(&number).map(|(viewer, _)| viewer)
    }
}
