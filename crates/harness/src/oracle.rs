//! Whether a client received what it was to receive: everything visible after its first cursor, each
//! once, in the order of cursors, and nothing else. No IO.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Bound;

use walcast_change::Cursor;
use walcast_pgoutput::Lsn;

use crate::book::{Book, Entry, Outcome, Rows, Sight};
use crate::transcript::{Segment, Transcript};

/// How many findings are quoted.
const QUOTED_MAX: usize = 8;

/// Every committed row change at its place.
pub struct Oracle {
    entries: BTreeMap<Cursor, Entry>,
    /// Committed, but before the witness looked, or after it lost sight: only a gap excuses it.
    unplaced: Vec<Entry>,
}

/// What was found about one client, or the sum of several.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    pub clients: usize,
    pub expected: usize,
    pub received: usize,
    pub lost: usize,
    pub duplicated: usize,
    /// Not to be seen by this client, or committed by nobody.
    pub leaked: usize,
    pub reordered: usize,
    /// The right place, another content.
    pub wrong: usize,
    /// Rows in which the replayed state and a `SELECT` differ.
    pub stale: usize,
    pub gaps: usize,
    pub resumed: usize,
    pub connections: usize,
    pub quotes: Vec<String>,
}

impl Oracle {
    /// `order` tells each committed transaction's place, as Postgres itself decodes it. Errors: what
    /// the ledger and Postgres tell differently.
    pub fn new(book: &Book, order: &HashMap<u64, Lsn>) -> anyhow::Result<Oracle> {
        let mut oracle = Oracle {
            entries: BTreeMap::new(),
            unplaced: Vec::new(),
        };
        let numbers: HashSet<_> = book.committed().map(|one| one.xid).collect();
        for transaction in &book.transactions {
            let committed = transaction.outcome == Outcome::Committed;
            match order.get(&transaction.xid) {
                Some(lsn) if committed => oracle.place(*lsn, &transaction.entries),
                None if committed => oracle.unplaced.extend(&transaction.entries),
                // After a crash Postgres gives the number of a transaction that left no trace again.
                Some(_) if numbers.contains(&transaction.xid) => {}
                Some(_) => anyhow::bail!("{transaction:?} was decoded"),
                None => {}
            }
        }
        Ok(oracle)
    }

    fn place(&mut self, commit_lsn: Lsn, entries: &[Entry]) {
        for (ordinal, entry) in (0..).zip(entries) {
            let cursor = Cursor {
                commit_lsn,
                ordinal,
            };
            self.entries.insert(cursor, *entry);
        }
    }

    /// The last change that has a place.
    pub fn last(&self) -> Option<Cursor> {
        self.entries.keys().next_back().copied()
    }

    /// Judges what a client with this sight wrote down; `rows` is what it may see in the end.
    pub fn judge(&self, sight: &Sight, transcript: &Transcript, rows: &Rows) -> Verdict {
        let mut verdict = Verdict {
            clients: 1,
            received: transcript.received(),
            gaps: transcript.gaps.len(),
            resumed: transcript.resumed(),
            connections: transcript.connections.len(),
            ..Verdict::default()
        };
        for (at, segment) in transcript.segments.iter().enumerate() {
            let is_last = at + 1 == transcript.segments.len();
            self.judge_segment(sight, segment, is_last, &mut verdict);
        }
        if transcript.gaps.is_empty() {
            for entry in &self.unplaced {
                if let Some(view) = sight.view(entry) {
                    verdict.expected += 1;
                    verdict.lost += 1;
                    verdict.quote(|| format!("lost, with no gap told: {view:?}"));
                }
            }
        }
        compare(&transcript.rows(), rows, &mut verdict);
        verdict
    }

