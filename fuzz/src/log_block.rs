//! The change log's record reader, behind the checksum: whatever stands in a block is changes or an
//! error, and changes that were written again decode to the same.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Cell, Change, Decoder, Row, Shape, Step, Types};
use walcast_log::fuzzing::{decode_block, encode_blocks};
use walcast_pgoutput::{
    Begin, Column, Delete, Insert, Lsn, Message, OldRow, PgTime, Relation, RelationId,
    ReplicaIdentity, Truncate, Update, Value, Xid, encode,
};

pub fn run(data: &[u8]) {
    let mut shapes = Vec::new();
    let decoded = decode_block(Bytes::copy_from_slice(data), &mut shapes);
    for shape in &shapes {
        let mut bytes = Vec::new();
        shape.write_bytes(&mut bytes);
        let again = Shape::from_bytes(&bytes).expect("just written");
        assert_eq!(format!("{again:?}"), format!("{shape:?}"));
    }
    let Some((changes, _)) = decoded else {
        return;
    };
    let end_lsn = Lsn(7);
    let mut again = Vec::new();
    let mut shapes: Vec<Arc<Shape>> = Vec::new();
    let mut ended = None;
    for body in encode_blocks(&changes, end_lsn) {
        let block = decode_block(body, &mut shapes);
        let (changes, committed) = block.expect("just written");
        again.extend(changes);
        ended = committed;
    }
    assert_eq!(ended, Some(end_lsn));
    assert_eq!(print(&again), print(&changes));
}

fn print(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        let Change { cursor, xid, .. } = change;
        let kind = std::mem::discriminant(&change.operation);
        write!(out, "{cursor} {xid:?} {:?} {kind:?}", change.commit_time).expect("a string");
        let rows = [change.new(), change.old()];
        for row in rows.into_iter().flatten() {
            let known = |cell: Cell| format!("{cell:?}");
            let cells: Vec<String> = Row::cells(row).map(known).collect();
            write!(out, " {} {cells:?}", row.is_key_only()).expect("a string");
        }
        out.push('\n');
    }
    out
}

/// A block of one change for each kind of operation, and one of all of them.
pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let id = RelationId(16391);
    let key = || encode::tuple([Value::Text(b"7"), Value::Null]);
    let full = || encode::tuple([Value::Text(b"7"), Value::Text(b"old")]);
    let new = || encode::tuple([Value::Text(b"8"), Value::Unchanged]);
    let insert = Insert {
        relation: id,
        new: full(),
    };
    let update = |old| {
        let (relation, new) = (id, new());
        Message::Update(Update { relation, old, new })
    };
    let delete = |old| Message::Delete(Delete { relation: id, old });
    let truncate = Truncate {
        cascade: false,
        restart_identity: false,
        relations: vec![id],
    };
    let mut decoder = Decoder::new(Types::default());
    let begin = Begin {
        final_lsn: Lsn(22_000),
        commit_time: PgTime(1),
        xid: Xid(753),
    };
    for message in [Message::Relation(relation(id)), Message::Begin(begin)] {
        decoder.step(message).expect("it begins");
    }
    let mut changes = Vec::new();
    for (name, message) in [
        ("insert", Message::Insert(insert)),
        ("update", update(OldRow::None)),
        ("update_key", update(OldRow::Key(key()))),
        ("update_full", update(OldRow::Full(full()))),
        ("delete_key", delete(OldRow::Key(key()))),
        ("delete_full", delete(OldRow::Full(full()))),
        ("truncate", Message::Truncate(truncate)),
    ] {
        match decoder.step(message).expect("it fits the relation") {
            Step::Change(change) => changes.push((name, vec![change])),
            Step::Truncate(truncated) => changes.push((name, truncated)),
            _ => unreachable!("all of them are changes"),
        }
    }
    let all = changes.iter().flat_map(|(_, each)| each).cloned().collect();
    changes.push(("all", all));
    let block = |changes: Vec<Change>| encode_blocks(&changes, Lsn(22_048)).concat();
    let blocks = changes.into_iter();
    blocks
        .map(|(name, changes)| (name, block(changes)))
        .collect()
}

fn relation(id: RelationId) -> Relation {
    let column = |key, name, type_oid| Column {
        key,
        name: Bytes::from_static(name),
        type_oid,
        type_modifier: -1,
    };
    Relation {
        id,
        schema: Bytes::from_static(b"public"),
        name: Bytes::from_static(b"todos"),
        identity: ReplicaIdentity::Default,
        columns: vec![column(true, b"id", 20), column(false, b"tags", 1009)],
    }
}
