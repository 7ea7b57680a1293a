//! What could not be judged is told apart from what is denied; and what can be done beforehand.

use std::collections::BTreeMap;

use anyhow::Result;
use walcast_change::Change;
use walcast_rls::{PostgresCheck, Question, RowCheck, Verdict, Version};

use crate::rig::{ALICE, BOB, Rig, user};

const TABLES: &str = "
    CREATE TABLE docs (id int PRIMARY KEY, team text); CREATE TABLE members (team text, who uuid);
    ALTER TABLE docs ENABLE ROW LEVEL SECURITY; GRANT SELECT ON docs, members TO authenticated;
    CREATE POLICY p ON docs USING (EXISTS (SELECT FROM members m WHERE lower(m.team) = lower(docs.team) AND m.who = auth.uid()));";

/// Each viewer's verdict on the new row.
async fn verdicts(check: &mut PostgresCheck, change: &Change) -> BTreeMap<u32, Verdict> {
    let question = Question {
        row: change.new().expect("a new row").clone(),
        version: Version::New,
        xid: Some(change.xid),
        viewers: Vec::new(),
        among: None,
    };
    let found = check.sweep(&[question], &|_, _| true).await;
    let sightings = found.into_iter().flatten();
    sightings
        .map(|sighting| (sighting.viewer, sighting.verdict))
        .collect()
}

#[tokio::test]
async fn a_lock_leaves_the_verdict_open() -> Result<()> {
    let mut rig = Rig::new(&format!(
        "{TABLES} INSERT INTO members VALUES ('A', '{ALICE}')"
    ))
    .await?;
    let mut check = rig.check().await?;
    check.watch(1, &user(ALICE, ""), "public", Some("docs"));
    check.watch(2, &user(ALICE, r#""iat": 1"#), "public", Some("docs"));
    check.watch(3, &user(BOB, ""), "public", Some("docs"));
    let change = rig.change("INSERT INTO docs VALUES (1, 'a')").await?;
    let found = verdicts(&mut check, &change).await;
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 2]);
    let blocking = rig.postgres.connect("postgres", &rig.database).await?;
    blocking.batch_execute("BEGIN; LOCK TABLE members").await?;
    let found = verdicts(&mut check, &change).await;
    assert_eq!(
        found,
        [1, 2, 3].map(|number| (number, Verdict::Unjudged)).into(),
        "also for whom another of its group was asked"
    );
    assert_eq!(check.counters().read().unjudged, 2, "of two groups");
    blocking.batch_execute("COMMIT").await?;
    let found = verdicts(&mut check, &change).await;
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert!(
        matches!(found.get(&1), Some(Verdict::Visible(_))),
        "{found:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_row_that_fails_is_denied() -> Result<()> {
    let mut rig = Rig::new(
        "CREATE TABLE docs (id int PRIMARY KEY, n int); ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         GRANT SELECT ON docs TO authenticated; CREATE POLICY p ON docs USING (1 / n > 0)",
    )
    .await?;
    let mut check = rig.check().await?;
    check.watch(1, &user(ALICE, ""), "public", Some("docs"));
    let change = rig.change("INSERT INTO docs VALUES (1, 0)").await?;
    assert_eq!(verdicts(&mut check, &change).await, BTreeMap::new());
    assert_eq!(check.counters().read().unjudged, 0);
    Ok(())
}

#[tokio::test]
async fn claims_are_looked_at_beforehand() -> Result<()> {
    let mut rig = Rig::new(&format!(
        "{TABLES} INSERT INTO members VALUES ('A', '{ALICE}')"
    ))
    .await?;
    let mut check = rig.check().await?;
    assert!(!check.prepare().await, "nobody watches");
    for number in 0..450 {
        let viewer = user(ALICE, &format!(r#""iat": {number}"#));
        check.watch(number, &viewer, "public", Some("docs"));
    }
    check.watch(450, &user(BOB, ""), "public", Some("nothing"));
    check.unwatch(7, "public", Some("docs"));
    let mut portions = 0;
    while check.prepare().await {
        portions += 1;
    }
    assert_eq!(
        portions, 4,
        "bounded, and one for the table that is not there"
    );
    assert_eq!(check.counters().read().projected, 449);
    let change = rig.change("INSERT INTO docs VALUES (1, 'a')").await?;
    assert_eq!(verdicts(&mut check, &change).await.len(), 449);
    assert_eq!(check.counters().read().projected, 449, "known");
    Ok(())
}
