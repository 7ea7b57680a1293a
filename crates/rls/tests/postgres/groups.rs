//! Many viewers of many roles at once: nobody is judged as somebody else.

use anyhow::Result;
use walcast_rls::{
    Batch, CheckConfig, PostgresCheck, Question, RowCheck, Verdict, Version, Viewer,
};

use crate::rig::{Rig, batch, table, user, viewer};

const DOCS: &str = "
    CREATE TABLE docs (id int PRIMARY KEY, reader text, number text);
    ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs REPLICA IDENTITY FULL; GRANT SELECT ON docs TO PUBLIC;
    CREATE POLICY own ON docs USING (reader = current_user AND number = auth.jwt() ->> 'number');
    CREATE POLICY all_of_it ON docs TO auditor USING (id % 7 = 0);
    CREATE TABLE other (id int PRIMARY KEY, reader text); GRANT SELECT ON other TO anon; GRANT SELECT (reader) ON other TO editor;";

/// 60 viewers of six roles, 240 changes of two tables, in one batch over one and over three sessions.
#[tokio::test]
async fn sixty_viewers_of_six_roles() -> Result<()> {
    let mut rig = Rig::new(DOCS).await?;
    let roles = [
        "anon",
        "authenticated",
        "editor",
        "senior",
        "auditor",
        "holder",
    ];
    let viewers: Vec<Viewer> = (0..60)
        .map(|n| viewer(roles[n % 6], &format!(r#"{{"number": "{}"}}"#, n / 6)))
        .collect();
    rig.run(
        "INSERT INTO docs SELECT n, (ARRAY['anon', 'authenticated', 'editor', 'senior', 'auditor', 'holder'])[1 + n % 6], (n / 6 % 10)::text
           FROM generate_series(0, 119) n;
         INSERT INTO other SELECT n, 'x' FROM generate_series(0, 59) n; UPDATE docs SET number = '5' WHERE id < 60",
    )
    .await?;
    let changes = rig.changes().await?;
    let asked = batch(&changes, &viewers);
    assert_eq!(asked.questions.len(), 120 + 60 + 2 * 60);
    let mut expected = Vec::new();
    for question in &asked.questions {
        let text = |at: usize| match question.row.cell(at) {
            walcast_change::Cell::Text(text) => String::from_utf8_lossy(text).into_owned(),
            _ => String::new(),
        };
        let sees = |(n, viewer): (usize, &Viewer)| match &*question.row.shape().table {
            "other" => &*viewer.role == "anon",
            _ if &*viewer.role == "auditor"
                && text(0).parse::<i32>().is_ok_and(|id| id % 7 == 0) =>
            {
                true
            }
            _ => *viewer.role == *text(1) && text(2) == (n / 6).to_string(),
        };
        expected.push(
            viewers
                .iter()
                .enumerate()
                .map(|viewer| Some(sees(viewer)))
                .collect::<Vec<_>>(),
        );
    }
    for connections in [1, 3] {
        let mut check = PostgresCheck::connect(CheckConfig {
            connections,
            ..rig.config()
        })
        .await?;
        for _ in 0..3 {
            let answers = check.check(&asked).await;
            assert_eq!(
                table(&asked, &answers),
                expected,
                "{connections} connections"
            );
        }
    }
    Ok(())
}

/// Each question has viewers of its own, in an order of its own.
#[tokio::test]
async fn only_who_asked_is_answered() -> Result<()> {
    let mut rig = Rig::new(DOCS).await?;
    let mut check = rig.check().await?;
    let change = rig
        .change("INSERT INTO docs VALUES (1, 'anon', '3')")
        .await?;
    let viewers = vec![
        viewer("anon", r#"{"number": "1"}"#),
        viewer("anon", r#"{"number": "3"}"#),
        user("x", ""),
    ];
    let row = change.new().expect("an insert has a new row").clone();
    let question = |viewers: &[u32]| Question {
        row: row.clone(),
        version: Version::New,
        xid: None,
        viewers: viewers.to_vec(),
        among: None,
    };
    let batch = Batch {
        viewers,
        questions: vec![
            question(&[1]),
            question(&[]),
            question(&[2, 1, 0, 1]),
            question(&[99]),
        ],
    };
    let answers = check.check(&batch).await;
    use crate::rig::{NO, YES};
    assert_eq!(
        table(&batch, &answers),
        [vec![YES], vec![], vec![NO, YES, NO, YES], vec![NO]]
    );
    assert_eq!(answers.verdict(7, 0), &Verdict::Hidden);
    Ok(())
}

#[tokio::test]
async fn who_may_hear_of_a_truncation() -> Result<()> {
    let mut rig = Rig::new(DOCS).await?;
    let mut check = rig.check().await?;
    let change = rig.change("TRUNCATE other").await?;
    let viewers = ["anon", "editor", "auditor", "service_role", "none", "boss"]
        .map(|role| viewer(role, "{}"));
    assert_eq!(
        check.table(&change.shape, &viewers).await,
        [true, false, false, false, false, false].map(Some)
    );
    rig.run("GRANT SELECT ON other TO auditor; REVOKE SELECT ON other FROM anon")
        .await?;
    assert_eq!(
        check.table(&change.shape, &viewers).await,
        [false, false, true, false, false, false].map(Some)
    );
    Ok(())
}
