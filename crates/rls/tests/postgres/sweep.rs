//! Who watches is known beforehand: a change finds those who see it, and nobody else.

use std::collections::BTreeSet;

use anyhow::Result;
use walcast_change::Change;
use walcast_rls::{PostgresCheck, Question, RowCheck, Verdict, Version, Viewer};

use crate::rig::{ALICE, BOB, Rig, ask, user, viewer};

/// Those who see the new row of each change, by their place among `watching`.
async fn sweep(check: &mut PostgresCheck, changes: &[Change]) -> Vec<BTreeSet<u32>> {
    sweep_among(check, changes, None).await
}

/// The same for some only.
async fn sweep_among(
    check: &mut PostgresCheck,
    changes: &[Change],
    among: Option<&[u32]>,
) -> Vec<BTreeSet<u32>> {
    let question = |change: &Change| Question {
        row: change.new().expect("a new row").clone(),
        version: Version::New,
        xid: Some(change.xid),
        viewers: Vec::new(),
        among: among.map(Into::into),
    };
    let questions: Vec<Question> = changes.iter().map(question).collect();
    let found = check.sweep(&questions, &|_, _| true).await;
    let seeing = |sightings: &Vec<walcast_rls::Sighting>| {
        let visible = sightings
            .iter()
            .filter(|sighting| matches!(sighting.verdict, Verdict::Visible(_)));
        let viewers: Vec<u32> = visible.map(|sighting| sighting.viewer).collect();
        let set: BTreeSet<u32> = viewers.iter().copied().collect();
        assert_eq!(set.len(), viewers.len(), "each once");
        set
    };
    found.iter().map(seeing).collect()
}

const ROWS: &str = "
    CREATE TABLE docs (id int PRIMARY KEY, owner uuid, tenant varchar(20), team text, n bigint, open boolean, odd numeric);
    CREATE TABLE members (team text, who uuid);
    ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs REPLICA IDENTITY FULL;
    GRANT SELECT ON docs, members TO authenticated, anon;";

/// Who judges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Index,
    Set,
    Image,
}

const POLICIES: [(&str, By); 19] = [
    ("owner = auth.uid()", By::Index),
    ("owner = (SELECT auth.uid())", By::Index),
    ("tenant = (auth.jwt() ->> 'tenant')", By::Index),
    ("owner::text = auth.jwt() ->> 'sub' OR open", By::Index),
    ("n = (auth.jwt() ->> 'n')::int", By::Index),
    (
        "team = ANY (ARRAY(SELECT jsonb_array_elements_text(auth.jwt() -> 'teams')))",
        By::Index,
    ),
    (
        "NOT (tenant = (auth.jwt() ->> 'tenant')) AND auth.role() = 'authenticated'",
        By::Index,
    ),
    ("true", By::Index),
    ("open AND tenant IN ('red', 'blue')", By::Index),
    (
        "owner IS NULL OR owner::text <> auth.jwt() ->> 'sub'",
        By::Index,
    ),
    ("auth.role() = 'anon' OR team = 'x'", By::Index),
    ("odd = (auth.jwt() ->> 'n')::numeric", By::Set),
    (
        "EXISTS (SELECT FROM members m WHERE m.team = docs.team AND m.who = auth.uid())",
        By::Set,
    ),
    ("lower(tenant) = lower(auth.jwt() ->> 'tenant')", By::Image),
    ("n > (auth.jwt() ->> 'n')::int", By::Set),
    (
        "open OR EXISTS (SELECT FROM members m WHERE m.team = docs.team AND m.who = auth.uid())",
        By::Set,
    ),
    (
        "team IN (SELECT m.team FROM members m WHERE m.who = auth.uid()) AND (owner = auth.uid() OR n = 7)",
        By::Set,
    ),
    (
        "NOT EXISTS (SELECT FROM members m WHERE m.team = docs.team AND m.who = auth.uid())",
        By::Set,
    ),
    (
        "team NOT IN (SELECT m.team FROM members m WHERE m.who = auth.uid())",
        By::Set,
    ),
];

