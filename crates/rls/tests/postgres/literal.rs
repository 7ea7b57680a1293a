//! Any text goes through the image and comes out as it was.

use anyhow::Result;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::rig::{Rig, YES, ask, viewer};

fn texts() -> impl Strategy<Value = Vec<Option<String>>> {
    let piece = prop_oneof![
        Just(String::new()),
        Just("NULL".to_owned()),
        "[\"\\\\,(){}' \n\t]{0,8}",
        "[^\0]{0,12}",
    ];
    proptest::collection::vec(proptest::option::of(piece), 3)
}

/// The policy compares the image with the row in the table, NULLs and all.
#[tokio::test(flavor = "multi_thread")]
async fn images_equal_their_rows() -> Result<()> {
    let mut rig = Rig::new(
        "CREATE TABLE docs (id int PRIMARY KEY, a text, b text[], c text); GRANT SELECT ON docs TO PUBLIC;
         CREATE TABLE truth (id int PRIMARY KEY, a text, b text[], c text); GRANT SELECT ON truth TO PUBLIC;
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON docs USING (EXISTS (SELECT FROM truth t WHERE t.id = docs.id AND (t.a, t.b, t.c) IS NOT DISTINCT FROM (docs.a, docs.b, docs.c)));",
    )
    .await?;
    let mut check = rig.check().await?;
    let mut runner = TestRunner::new(Config::default());
    let rows: Vec<Vec<Option<String>>> = (0..300)
        .map(|_| texts().new_tree(&mut runner).map(|tree| tree.current()))
        .collect::<Result<_, _>>()
        .map_err(|reason| anyhow::anyhow!("{reason}"))?;
    let insert = rig.admin.prepare("WITH t AS (INSERT INTO truth VALUES ($1, $2, ARRAY[$3::text, $2], $4) RETURNING *) INSERT INTO docs SELECT * FROM t").await?;
    for (id, row) in rows.iter().enumerate() {
        rig.admin
            .execute(&insert, &[&(id as i32), &row[0], &row[1], &row[2]])
            .await?;
    }
    let mut changes = rig.changes().await?;
    changes.retain(|change| &*change.shape.table == "docs");
    assert_eq!(changes.len(), rows.len());
    let seen = ask(&mut check, &changes, &[viewer("anon", "{}")]).await;
    for (row, seen) in rows.iter().zip(seen) {
        assert_eq!(seen, [YES], "{row:?}");
    }
    Ok(())
}
