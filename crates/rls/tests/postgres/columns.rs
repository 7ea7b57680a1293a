//! Column privileges, for tables with and without policies.

use anyhow::Result;
use walcast_rls::{RowCheck, Verdict};

use crate::rig::{Rig, batch, viewer};

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
        let found = match answers.verdict(0, nth) {
            Verdict::Visible(columns) => Some(columns.iter().collect::<Vec<_>>()),
            _ => None,
        };
        assert_eq!(found, *expected, "{:?}", viewers.get(nth));
    }
    Ok(())
}