fn crowd() -> Vec<Viewer> {
    let mut crowd = vec![
        user(ALICE, r#""tenant": "red", "n": 5, "teams": ["x", "y"]"#),
        user(ALICE, r#""tenant": "blue", "n": 7, "teams": []"#),
        user(BOB, r#""tenant": "red", "n": "5", "teams": ["y", null]"#),
        user(BOB, r#""n": null"#),
        user(
            "no uuid",
            r#""tenant": "RED", "n": "no number", "teams": "none""#,
        ),
        viewer("anon", "{}"),
        viewer(
            "anon",
            r#"{"tenant": "red", "teams": ["x"], "role": "anon"}"#,
        ),
    ];
    crowd.extend((0..5).map(|n| user(ALICE, &format!(r#""tenant": "red", "jti": {n}"#))));
    crowd
}

#[tokio::test]
async fn a_sweep_finds_whom_a_select_finds() -> Result<()> {
    let mut rig = Rig::new(ROWS).await?;
    let crowd = crowd();
    rig.run(&format!(
        "INSERT INTO members VALUES ('x', '{ALICE}'), ('y', '{BOB}')"
    ))
    .await?;
    for (at, (policy, by)) in POLICIES.into_iter().enumerate() {
        rig.run(&format!(
            "DROP POLICY IF EXISTS p ON docs; CREATE POLICY p ON docs USING ({policy}); DELETE FROM docs;
             ALTER TABLE docs REPLICA IDENTITY FULL"
        ))
        .await?;
        rig.changes().await?;
        rig.run(&format!(
            "INSERT INTO docs VALUES (1, '{ALICE}', 'red', 'x', 5, true, 5.0), (2, '{BOB}', 'blue', 'y', 7, false, 7),
               (3, NULL, NULL, NULL, NULL, NULL, NULL), (4, '{ALICE}', 'RED', 'z', 6, NULL, 'NaN')"
        ))
        .await?;
        let changes = rig.changes().await?;
        let mut check = rig.check().await?;
        for (number, viewer) in crowd.iter().enumerate() {
            let table = (number % 2 == 0).then_some("docs");
            check.watch(number as u32, viewer, "public", table);
        }
        let found = sweep(&mut check, &changes).await;
        let mut expected = Vec::new();
        for id in 1..=4 {
            let mut seeing = BTreeSet::new();
            for (number, viewer) in crowd.iter().enumerate() {
                if rig.finds(viewer, "docs", &format!("id = {id}")).await {
                    seeing.insert(number as u32);
                }
            }
            expected.push(seeing);
        }
        assert_eq!(found, expected, "{policy}");
        assert_eq!(
            sweep(&mut check, &changes).await,
            expected,
            "{policy}, again"
        );
        let counts = check.counters().read();
        let judged = match (counts.index.visible > 0, counts.set.visible > 0) {
            (true, _) => By::Index,
            (_, true) => By::Set,
            _ => By::Image,
        };
        assert_eq!(judged, by, "{policy}: {counts:?}");
        for among in [
            &[][..],
            &[2],
            &[0, 1, 3, 6, 9, 77],
            &[0, 2, 4, 6, 8, 10, 11],
        ] {
            let among: BTreeSet<u32> = among.iter().copied().collect();
            let numbers: Vec<u32> = among.iter().copied().collect();
            let found = sweep_among(&mut check, &changes, Some(&numbers)).await;
            let expected: Vec<BTreeSet<u32>> = expected.iter().map(|row| row & &among).collect();
            assert_eq!(found, expected, "{policy}, among {among:?}");
        }
        // The same as a batch that names everybody.
        let dense: Vec<BTreeSet<u32>> = ask(&mut check, &changes, &crowd)
            .await
            .iter()
            .map(|row| {
                let seeing = row
                    .iter()
                    .enumerate()
                    .filter(|(_, seen)| **seen == Some(true));
                seeing.map(|(number, _)| number as u32).collect()
            })
            .collect();
        assert_eq!(dense, expected, "{policy}, a batch ({at})");
    }
    Ok(())
}

#[tokio::test]
async fn who_comes_and_goes() -> Result<()> {
    let mut rig = Rig::new(ROWS).await?;
    rig.run("CREATE POLICY p ON docs USING (owner = auth.uid())")
        .await?;
    let mut check = rig.check().await?;
    let changes = [rig
        .change(&format!("INSERT INTO docs VALUES (1, '{ALICE}')"))
        .await?];
    let alice = user(ALICE, "");
    let set = |numbers: &[u32]| vec![numbers.iter().copied().collect::<BTreeSet<u32>>()];
    assert_eq!(sweep(&mut check, &changes).await, set(&[]));
    check.watch(1, &alice, "public", Some("docs"));
    check.watch(1, &alice, "public", None);
    check.watch(2, &alice, "public", Some("members"));
    check.watch(3, &user(BOB, ""), "public", Some("docs"));
    assert_eq!(sweep(&mut check, &changes).await, set(&[1]));
    check.watch(4, &alice, "public", Some("docs"));
    assert_eq!(sweep(&mut check, &changes).await, set(&[1, 4]));
    check.unwatch(1, "public", Some("docs"));
    check.unwatch(2, "public", Some("docs")); // never did
    assert_eq!(sweep(&mut check, &changes).await, set(&[1, 4]));
    check.unwatch(1, "public", None);
    check.unwatch(1, "public", None);
    assert_eq!(sweep(&mut check, &changes).await, set(&[4]));
    Ok(())
}

/// What a function of the policies reads is known anew with the next batch, however deep it lies.
#[tokio::test]
async fn a_function_behind_a_function_changes() -> Result<()> {
    let mut rig = Rig::new(ROWS).await?;
    rig.run("CREATE POLICY p ON docs USING (owner = auth.uid())")
        .await?;
    let mut check = rig.check().await?;
    let changes = [rig
        .change(&format!("INSERT INTO docs VALUES (1, '{ALICE}')"))
        .await?];
    check.watch(1, &user(ALICE, ""), "public", None);
    check.watch(2, &user(BOB, ""), "public", None);
    let set = |numbers: &[u32]| vec![numbers.iter().copied().collect::<BTreeSet<u32>>()];
    assert_eq!(sweep(&mut check, &changes).await, set(&[1]));
    rig.run(&format!(
        "CREATE OR REPLACE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
           $$ SELECT jsonb_build_object('sub', CASE current_setting('request.jwt.claims')::jsonb ->> 'sub'
                WHEN '{BOB}' THEN '{ALICE}' ELSE '{BOB}' END) $$"
    ))
    .await?;
    assert_eq!(sweep(&mut check, &changes).await, set(&[2]));
    rig.run("DROP POLICY p ON docs; CREATE POLICY p ON docs USING (owner <> auth.uid())")
        .await?;
    assert_eq!(sweep(&mut check, &changes).await, set(&[1]));
    rig.run("REVOKE SELECT ON docs FROM authenticated").await?;
    assert_eq!(sweep(&mut check, &changes).await, set(&[]));
    Ok(())
}

/// Statements for all viewers find these in a temporary relation, where the login may make one; and
/// who comes and goes is found as before.
#[tokio::test]
async fn with_and_without_a_relation_of_the_session() -> Result<()> {
    for (rights, expected) in [
        ("", 1),
        (
            "REVOKE TEMPORARY ON DATABASE {db} FROM PUBLIC; GRANT TEMPORARY ON DATABASE {db} TO checker",
            1,
        ),
        ("REVOKE TEMPORARY ON DATABASE {db} FROM PUBLIC", 0),
    ] {
        let mut rig = Rig::new(&format!(
            "{ROWS} CREATE POLICY p ON docs USING (EXISTS (SELECT FROM members m WHERE m.team = docs.team AND m.who = auth.uid()) AND coalesce(auth.jwt() ->> 'banned', 'no') <> docs.team);
             ALTER TABLE members REPLICA IDENTITY FULL; INSERT INTO members VALUES ('x', '{ALICE}'), ('y', '{BOB}')"
        ))
        .await?;
        rig.run(&rights.replace("{db}", &rig.database)).await?;
        let mut check = rig.check().await?;
        let x = rig
            .change("INSERT INTO docs (id, team) VALUES (1, 'x')")
            .await?;
        let y = rig
            .change("INSERT INTO docs (id, team) VALUES (2, 'y')")
            .await?;
        let changes = [x, y];
        let (alice, bob) = (user(ALICE, ""), user(BOB, ""));
        check.watch(1, &alice, "public", Some("docs"));
        let expect = |sets: [&[u32]; 2]| sets.map(|set| set.iter().copied().collect()).to_vec();
        assert_eq!(
            sweep(&mut check, &changes).await,
            expect([&[1], &[]]),
            "{rights}"
        );
        check.watch(2, &bob, "public", Some("docs"));
        check.watch(3, &user(BOB, r#""iat": 1"#), "public", Some("docs"));
        assert_eq!(
            sweep(&mut check, &changes).await,
            expect([&[1], &[2, 3]]),
            "{rights}"
        );
        check.unwatch(1, "public", Some("docs"));
        check.unwatch(3, "public", Some("docs"));
        assert_eq!(
            sweep(&mut check, &changes).await,
            expect([&[], &[2]]),
            "{rights}"
        );
        check.watch(4, &alice, "public", Some("docs"));
        assert_eq!(
            sweep(&mut check, &changes).await,
            expect([&[4], &[2]]),
            "{rights}"
        );
        rig.run("UPDATE members SET team = 'y'").await?;
        assert_eq!(
            sweep(&mut check, &changes).await,
            expect([&[], &[2, 4]]),
            "{rights}"
        );
        let counts = check.counters().read();
        assert_eq!(
            (counts.set.visible, counts.image.visible),
            (9, 0),
            "{rights}: {counts:?}"
        );
        let sql = "SELECT count(*) FROM pg_class WHERE relname LIKE 'walcast\\_viewers\\_%' AND relkind = 'r' AND reltuples > 0";
        let relations: i64 = rig.admin.query_one(sql, &[]).await?.get(0);
        assert_eq!(relations, expected, "{rights}");
    }
    Ok(())
}
