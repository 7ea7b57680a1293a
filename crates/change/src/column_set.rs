//! Which of a table's columns are meant.

/// A set of column indexes (positions in [`Shape::columns`](crate::Shape)).
/// Equal sets are equal and hash alike whatever they were made from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ColumnSet {
    /// Bit `i % 64` of word `i / 64`; no zero words at the end.
    words: Vec<u64>,
}

impl ColumnSet {
    pub fn new() -> ColumnSet {
        ColumnSet::default()
    }

    /// Columns 0 to `count` − 1.
    pub fn all(count: usize) -> ColumnSet {
        (0..count).collect()
    }

    pub fn insert(&mut self, index: usize) {
        let word = index / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (index % 64);
    }

    pub fn contains(&self, index: usize) -> bool {
        self.words
            .get(index / 64)
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub fn len(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    pub fn is_subset(&self, other: &ColumnSet) -> bool {
        self.iter().all(|index| other.contains(index))
    }

    pub fn intersection(&self, other: &ColumnSet) -> ColumnSet {
        self.iter().filter(|&index| other.contains(index)).collect()
    }

    /// The indexes, growing.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(at, &word)| {
            (0..64)
                .filter(move |bit| word >> bit & 1 == 1)
                .map(move |bit| at * 64 + bit)
        })
    }
}

impl FromIterator<usize> for ColumnSet {
    fn from_iter<I: IntoIterator<Item = usize>>(indexes: I) -> ColumnSet {
        let mut set = ColumnSet::new();
        for index in indexes {
            set.insert(index);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets() {
        let set: ColumnSet = [70, 1, 1, 5].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [1, 5, 70]);
        assert_eq!(set.len(), 3);
        assert!(set.contains(70) && !set.contains(6) && !set.contains(9999));
        assert!(ColumnSet::new().is_subset(&set) && set.is_subset(&ColumnSet::all(71)));
        assert!(!set.is_subset(&ColumnSet::all(70)));
        assert_eq!(
            set.intersection(&ColumnSet::all(6)),
            [5, 1].into_iter().collect()
        );
        assert!(ColumnSet::all(0).is_empty());
    }
}
