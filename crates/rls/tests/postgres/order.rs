//! Columns that stand in one order in the stream, and in another in what is behind it: all are known.

use anyhow::Result;

use crate::rig::{ALICE, BOB, NO, Rig, YES, ask, user};

/// Name, tables, and what writes ALICE's row into them as they are then.
const CASES: [(&str, &str, &str); 6] = [
    (
        "a leaf with another order, and columns of its own past",
        "CREATE TABLE docs (id int PRIMARY KEY, gone int, owner uuid, peer uuid, body text) PARTITION BY RANGE (id);
         CREATE TABLE leaf (was int, body text, peer uuid, owner uuid, gone int, id int NOT NULL, PRIMARY KEY (id));
         ALTER TABLE leaf DROP was; ALTER TABLE docs ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10);
         ALTER TABLE docs DROP gone",
        "INSERT INTO docs (id, owner, peer, body) VALUES (1, '{A}', '{B}', 'x')",
    ),
    (
        "written to the leaf itself",
        "CREATE TABLE docs (id int PRIMARY KEY, owner uuid, peer uuid) PARTITION BY RANGE (id);
         CREATE TABLE leaf (peer uuid, owner uuid, id int NOT NULL, PRIMARY KEY (id));
         ALTER TABLE docs ATTACH PARTITION leaf FOR VALUES FROM (0) TO (10)",
        "INSERT INTO leaf (id, owner, peer) VALUES (1, '{A}', '{B}')",
    ),
    (
        "columns dropped and added, and one made anew",
        "CREATE TABLE docs (gone int, id int PRIMARY KEY, owner uuid, body text, peer uuid);
         ALTER TABLE docs DROP gone, DROP owner, ADD n int, ADD owner uuid; ALTER TABLE docs DROP n",
        "INSERT INTO docs (id, owner, peer) VALUES (1, '{A}', '{B}')",
    ),
    (
        "generated ones between",
        "CREATE TABLE docs (a int GENERATED ALWAYS AS (id + 1) STORED, id int PRIMARY KEY, b int GENERATED ALWAYS AS (id + 2) STORED, peer uuid, owner uuid)",
        "INSERT INTO docs (id, owner, peer) VALUES (1, '{A}', '{B}')",
    ),
    (
        "the publication lists some, in another order",
        "CREATE TABLE docs (x int, y int, id int PRIMARY KEY, z int, peer uuid, owner uuid)",
        "INSERT INTO docs (id, owner, peer) VALUES (1, '{A}', '{B}')",
    ),
    (
        "a child that merged its parents' columns",
        "CREATE TABLE upper (body text, owner uuid); CREATE TABLE other (peer uuid, owner uuid);
         CREATE TABLE docs (id int PRIMARY KEY, peer uuid) INHERITS (upper, other)",
        "INSERT INTO docs (id, owner, peer) VALUES (1, '{A}', '{B}')",
    ),
];

#[tokio::test]
async fn every_column_of_a_row_of_today_is_known() -> Result<()> {
    for (name, sql, insert) in CASES {
        let fill = |sql: &str| sql.replace("{A}", ALICE).replace("{B}", BOB);
        let mut rig = Rig::new(&format!(
            "{sql}; ALTER TABLE docs ENABLE ROW LEVEL SECURITY; GRANT SELECT ON docs TO authenticated;
             CREATE POLICY p ON docs USING (owner = auth.uid())"
        ))
        .await?;
        if name.starts_with("the publication") {
            let sql = "DROP PUBLICATION realtime; CREATE PUBLICATION realtime FOR TABLE docs (owner, peer, id)";
            rig.run(sql).await?;
        }
        let changes = [rig.change(&fill(insert)).await?];
        let viewers = [user(ALICE, ""), user(BOB, "")];
        for viewer in &viewers {
            assert_eq!(
                rig.finds(viewer, "docs", "id = 1").await,
                *viewer == viewers[0],
                "{name}"
            );
        }
        let mut check = rig.check().await?;
        assert_eq!(
            ask(&mut check, &changes, &viewers).await,
            [[YES, NO]],
            "{name}"
        );
    }
    Ok(())
}