    fn judge_segment(
        &self,
        sight: &Sight,
        segment: &Segment,
        is_last: bool,
        verdict: &mut Verdict,
    ) {
        let mut seen = HashSet::new();
        let mut last = segment.from;
        for event in &segment.events {
            let cursor = event.cursor;
            if !seen.insert(cursor) {
                verdict.duplicated += 1;
                verdict.quote(|| format!("duplicated: {event:?}"));
            } else if cursor <= last {
                verdict.reordered += 1;
                verdict.quote(|| format!("after {last}: {event:?}"));
            }
            last = last.max(cursor);
            let entry = self.entries.get(&cursor);
            let view = entry.and_then(|entry| sight.view(entry));
            match view {
                None => {
                    verdict.leaked += 1;
                    verdict.quote(|| format!("leaked: {event:?} of {entry:?}"));
                }
                Some(view) if view != event.view || event.torn => {
                    verdict.wrong += 1;
                    verdict.quote(|| format!("wrong: {event:?}, it was {view:?}"));
                }
                Some(_) => {}
            }
        }
        // Where a gap followed, what came after the last event is in the gap.
        let end = if is_last { END } else { last };
        if end == segment.from {
            return;
        }
        for (cursor, entry) in self.entries.range(range(segment.from, end)) {
            if let Some(view) = sight.view(entry) {
                verdict.expected += 1;
                if !seen.contains(cursor) && !self.had(sight, segment, *cursor, entry.id) {
                    verdict.lost += 1;
                    verdict.quote(|| format!("lost: {cursor} {view:?}"));
                }
            }
        }
    }

    /// Whether the rows that the client began with show this row as it was after that change, or after
    /// a later one. That each of them has what it is to have is seen by the rows in the end.
    fn had(&self, sight: &Sight, segment: &Segment, change: Cursor, id: i64) -> bool {
        let shown = segment.rows.get(&id).copied();
        let shows = |entry: &Entry| {
            let version = entry.new.filter(|face| sight.sees(*face));
            entry.id == id && version.map(|face| face.version) == shown
        };
        segment.is_snapshot && self.entries.range(change..).any(|(_, entry)| shows(entry))
    }
}

/// The place behind every place.
const END: Cursor = Cursor {
    commit_lsn: Lsn(u64::MAX),
    ordinal: u64::MAX,
};

fn range(after: Cursor, to: Cursor) -> (Bound<Cursor>, Bound<Cursor>) {
    (Bound::Excluded(after), Bound::Included(to))
}

fn compare(replayed: &Rows, selected: &Rows, verdict: &mut Verdict) {
    for (id, version) in selected {
        if replayed.get(id) != Some(version) {
            verdict.stale += 1;
            let shown = replayed.get(id);
            verdict.quote(|| format!("row {id} is version {version}, shown is {shown:?}"));
        }
    }
    for id in replayed.keys().filter(|id| !selected.contains_key(id)) {
        verdict.stale += 1;
        verdict.quote(|| format!("row {id} is shown, and is not there"));
    }
}

