//! Rows that the stream gives in part: keys alone, and long values that an UPDATE left alone.

use anyhow::Result;
use walcast_rls::RowCheck;

use crate::rig::{ALICE, BOB, NO, Rig, YES, ask, batch, user, viewer};

/// Replica identity DEFAULT: an old row is its key, a new one lacks unchanged long values.
const DOCS: &str = "
    CREATE TABLE docs (id citext_like PRIMARY KEY, owner uuid, body text);
    ALTER TABLE docs ALTER COLUMN body SET STORAGE EXTERNAL;";

fn setup(policy: &str) -> String {
    format!(
        "CREATE DOMAIN citext_like AS text; {DOCS} GRANT SELECT ON docs TO PUBLIC; ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         INSERT INTO docs VALUES ('1', '{ALICE}', repeat('a', 10000)), ('2', '{ALICE}', repeat('b', 10000)); CREATE POLICY p ON docs USING ({policy});"
    )
}

#[tokio::test]
async fn a_key_is_judged_if_the_policy_reads_no_more() -> Result<()> {
    for (policy, expected) in [
        ("id = '1'", vec![YES, NO]),
        ("id = '1' OR owner = auth.uid()", vec![None, None]),
        ("docs.* IS NOT NULL", vec![None, None]),
    ] {
        let mut rig = Rig::new(&setup(policy)).await?;
        let mut check = rig.check().await?;
        rig.run("DELETE FROM docs WHERE id = '1'").await?;
        rig.run("DELETE FROM docs WHERE id = '2'").await?;
        let changes = rig.changes().await?;
        let seen = ask(&mut check, &changes, &[user(ALICE, "")]).await;
        assert_eq!(seen.concat(), expected, "{policy}");
    }
    Ok(())
}

#[tokio::test]
async fn unchanged_long_values_are_read_from_the_table() -> Result<()> {
    let mut rig = Rig::new(&setup("body LIKE 'a%' AND owner IS NULL")).await?;
    let mut check = rig.check().await?;
    rig.run("UPDATE docs SET owner = NULL WHERE id = '1'")
        .await?;
    rig.run("UPDATE docs SET owner = NULL WHERE id = '2'")
        .await?;
    let changes = rig.changes().await?;
    let viewers = [user(ALICE, ""), viewer("none", "{}")];
    assert_eq!(
        ask(&mut check, &changes, &viewers).await,
        [vec![YES, NO], vec![NO, NO]]
    );
    assert_eq!(check.counters().read().key.visible, 1);
    Ok(())
}

/// The row has changed since: what was sent then is not shown on the strength of what is there now.
#[tokio::test]
async fn a_row_that_has_moved_on_is_not_visible() -> Result<()> {
    let mut rig = Rig::new(&setup("body LIKE 'a%' OR body = 'public'")).await?;
    let mut check = rig.check().await?;
    rig.run(&format!("UPDATE docs SET owner = '{ALICE}' WHERE id = '2'"))
        .await?;
    rig.run("UPDATE docs SET owner = NULL WHERE id = '2'")
        .await?;
    rig.run("UPDATE docs SET body = 'public' WHERE id = '2'")
        .await?;
    let changes = rig.changes().await?;
    assert_eq!(changes.len(), 3);
    // The second image equals the row of now in all that it has; the first does not.
    assert_eq!(
        ask(&mut check, &changes, &[user(ALICE, "")]).await,
        [vec![NO], vec![YES], vec![YES]]
    );
    rig.run("DELETE FROM docs").await?;
    assert_eq!(
        ask(&mut check, &changes, &[user(ALICE, "")]).await,
        [vec![NO], vec![NO], vec![YES]]
    );
    Ok(())
}

/// A change may arrive before its transaction is visible to others. Then the policy that looks into
/// another table waits for it.
#[tokio::test]
async fn a_transaction_that_is_not_visible_yet_is_waited_for() -> Result<()> {
    let mut rig = Rig::new(
        "CREATE TABLE docs (id int PRIMARY KEY, owner uuid); CREATE TABLE members (doc int, who uuid); GRANT SELECT ON docs, members TO PUBLIC;
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON docs USING (EXISTS (SELECT FROM members WHERE doc = docs.id AND who = auth.uid()));",
    )
    .await?;
    let mut check = rig.check().await?;
    let changes = [rig.change("INSERT INTO docs VALUES (1, NULL)").await?];
    // An open transaction stands for one that has committed and is not visible: the same to others.
    let writer = rig.postgres.connect("postgres", &rig.database).await?;
    writer
        .batch_execute(&format!("BEGIN; INSERT INTO members VALUES (1, '{ALICE}')"))
        .await?;
    let xid: String = writer
        .query_one("SELECT pg_current_xact_id()::text", &[])
        .await?
        .get(0);
    let mut asked = batch(&changes, &[user(ALICE, "")]);
    for question in &mut asked.questions {
        question.xid = Some(walcast_pgoutput::Xid(xid.parse::<u64>()? as u32));
    }
    let counters = check.counters();
    let (answers, committed) = tokio::join!(check.check(&asked), async {
        walcast_harness::eventually(std::time::Duration::from_secs(60), async || {
            (counters.read().waits > 2).then_some(())
        })
        .await?;
        writer.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    });
    committed?;
    assert!(answers.get(0, 0).is_some());
    // The same where one statement judges all who watch.
    check.watch(7, &user(BOB, ""), "public", Some("docs"));
    writer
        .batch_execute(&format!("BEGIN; INSERT INTO members VALUES (1, '{BOB}')"))
        .await?;
    let xid: String = writer
        .query_one("SELECT pg_current_xact_id()::text", &[])
        .await?
        .get(0);
    for question in &mut asked.questions {
        question.xid = Some(walcast_pgoutput::Xid(xid.parse::<u64>()? as u32));
    }
    let waits = counters.read().waits;
    let (found, committed) = tokio::join!(check.sweep(&asked.questions, &|_, _| true), async {
        walcast_harness::eventually(std::time::Duration::from_secs(60), async || {
            (counters.read().waits > waits + 2).then_some(())
        })
        .await?;
        writer.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    });
    committed?;
    let seeing: Vec<u32> = found.concat().iter().map(|seen| seen.viewer).collect();
    assert_eq!((seeing, counters.read().set.visible), (vec![7], 1));
    Ok(())
}
