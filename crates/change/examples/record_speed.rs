//! How long `write_record` takes:
//!
//!     cargo run --release -p walcast-change --example record_speed

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use walcast_change::{Change, ColumnSet, Decoder, Numbers, Step, write_record};
use walcast_pgoutput::encode::tuple;
use walcast_pgoutput::{
    Begin, Column, Insert, Lsn, Message, PgTime, Relation, RelationId, ReplicaIdentity, Value, Xid,
};

const TABLE: RelationId = RelationId(16400);
const ROUNDS: u32 = 200_000;
const REPEATS: usize = 9;

/// A name, a type's OID and a value.
type Cell = (&'static str, u32, &'static str);

const TODO: &[Cell] = &[
    ("id", 20, "9007199254740993"),
    ("user_id", 2950, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("title", 25, "Buy milk, eggs and a \"very\" long baguette"),
    ("done", 16, "f"),
    ("priority", 23, "3"),
    ("created_at", 1184, "2026-11-21 10:48:33.123456+00"),
];

const PLAIN: &[Cell] = &[
    ("id", 20, "42"),
    ("a", 25, "short"),
    ("b", 25, "a text of some thirty characters"),
    ("c", 23, "-17"),
    ("d", 16, "t"),
    ("e", 1700, "1234.50"),
];

const NESTED: &[Cell] = &[
    ("id", 20, "42"),
    ("tags", 1009, r#"{red,"dark blue",NULL,"with \"quotes\""}"#),
    ("numbers", 1007, "{1,2,3,4,5,6,7,8,9,10}"),
    (
        "payload",
        3802,
        r#"{"kind": "order", "lines": [{"sku": "A-1", "count": 2}, {"sku": "B-7", "count": 1}], "total": 12.50}"#,
    ),
    ("at", 1114, "2026-11-21 10:48:33"),
    ("range", 3904, "[1,10)"),
];

fn main() {
    for (name, cells) in [
        ("todo (int8 uuid text bool int4 timestamptz)", TODO),
        ("plain (int8 text text int4 bool numeric)", PLAIN),
        ("nested (int8 text[] int4[] jsonb timestamp range)", NESTED),
    ] {
        let change = insert(cells);
        for numbers in [Numbers::Number, Numbers::String] {
            let mut times: Vec<f64> = (0..REPEATS).map(|_| ns_per_row(&change, numbers)).collect();
            times.sort_by(f64::total_cmp);
            let bytes = record(&change, numbers).len();
            println!(
                "{name}, as {numbers:?}: median {:.0} ns a row, best {:.0}; {bytes} bytes",
                times[REPEATS / 2],
                times[0]
            );
        }
    }
}

fn ns_per_row(change: &Change, numbers: Numbers) -> f64 {
    let row = change.new().expect("an insert has a new row");
    let columns = ColumnSet::all(row.shape().columns.len());
    let mut out = Vec::new();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        out.clear();
        write_record(
            black_box(row),
            black_box(&columns),
            black_box(numbers),
            &mut out,
        );
        black_box(&out);
    }
    start.elapsed().as_nanos() as f64 / f64::from(ROUNDS)
}

fn record(change: &Change, numbers: Numbers) -> Vec<u8> {
    let row = change.new().expect("an insert has a new row");
    let mut out = Vec::new();
    let columns = ColumnSet::all(row.shape().columns.len());
    write_record(row, &columns, numbers, &mut out);
    out
}

fn insert(cells: &[Cell]) -> Change {
    let columns = cells.iter().map(|(name, type_oid, _)| Column {
        key: true,
        name: Bytes::from_static(name.as_bytes()),
        type_oid: *type_oid,
        type_modifier: -1,
    });
    let relation = Relation {
        id: TABLE,
        schema: Bytes::from_static(b"public"),
        name: Bytes::from_static(b"t"),
        identity: ReplicaIdentity::Full,
        columns: columns.collect(),
    };
    let begin = Begin {
        final_lsn: Lsn(1),
        commit_time: PgTime(0),
        xid: Xid(1),
    };
    let values = cells
        .iter()
        .map(|(_, _, text)| Value::Text(text.as_bytes()));
    let new = tuple(values);
    let mut decoder = Decoder::default();
    let messages = [
        Message::Relation(relation),
        Message::Begin(begin),
        Message::Insert(Insert {
            relation: TABLE,
            new,
        }),
    ];
    for message in messages {
        if let Step::Change(change) = decoder.step(message).expect("the stream is right") {
            return change;
        }
    }
    unreachable!("the last message is an insert")
}