impl Verdict {
    /// Nothing lost, duplicated, leaked, reordered, wrong or stale. Gaps that were told are no fault
    /// here; whether there may be any is the scenario's to say.
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.leaked + self.reordered + self.wrong + self.stale == 0
    }

    /// Sums up.
    pub fn add(&mut self, other: Verdict) {
        self.clients += other.clients;
        self.expected += other.expected;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.leaked += other.leaked;
        self.reordered += other.reordered;
        self.wrong += other.wrong;
        self.stale += other.stale;
        self.gaps += other.gaps;
        self.resumed += other.resumed;
        self.connections += other.connections;
        for quote in other.quotes {
            self.quote(|| quote);
        }
    }

    fn quote(&mut self, text: impl FnOnce() -> String) {
        if self.quotes.len() < QUOTED_MAX {
            self.quotes.push(text());
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "clients={} expected={} received={} lost={} duplicated={} leaked={} reordered={} \
             wrong={} stale={} gaps={} resumed={} connections={}",
            self.clients,
            self.expected,
            self.received,
            self.lost,
            self.duplicated,
            self.leaked,
            self.reordered,
            self.wrong,
            self.stale,
            self.gaps,
            self.resumed,
            self.connections,
        )?;
        for quote in &self.quotes {
            write!(f, "\n  {quote}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::{Face, Transaction};
    use crate::transcript::Received;

    const SIGHT: Sight = Sight::Owner(1);

    fn face(owner: u16, version: i64) -> Option<Face> {
        Some(Face { owner, version })
    }

    fn entry(id: i64, old: Option<Face>, new: Option<Face>) -> Entry {
        Entry { id, old, new }
    }

    fn at(commit_lsn: u64, ordinal: u64) -> Cursor {
        Cursor {
            commit_lsn: Lsn(commit_lsn),
            ordinal,
        }
    }

    /// Two transactions, whose numbers are not in the order of their commits, and one rolled back.
    fn oracle() -> Oracle {
        let transaction = |xid, outcome, entries: &[Entry]| Transaction {
            xid,
            entries: entries.to_vec(),
            outcome,
            asked: false,
        };
        let book = Book {
            transactions: vec![
                transaction(
                    5,
                    Outcome::Committed,
                    &[
                        entry(1, face(1, 1), face(1, 30)),
                        entry(2, face(1, 2), None),
                    ],
                ),
                transaction(
                    6,
                    Outcome::Committed,
                    &[
                        entry(1, None, face(1, 1)),
                        entry(2, None, face(1, 2)),
                        entry(3, None, face(2, 3)),
                    ],
                ),
                transaction(7, Outcome::RolledBack, &[entry(4, None, face(1, 4))]),
            ],
        };
        let order = HashMap::from([(6, Lsn(100)), (5, Lsn(200))]);
        Oracle::new(&book, &order).expect("ledger and order agree")
    }

    fn received(oracle: &Oracle) -> Vec<Received> {
        let events = oracle.entries.iter().filter_map(|(cursor, entry)| {
            let view = SIGHT.view(entry)?;
            let torn = false;
            Some(Received {
                cursor: *cursor,
                view,
                torn,
            })
        });
        events.collect()
    }

    fn judge(events: Vec<Received>, from: Cursor) -> Verdict {
        let segment = Segment {
            from,
            events,
            ..Segment::default()
        };
        let transcript = Transcript {
            segments: vec![segment],
            ..Transcript::default()
        };
        oracle().judge(&SIGHT, &transcript, &Rows::from([(1, 30)]))
    }

    #[test]
    fn what_is_right_is_clean() {
        let verdict = judge(received(&oracle()), Cursor::default());
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.expected, verdict.received), (4, 4));
    }

    /// What is done to a right transcript, and which count must notice it.
    #[test]
    fn every_fault_is_noticed() {
        type Count = fn(&Verdict) -> usize;
        type Spoil = fn(&mut Vec<Received>);
        let cases: [(&str, Spoil, Count); 8] = [
            ("lost", |events| events[1] = events[3], |v| v.lost),
            ("lost at the end", |events| events.truncate(3), |v| v.lost),
            ("twice", |events| events.push(events[0]), |v| v.duplicated),
            ("swapped", |events| events.swap(0, 1), |v| v.reordered),
            (
                "another's row",
                |events| {
                    let mut event = events[1];
                    event.cursor = at(100, 2);
                    event.view.id = 3;
                    events.insert(2, event);
                },
                |v| v.leaked,
            ),
            (
                "committed by nobody",
                |events| {
                    let mut event = events[3];
                    event.cursor = at(300, 0);
                    events.push(event);
                },
                |v| v.leaked,
            ),
            (
                "older content",
                |events| events[2].view.version = Some(1),
                |v| v.wrong,
            ),
            ("broken bytes", |events| events[0].torn = true, |v| v.wrong),
        ];
        for (name, spoil, count) in cases {
            let mut events = received(&oracle());
            spoil(&mut events);
            let verdict = judge(events, Cursor::default());
            assert!(count(&verdict) > 0, "{name}: {verdict}");
            assert!(!verdict.is_clean(), "{name}");
        }
    }

    #[test]
    fn a_rolled_back_transaction_is_not_decoded_unless_its_number_came_again() {
        let transaction = |outcome| Transaction {
            xid: 9,
            entries: Vec::new(),
            outcome,
            asked: false,
        };
        let order = HashMap::from([(9, Lsn(100))]);
        let mut book = Book {
            transactions: vec![transaction(Outcome::RolledBack)],
        };
        assert!(Oracle::new(&book, &order).is_err());
        book.transactions.push(transaction(Outcome::Committed));
        assert!(Oracle::new(&book, &order).is_ok());
    }

    #[test]
    fn who_came_later_is_owed_less() {
        let events = received(&oracle()).split_off(1);
        assert_eq!(judge(events.clone(), at(100, 0)).lost, 0);
        assert_eq!(judge(events, at(99, 9)).lost, 1);
    }

    /// Row 1 has version 1 at first, then 30; row 2 comes and goes.
    #[test]
    fn a_snapshot_ahead_of_the_stream_is_owed_what_it_lacks() {
        let judge = |rows: &[(i64, i64)], is_snapshot, skipped: &[usize]| {
            let oracle = oracle();
            let mut events = received(&oracle);
            for at in skipped {
                events.remove(*at);
            }
            let segment = Segment {
                rows: rows.iter().copied().collect(),
                is_snapshot,
                events,
                ..Segment::default()
            };
            let transcript = Transcript {
                segments: vec![segment],
                ..Transcript::default()
            };
            let verdict = oracle.judge(&SIGHT, &transcript, &Rows::from([(1, 30)]));
            verdict.lost
        };
        let first: &[usize] = &[0, 0];
        assert_eq!(judge(&[(1, 1), (2, 2)], true, first), 0, "it has them");
        assert_eq!(judge(&[(1, 1), (2, 2)], false, first), 2, "it is owed them");
        assert_eq!(judge(&[(1, 1)], true, &[1]), 0, "gone by then");
        assert_eq!(judge(&[(1, 1), (2, 2)], true, &[2]), 1, "the update");
        assert_eq!(judge(&[(1, 1), (2, 2)], true, &[3]), 1, "the delete");
        assert_eq!(judge(&[(1, 30)], true, &[0, 0, 0, 0]), 0, "all");
    }

    #[test]
    fn a_gap_excuses_what_followed_the_last_event_only() {
        let oracle = oracle();
        let events = received(&oracle);
        let segment = |from, events: &[Received]| Segment {
            from,
            events: events.to_vec(),
            rows: Rows::from([(1, 30)]),
            is_snapshot: false,
        };
        let judge = |first: &[Received]| {
            let transcript = Transcript {
                segments: vec![segment(Cursor::default(), first), segment(at(200, 1), &[])],
                gaps: vec!["slot_missing".into()],
                ..Transcript::default()
            };
            oracle.judge(&SIGHT, &transcript, &Rows::from([(1, 30)]))
        };
        assert!(judge(&events[..2]).is_clean());
        assert_eq!(judge(&events[1..2]).lost, 1);
    }

    #[test]
    fn what_was_not_witnessed_needs_a_gap() {
        let transaction = Transaction {
            xid: 9,
            entries: vec![entry(1, None, face(1, 1))],
            outcome: Outcome::Committed,
            asked: false,
        };
        let book = Book {
            transactions: vec![transaction],
        };
        let oracle = Oracle::new(&book, &HashMap::new()).expect("nothing contradicts");
        let mut transcript = Transcript {
            segments: vec![Segment::default()],
            ..Transcript::default()
        };
        assert_eq!(oracle.judge(&SIGHT, &transcript, &Rows::new()).lost, 1);
        transcript.gaps.push("slot_lost".into());
        assert!(oracle.judge(&SIGHT, &transcript, &Rows::new()).is_clean());
    }

    #[test]
    fn a_state_that_differs_is_stale() {
        let mut verdict = Verdict::default();
        let shown = Rows::from([(1, 1), (2, 2), (3, 3)]);
        compare(&shown, &Rows::from([(1, 1), (2, 5), (4, 4)]), &mut verdict);
        assert_eq!(verdict.stale, 3, "{verdict}");
        assert!(!verdict.is_clean());
    }
}
