//! What updates, deletes and DDL of a real Postgres come to.

use anyhow::Result;
use walcast_change::{Change, ColumnSet, Operation, unchanged};

use crate::stream::{Stream, record};

/// 100,000 random digits: too much for a page, even compressed.
const LONG: &str = "(select string_agg(md5(n::text), '') from generate_series(1, 3125) n)";

/// `I new`, `U old > new !unchanged`, `D old`, `T table`, with `LONG` for the value of [`LONG`].
fn told(change: &Change, long: &str) -> String {
    let row = |row| Some(record(row).replace(long, "LONG"));
    let old = change.old().and_then(row).unwrap_or_default();
    let new = change.new().and_then(row).unwrap_or_default();
    let all = ColumnSet::all(change.shape.columns.len());
    let missing: Vec<&str> = change
        .new()
        .map(|row| unchanged(row, &all).collect())
        .unwrap_or_default();
    match change.operation {
        Operation::Insert { .. } => format!("I {new}"),
        Operation::Update { .. } if missing.is_empty() => format!("U {old} > {new}"),
        Operation::Update { .. } => format!("U {old} > {new} !{}", missing.join(",")),
        Operation::Delete { .. } => format!("D {old}"),
        Operation::Truncate => format!("T {}", change.shape.table),
    }
}

async fn check(statements: &str, expected: &[&str]) -> Result<()> {
    let mut stream = Stream::open().await?;
    let long: String = stream
        .client
        .query_one(&format!("select {LONG}"), &[])
        .await?
        .get(0);
    stream
        .client
        .batch_execute(&statements.replace("$long", LONG))
        .await?;
    let changes = stream.changes().await?;
    let found: Vec<String> = changes.iter().map(|change| told(change, &long)).collect();
    assert_eq!(found, expected);
    let grow = changes
        .windows(2)
        .all(|pair| pair[0].cursor < pair[1].cursor);
    assert!(grow, "cursors grow");
    Ok(())
}

const LARGE: &str = "
    create table t (id int primary key, a int, b text, c text[]);
    insert into t values (1, 1, $long, array[$long]);
    alter table t replica identity $identity;
    update t set a = 2; update t set id = 2; update t set b = null; delete from t";

#[tokio::test]
async fn large_values_under_full() -> Result<()> {
    let expected = [
        r#"I {"id":1,"a":1,"b":"LONG","c":["LONG"]}"#,
        r#"U {"id":1,"a":1,"b":"LONG","c":["LONG"]} > {"id":1,"a":2,"b":"LONG","c":["LONG"]}"#,
        r#"U {"id":1,"a":2,"b":"LONG","c":["LONG"]} > {"id":2,"a":2,"b":"LONG","c":["LONG"]}"#,
        r#"U {"id":2,"a":2,"b":"LONG","c":["LONG"]} > {"id":2,"a":2,"b":null,"c":["LONG"]}"#,
        r#"D {"id":2,"a":2,"b":null,"c":["LONG"]}"#,
    ];
    check(&LARGE.replace("$identity", "full"), &expected).await
}

#[tokio::test]
async fn large_values_under_default() -> Result<()> {
    let expected = [
        r#"I {"id":1,"a":1,"b":"LONG","c":["LONG"]}"#,
        r#"U  > {"id":1,"a":2} !b,c"#,
        r#"U {"id":1} > {"id":2,"a":2} !b,c"#,
        r#"U  > {"id":2,"a":2,"b":null} !c"#,
        r#"D {"id":2}"#,
    ];
    check(&LARGE.replace("$identity", "default"), &expected).await
}

#[tokio::test]
async fn tables_altered_inside_a_transaction() -> Result<()> {
    let statements = r#"
        create table t (id int primary key, a int, g int generated always as (a * 2) stored);
        create type mood as enum ('good');
        begin;
        insert into t values (1, 1);
        alter table t add b mood default 'good';
        insert into t values (2, 2);
        alter table t drop a cascade;
        insert into t values (3, 'good');
        alter table t rename b to "B ""b""";
        alter table t alter id type text;
        insert into t values ('4', null);
        alter table t rename to "Ü";
        create table t (b bool primary key);
        insert into t values (true);
        commit;
        truncate t, "Ü";"#;
    let expected = [
        r#"I {"id":1,"a":1}"#,
        r#"I {"id":2,"a":2,"b":"good"}"#,
        r#"I {"id":3,"b":"good"}"#,
        r#"I {"id":"4","B \"b\"":null}"#,
        r#"I {"b":true}"#,
        "T t",
        "T Ü",
    ];
    check(statements, &expected).await
}
