//! What Postgres would send, decoded.

use std::fmt::Write;

use bytes::Bytes;
use walcast_change::{Cell, Change, Decoder, Row, Step, Types};
use walcast_pgoutput::encode::tuple;
use walcast_pgoutput::{
    Begin, Column, Commit, Delete, Insert, Lsn, Message, OldRow, PgTime, Relation, RelationId,
    ReplicaIdentity, Truncate, Update, Value, Xid,
};

#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    pub(crate) changes: Vec<Change>,
    pub(crate) end_lsn: Lsn,
}

/// One message; the number is the size of its text.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Insert(usize),
    Update(usize),
    UpdateKey(usize),
    /// Leaves the text alone: it is filled in from the old row.
    UpdateFull(usize),
    DeleteKey,
    DeleteFull(usize),
    Truncate,
    /// The table is described anew.
    Describe,
}

pub(crate) struct Stream {
    decoder: Decoder,
    lsn: u64,
}

impl Stream {
    pub(crate) fn new() -> Stream {
        let decoder = Decoder::new(Types::default());
        let mut stream = Stream { decoder, lsn: 1000 };
        for table in 1..=2 {
            stream.step(relation(table));
        }
        stream
    }

    /// A transaction of `ops`, each of the table given with it (1 or 2).
    pub(crate) fn transaction(&mut self, ops: &[(u32, Op)]) -> Transaction {
        self.lsn += 100;
        let commit_time = PgTime(self.lsn as i64 * 7);
        self.step(Message::Begin(Begin {
            final_lsn: Lsn(self.lsn),
            commit_time,
            xid: Xid(self.lsn as u32 / 100),
        }));
        let mut changes = Vec::new();
        for (nth, &(table, op)) in ops.iter().enumerate() {
            match self.step(message(table, op, nth)) {
                Step::Change(change) => changes.push(change),
                Step::Truncate(truncated) => changes.extend(truncated),
                _ => {}
            }
        }
        let end_lsn = Lsn(self.lsn + 50);
        self.step(Message::Commit(Commit {
            flags: 0,
            commit_lsn: Lsn(self.lsn),
            end_lsn,
            commit_time,
        }));
        Transaction { changes, end_lsn }
    }

    /// `count` transactions of `changes` inserts of `bytes` each.
    pub(crate) fn inserts(
        &mut self,
        count: usize,
        changes: usize,
        bytes: usize,
    ) -> Vec<Transaction> {
        let ops = vec![(1, Op::Insert(bytes)); changes];
        (0..count).map(|_| self.transaction(&ops)).collect()
    }

    fn step(&mut self, message: Message) -> Step {
        self.decoder.step(message).expect("a valid stream")
    }
}

fn relation(table: u32) -> Message {
    let column = |key, name, type_oid| Column {
        key,
        name: Bytes::from_static(name),
        type_oid,
        type_modifier: -1,
    };
    Message::Relation(Relation {
        id: RelationId(table),
        schema: Bytes::from_static(b"public"),
        name: Bytes::from(format!("t{table}")),
        identity: ReplicaIdentity::Default,
        columns: vec![
            column(true, b"id", 23),
            column(false, b"text", 25),
            column(false, b"tags", 1009),
        ],
    })
}

fn message(table: u32, op: Op, nth: usize) -> Message {
    let relation = RelationId(table);
    let id = nth.to_string();
    let row = |size: usize, filler: u8| {
        let text = vec![filler; size];
        tuple([Value::Text(id.as_bytes()), Value::Text(&text), Value::Null])
    };
    let key = || tuple([Value::Text(b"key"), Value::Null, Value::Null]);
    let unchanged = || {
        tuple([
            Value::Text(id.as_bytes()),
            Value::Unchanged,
            Value::Text(b"{}"),
        ])
    };
    let update = |old, new| Message::Update(Update { relation, old, new });
    match op {
        Op::Insert(size) => Message::Insert(Insert {
            relation,
            new: row(size, b'i'),
        }),
        Op::Update(size) if size % 2 == 0 => update(OldRow::None, row(size, b'u')),
        Op::Update(_) => update(OldRow::None, unchanged()),
        Op::UpdateKey(size) => update(OldRow::Key(key()), row(size, b'k')),
        Op::UpdateFull(size) => update(OldRow::Full(row(size, b'o')), unchanged()),
        Op::DeleteKey => Message::Delete(Delete {
            relation,
            old: OldRow::Key(key()),
        }),
        Op::DeleteFull(size) => Message::Delete(Delete {
            relation,
            old: OldRow::Full(row(size, b'd')),
        }),
        Op::Truncate => Message::Truncate(Truncate {
            cascade: false,
            restart_identity: false,
            relations: vec![RelationId(1), RelationId(2)],
        }),
        Op::Describe => self::relation(table),
    }
}

/// All of a change, for comparing.
pub(crate) fn print(change: &Change) -> String {
    let mut out = format!(
        "{} {:?} {:?} {:?}",
        change.cursor, change.commit_time, change.xid, change.shape
    );
    for (name, row) in [("new", change.new()), ("old", change.old())] {
        let Some(row) = row else { continue };
        write!(out, " {name} key_only={}", row.is_key_only()).expect("a string");
        print_cells(row, &mut out);
    }
    out
}

fn print_cells(row: &Row, out: &mut String) {
    for cell in row.cells() {
        match cell {
            Cell::Text(text) => write!(out, " {}", String::from_utf8_lossy(text)),
            cell => write!(out, " {cell:?}"),
        }
        .expect("a string");
    }
}
