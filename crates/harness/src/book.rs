//! What the ledger's writers did, row by row: the truth that the oracle judges by. No IO.

use std::collections::BTreeMap;

/// The owner whose rows everybody may see.
pub const EVERYBODY: u16 = 0;

/// What decides who may see a row, and which of its versions it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Face {
    pub owner: u16,
    /// Written once in a whole run, so it names a write.
    pub version: i64,
}

/// One row change, as it went into the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub id: i64,
    /// `None` for an INSERT.
    pub old: Option<Face>,
    /// `None` for a DELETE.
    pub new: Option<Face>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed,
    RolledBack,
}

/// The entries stand in the order in which Postgres carried them out.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub xid: u64,
    pub entries: Vec<Entry>,
    pub outcome: Outcome,
    /// The connection broke at COMMIT; the outcome was asked for afterwards.
    pub asked: bool,
}

/// Every transaction of a run, in no particular order.
#[derive(Clone, Debug, Default)]
pub struct Book {
    pub transactions: Vec<Transaction>,
}

impl Book {
    pub fn committed(&self) -> impl Iterator<Item = &Transaction> {
        self.transactions
            .iter()
            .filter(|transaction| transaction.outcome == Outcome::Committed)
    }

    /// How many row changes were committed.
    pub fn changes(&self) -> usize {
        self.committed()
            .map(|transaction| transaction.entries.len())
            .sum()
    }

    /// Transactions whose outcome had to be asked for.
    pub fn asked(&self) -> usize {
        self.transactions
            .iter()
            .filter(|transaction| transaction.asked)
            .count()
    }
}

/// What a subscriber's policy lets it see; the schema's policies say the same in SQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A role that bypasses row-level security.
    All,
    /// `owner = auth.uid()`
    Owner(u16),
    /// Through a table of memberships.
    Owners(Vec<u16>),
    /// `version % 2 = 0`
    Even,
}

impl Sight {
    pub fn sees(&self, face: Face) -> bool {
        face.owner == EVERYBODY
            || match self {
                Sight::All => true,
                Sight::Owner(owner) => face.owner == *owner,
                Sight::Owners(owners) => owners.contains(&face.owner),
                Sight::Even => face.version % 2 == 0,
            }
    }

    /// What the change is to this subscriber, and the version that it is told with it.
    pub fn view(&self, entry: &Entry) -> Option<View> {
        let old = entry.old.filter(|face| self.sees(*face));
        let new = entry.new.filter(|face| self.sees(*face));
        let (kind, version) = match (old, new) {
            (None, None) => return None,
            (Some(_), Some(new)) => (Kind::Update, Some(new.version)),
            (None, Some(new)) if entry.old.is_some() => (Kind::Entered, Some(new.version)),
            (None, Some(new)) => (Kind::Insert, Some(new.version)),
            (Some(_), None) if entry.new.is_some() => (Kind::Left, None),
            (Some(old), None) => (Kind::Delete, Some(old.version)),
        };
        let id = entry.id;
        Some(View { kind, id, version })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Insert,
    /// An UPDATE brought the row into sight.
    Entered,
    Update,
    Delete,
    /// An UPDATE took it out of sight; the key only is told.
    Left,
}

/// A change as one subscriber is to see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    pub kind: Kind,
    pub id: i64,
    pub version: Option<i64>,
}

/// The rows that a subscriber holds: id → version.
pub type Rows = BTreeMap<i64, i64>;

/// What a client does with an event, as the protocol's document tells it to.
pub fn apply(view: &View, rows: &mut Rows) {
    match (view.kind, view.version) {
        (Kind::Delete | Kind::Left, _) | (_, None) => rows.remove(&view.id),
        (_, Some(version)) => rows.insert(view.id, version),
    };
}

/// The uuid of an owner.
pub fn user(owner: u16) -> String {
    format!("00000000-0000-4000-8000-{owner:012x}")
}

/// The body of a version's row; the SQL of the schema makes the same.
pub fn body(version: i64) -> String {
    let times = usize::try_from(version.rem_euclid(9)).unwrap_or_default();
    format!("{version}·").repeat(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn face(owner: u16, version: i64) -> Option<Face> {
        Some(Face { owner, version })
    }

    #[test]
    fn what_a_change_is_to_whom() {
        let cases = [
            (
                None,
                face(1, 3),
                Sight::Owner(1),
                Some((Kind::Insert, Some(3))),
            ),
            (None, face(2, 3), Sight::Owner(1), None),
            (
                None,
                face(EVERYBODY, 3),
                Sight::Owner(1),
                Some((Kind::Insert, Some(3))),
            ),
            (
                face(1, 3),
                face(2, 5),
                Sight::Owner(1),
                Some((Kind::Left, None)),
            ),
            (
                face(1, 3),
                face(2, 5),
                Sight::Owner(2),
                Some((Kind::Entered, Some(5))),
            ),
            (
                face(1, 3),
                face(2, 5),
                Sight::All,
                Some((Kind::Update, Some(5))),
            ),
            (
                face(1, 3),
                face(2, 5),
                Sight::Owners(vec![1, 2]),
                Some((Kind::Update, Some(5))),
            ),
            (face(1, 3), face(2, 5), Sight::Owner(4), None),
            (
                face(1, 3),
                None,
                Sight::Owner(1),
                Some((Kind::Delete, Some(3))),
            ),
            (face(1, 3), None, Sight::Even, None),
            (face(1, 4), None, Sight::Even, Some((Kind::Delete, Some(4)))),
        ];
        for (old, new, sight, expected) in cases {
            let expected = expected.map(|(kind, version)| View {
                kind,
                id: 7,
                version,
            });
            let entry = Entry { id: 7, old, new };
            assert_eq!(sight.view(&entry), expected, "{entry:?} {sight:?}");
        }
    }

    #[test]
    fn a_client_keeps_a_map() {
        let mut rows = Rows::new();
        let view = |kind, id, version| View { kind, id, version };
        apply(&view(Kind::Insert, 1, Some(10)), &mut rows);
        apply(&view(Kind::Entered, 2, Some(11)), &mut rows);
        apply(&view(Kind::Update, 1, Some(12)), &mut rows);
        assert_eq!(rows, Rows::from([(1, 12), (2, 11)]));
        apply(&view(Kind::Left, 2, None), &mut rows);
        apply(&view(Kind::Delete, 1, Some(12)), &mut rows);
        assert_eq!(rows, Rows::new());
    }
}
