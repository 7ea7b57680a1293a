//! A table that is altered again and again costs the tables beside it nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::sync::oneshot;
use walcast_rls::{Question, RowCheck, Sighting, Verdict, Version};

use crate::rig::{ALICE, BOB, Rig, batch, user};

/// The policy of `restless` takes until its other table has not stood still: it counts alterations, in a
/// sequence, which shows each at once and whatever the snapshot is.
const TABLES: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE SEQUENCE app.alterations; GRANT SELECT ON app.alterations TO PUBLIC;
    CREATE TABLE calm (id int PRIMARY KEY, owner uuid); ALTER TABLE calm ENABLE ROW LEVEL SECURITY;
    CREATE TABLE restless (id int PRIMARY KEY, owner uuid); ALTER TABLE restless ENABLE ROW LEVEL SECURITY;
    CREATE TABLE members (who uuid); INSERT INTO members SELECT NULL;
    CREATE FUNCTION app.slow() RETURNS bool LANGUAGE plpgsql STABLE AS
      $$ DECLARE before bigint := (SELECT last_value FROM app.alterations); BEGIN
           WHILE (SELECT last_value FROM app.alterations) < least(before + 2, 1000000000) LOOP PERFORM pg_sleep(0.005); END LOOP;
           RETURN true;
         END $$;
    CREATE POLICY p ON calm USING (lower(owner::text) = lower(auth.uid()::text));
    CREATE POLICY p ON restless USING (app.slow() AND owner = auth.uid() AND EXISTS (SELECT FROM members));
    GRANT SELECT ON calm, restless, members TO authenticated;";

#[tokio::test]
async fn the_other_tables_of_a_batch_are_judged() -> Result<()> {
    let mut rig = Rig::new(TABLES).await?;
    let changes = [
        rig.change(&format!("INSERT INTO restless VALUES (1, '{ALICE}')"))
            .await?,
        rig.change(&format!("INSERT INTO calm VALUES (1, '{ALICE}')"))
            .await?,
    ];
    let viewers = [user(ALICE, ""), user(BOB, "")];
    let mut check = rig.check().await?;
    for (number, viewer) in (1..).zip(&viewers) {
        check.watch(number, viewer, "public", Some("calm"));
        check.watch(number, viewer, "public", Some("restless"));
    }
    let asked = batch(&changes, &viewers);
    let questions = changes.each_ref().map(|change| Question {
        row: change.new().expect("a new row").clone(),
        version: Version::New,
        xid: Some(change.xid),
        viewers: Vec::new(),
        among: None,
    });

    let (end, ended) = oneshot::channel();
    let storm = tokio::spawn(storm(
        rig.postgres.connect("postgres", &rig.database).await?,
        ended,
    ));
    let answers = check.check(&asked).await;
    let sightings = check.sweep(&questions, &|_, _| true).await;
    let seen = |nth| matches!(answers.verdict(1, nth), Verdict::Visible(_));
    ensure!(seen(0), "{answers:?}");
    ensure!(*answers.verdict(1, 1) == Verdict::Hidden, "{answers:?}");
    ensure!(who_sees(&sightings, 1) == [1], "{sightings:?}");
    // That the test tests something.
    let open = [0, 1].map(|nth| answers.verdict(0, nth).clone());
    ensure!(open == [Verdict::Unjudged, Verdict::Unjudged], "{open:?}");

    let _ = end.send(());
    storm.await??;
    rig.run("SELECT setval('app.alterations', 1000000000)")
        .await?;
    let answers = check.check(&asked).await;
    let sightings = check.sweep(&questions, &|_, _| true).await;
    for table in [0, 1] {
        ensure!(matches!(answers.verdict(table, 0), Verdict::Visible(_)));
        ensure!(*answers.verdict(table, 1) == Verdict::Hidden);
        ensure!(who_sees(&sightings, table) == [1], "{sightings:?}");
    }
    Ok(())
}

/// Grants and revokes what is of no account, until the end.
async fn storm(client: tokio_postgres::Client, mut ended: oneshot::Receiver<()>) -> Result<()> {
    let pause = Duration::from_millis(5);
    loop {
        for sql in [
            "GRANT UPDATE ON members TO anon",
            "REVOKE UPDATE ON members FROM anon",
        ] {
            client.batch_execute(sql).await?;
            let count = "SELECT nextval('app.alterations')";
            client.batch_execute(count).await?;
            if tokio::time::timeout(pause, &mut ended).await.is_ok() {
                return Ok(());
            }
        }
    }
}

/// Who sees the row of a question.
fn who_sees(sightings: &[Vec<Sighting>], question: usize) -> Vec<u32> {
    let found = sightings.get(question).into_iter().flatten();
    let visible = found.filter(|one| matches!(one.verdict, Verdict::Visible(_)));
    visible.map(|one| one.viewer).collect()
}
