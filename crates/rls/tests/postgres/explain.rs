//! What the operator is told of each role.

use anyhow::Result;
use walcast_rls::{ExplainError, explain};

use crate::rig::Rig;

#[tokio::test]
async fn each_tier_and_its_reason() -> Result<()> {
    let rig = Rig::new(
        "CREATE TABLE docs (id int PRIMARY KEY, owner uuid, team int);
         CREATE TABLE members (team int, who uuid); GRANT SELECT ON docs, members TO PUBLIC;
         ALTER TABLE docs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY a ON docs TO authenticated USING (owner = auth.uid());
         CREATE POLICY b ON docs TO editor USING (EXISTS (SELECT FROM members m WHERE m.team = docs.team AND m.who = auth.uid()));
         CREATE POLICY c ON docs TO auditor USING (id + 1 > (auth.jwt() ->> 'level')::int);
         CREATE POLICY d ON docs TO holder USING (random() < 0.5)",
    )
    .await?;
    let found = explain(&rig.config(), "public", "docs", None).await?;
    let told = |role: &str| {
        let one = found.iter().find(|one| one.role == role);
        one.unwrap_or_else(|| panic!("nothing about {role}"))
            .clone()
    };
    for (role, tier, reason) in [
        ("authenticated", "index", "lookup"),
        ("editor", "set", "one statement for all viewers"),
        ("auditor", "image", "each group of viewers"),
        ("holder", "image", "by itself: it uses the function random"),
        ("anon", "nobody", "no policy"),
        ("service_role", "privileges", "no policies apply"),
    ] {
        let one = told(role);
        assert_eq!(one.tier, tier, "{one}");
        assert!(one.reason.contains(reason), "{one}");
    }
    assert_eq!(told("editor").claims, ["auth.uid()"]);
    assert!(!told("editor").plan.is_empty() && !told("auditor").plan.is_empty());
    assert!(told("editor").to_string().contains("walcast_viewers"));
    let missing = explain(&rig.config(), "public", "nothing", None).await;
    assert!(matches!(missing, Err(ExplainError::NoTable { .. })));
    Ok(())
}
