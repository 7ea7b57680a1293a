//! Column privileges, for tables with and without policies.

use anyhow::Result;
use walcast_rls::{Answers, RowCheck, Verdict};

use crate::rig::{ALICE, BOB, NO, Rig, YES, ask, batch, user, viewer};

#[tokio::test]
async fn columns_without_privilege_are_absent() -> Result<()> {
    let mut rig = Rig::new(
        "CREATE TABLE docs (id int PRIMARY KEY, secret text, body text); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON docs USING (secret <> 'x'); ALTER TABLE docs REPLICA IDENTITY FULL;
         GRANT SELECT (id, body) ON docs TO anon; GRANT SELECT ON docs TO editor; GRANT SELECT (body) ON docs TO auditor;
         GRANT SELECT (id) ON docs TO service_role;",
    )
    .await?;
    let mut check = rig.check().await?;
    let changes = [rig.change("INSERT INTO docs VALUES (1, 's', 'b')").await?];
    let viewers =
        ["anon", "editor", "auditor", "holder", "service_role"].map(|role| viewer(role, "{}"));
    let expected: [Option<Vec<usize>>; 5] = [
        Some(vec![0, 2]), // a policy may read what the role may not
        Some(vec![0, 1, 2]),
        None, // no column of the key
        None,
        Some(vec![0]),
    ];
    for (viewer, expected) in viewers
        .iter()
        .zip(&expected)
        .filter(|(viewer, _)| &*viewer.role != "auditor")
    {
        assert_eq!(
            rig.finds(viewer, "docs", "id = 1").await,
            expected.is_some(),
            "{viewer:?}"
        );
    }
    let asked = batch(&changes, &viewers);
    let answers = check.check(&asked).await;
    for (nth, expected) in expected.iter().enumerate() {
        assert_eq!(visible(&answers, nth), *expected, "{:?}", viewers.get(nth));
    }
    Ok(())
}

/// The columns of the first question's row that a viewer sees.
fn visible(answers: &Answers, nth: usize) -> Option<Vec<usize>> {
    match answers.verdict(0, nth) {
        Verdict::Visible(columns) => Some(columns.iter().collect()),
        _ => None,
    }
}

/// A row from before two columns changed places has them under names that mean the other by now: it is
/// neither judged by them, nor are they shown to who may read the other.
#[tokio::test]
async fn names_that_mean_another_column_by_now() -> Result<()> {
    let mut rig = Rig::new(
        "CREATE TABLE docs (id int PRIMARY KEY, owner uuid, peer uuid); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON docs USING (owner = auth.uid()); ALTER TABLE docs REPLICA IDENTITY FULL;
         GRANT SELECT (id, owner) ON docs TO authenticated; GRANT SELECT (id, owner) ON docs TO service_role",
    )
    .await?;
    let row = |id: u32| format!("INSERT INTO docs VALUES ({id}, '{ALICE}', '{BOB}')");
    let new = [rig.change(&row(1)).await?];
    rig.change(&row(2)).await?;
    let old = [rig.change("DELETE FROM docs WHERE id = 2").await?];
    let viewers = [user(ALICE, ""), user(BOB, ""), viewer("service_role", "{}")];
    let mut check = rig.check().await?;
    let answers = check.check(&batch(&new, &viewers)).await;
    let seen = [0, 1, 2].map(|nth| visible(&answers, nth));
    assert_eq!(seen, [Some(vec![0, 1]), None, Some(vec![0, 1])]);
    let swap = "ALTER TABLE docs RENAME owner TO was; ALTER TABLE docs RENAME peer TO owner; ALTER TABLE docs RENAME was TO peer";
    rig.run(swap).await?;
    check.invalidate(); // as the pipeline does when the stream describes the table anew
    assert!(rig.finds(&viewers[0], "docs", "id = 1").await);
    assert!(!rig.finds(&viewers[1], "docs", "id = 1").await);
    let answers = check.check(&batch(&new, &viewers)).await;
    let seen = [0, 1, 2].map(|nth| visible(&answers, nth));
    assert_eq!(seen, [Some(vec![0]), None, Some(vec![0])]);
    let seen = ask(&mut check, &old, &viewers).await;
    assert_eq!(seen, [[None, None, YES]], "the row is gone");
    rig.run(swap).await?; // and back
    check.invalidate();
    let seen = ask(&mut check, &old, &viewers).await;
    assert_eq!(seen, [[YES, NO, YES]]);
    Ok(())
}

/// The same where the column that had the name is gone, or has a new one: a row from before is not
/// judged by it.
#[tokio::test]
async fn names_of_columns_that_are_gone() -> Result<()> {
    let made =
        "CREATE POLICY p ON docs USING (owner = auth.uid()); GRANT SELECT ON docs TO authenticated";
    for columns in ["owner uuid, peer uuid", "peer uuid, owner uuid"] {
        for gone in ["DROP owner CASCADE", "RENAME owner TO was"] {
            let mut rig = Rig::new(&format!(
                "CREATE TABLE docs (id int PRIMARY KEY, {columns}); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
                 ALTER TABLE docs REPLICA IDENTITY FULL; {made}"
            ))
            .await?;
            let insert =
                format!("INSERT INTO docs (id, owner, peer) VALUES (1, '{ALICE}', '{BOB}')");
            rig.change(&insert).await?;
            let old = [rig.change("DELETE FROM docs").await?];
            let viewers = [user(ALICE, ""), user(BOB, "")];
            let mut check = rig.check().await?;
            let case = format!("{columns}; {gone}");
            let seen = ask(&mut check, &old, &viewers).await;
            assert_eq!(seen, [[YES, NO]], "{case}");
            rig.run(&format!(
                "DROP POLICY p ON docs; ALTER TABLE docs {gone}; ALTER TABLE docs RENAME peer TO owner; {made}"
            ))
            .await?;
            let seen = ask(&mut check, &old, &viewers).await;
            assert_eq!(seen, [[None, None]], "{case}");
        }
    }
    Ok(())
}

/// Who sees the row of now does not see what the stream had in a column that can't be compared with it.
#[tokio::test]
async fn a_renamed_column_is_not_shown_on_the_strength_of_the_row_of_now() -> Result<()> {
    let mut rig = Rig::new(
        "CREATE TABLE docs (id int PRIMARY KEY, owner uuid, body text); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY p ON docs USING (owner = auth.uid()); GRANT SELECT ON docs TO authenticated",
    )
    .await?;
    let insert = format!("INSERT INTO docs VALUES (1, '{ALICE}', 'x')");
    let change = [rig.change(&insert).await?];
    rig.run(&format!(
        "ALTER TABLE docs RENAME owner TO keeper; UPDATE docs SET keeper = '{BOB}'"
    ))
    .await?;
    let viewers = [user(ALICE, ""), user(BOB, "")];
    let mut check = rig.check().await?;
    let answers = check.check(&batch(&change, &viewers)).await;
    let seen = [0, 1].map(|nth| visible(&answers, nth));
    assert_eq!(seen, [None, Some(vec![0, 2])], "not who the owner was");
    Ok(())
}
