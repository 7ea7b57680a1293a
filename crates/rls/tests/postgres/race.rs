//! What is altered while a statement waits: its verdicts are those of before or of after, never those
//! of the old policies' text over the new tables.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};
use walcast_change::Change;
use walcast_harness::eventually;
use walcast_rls::{CheckConfig, PostgresCheck, Question, RowCheck, Tier, Verdict, Version, Viewer};

use crate::rig::{ALICE, BOB, Rig, ask, user};

const DOCS: &str = "
    CREATE SCHEMA app; GRANT USAGE ON SCHEMA app TO PUBLIC;
    CREATE TABLE docs (id int PRIMARY KEY, owner uuid, peer uuid, n int);
    CREATE TABLE members (n int, who uuid, friend uuid);
    ALTER TABLE docs ENABLE ROW LEVEL SECURITY; ALTER TABLE docs REPLICA IDENTITY FULL;
    ALTER TABLE members REPLICA IDENTITY FULL;
    CREATE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n = 1';
    GRANT SELECT ON docs, members TO authenticated;";

/// {A} and {B} stand for the two viewers, {P} for the policy.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    policy: &'static str,
    members: &'static str,
    row: &'static str,
    /// In one transaction, which begins before the statement and ends while it waits for `members`.
    /// ANALYZE makes Postgres look the statement's names up again, as it may at any time.
    ddl: &'static str,
    /// One statement can judge all viewers.
    set: bool,
}

const OWN: &str = "owner = auth.uid() AND EXISTS (SELECT FROM members m WHERE m.who = auth.uid())";
const TEAM: &str = "EXISTS (SELECT FROM members m WHERE m.n = docs.n AND m.who = auth.uid())";
const BOTH: &str = "(1, '{A}', NULL), (1, '{B}', NULL)";

const CASES: [Case; 8] = [
    Case {
        name: "two columns change places",
        policy: OWN,
        members: BOTH,
        row: "(1, '{A}', '{B}', 1)",
        ddl: "ALTER TABLE docs RENAME owner TO was; ALTER TABLE docs RENAME peer TO owner; ALTER TABLE docs RENAME was TO peer; ANALYZE members",
        set: true,
    },
    Case {
        name: "a column is made anew, at the end",
        policy: OWN,
        members: BOTH,
        row: "(1, '{A}', '{B}', 1)",
        ddl: "DROP POLICY p ON docs; ALTER TABLE docs DROP n, DROP owner, ADD owner uuid, ADD n int; CREATE POLICY p ON docs USING ({P}); ANALYZE members",
        set: true,
    },
    Case {
        name: "columns of the other table change places",
        policy: TEAM,
        members: "(1, '{A}', '{B}')",
        row: "(1, NULL, NULL, 1)",
        ddl: "ALTER TABLE members RENAME who TO was; ALTER TABLE members RENAME friend TO who; ALTER TABLE members RENAME was TO friend",
        set: true,
    },
    Case {
        name: "another table has the other's name",
        policy: TEAM,
        members: "(1, '{A}', NULL)",
        row: "(1, NULL, NULL, 1)",
        ddl: "ALTER TABLE members RENAME TO former; CREATE TABLE members AS SELECT 1 AS n, '{B}'::uuid AS who; GRANT SELECT ON members TO authenticated",
        set: true,
    },
    Case {
        name: "what members mean, and how the policy reads it",
        policy: TEAM,
        members: "(1, '{A}', NULL), (-1, '{B}', NULL)",
        row: "(1, NULL, NULL, 1)",
        ddl: "UPDATE members SET n = -n; ALTER POLICY p ON docs USING (EXISTS (SELECT FROM members m WHERE m.n = -docs.n AND m.who = auth.uid()))",
        set: true,
    },
    Case {
        name: "a function, and the policy that calls it",
        policy: "EXISTS (SELECT FROM members m WHERE m.who = auth.uid()) AND app.is_one(n)",
        members: BOTH,
        row: "(1, NULL, NULL, 2)",
        ddl: "CREATE OR REPLACE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n <> 1';
              ALTER POLICY p ON docs USING (EXISTS (SELECT FROM members m WHERE m.who = auth.uid()) AND NOT app.is_one(n))",
        set: false,
    },
    Case {
        name: "a function alone",
        policy: "EXISTS (SELECT FROM members m WHERE m.who = auth.uid()) AND app.is_one(n)",
        members: BOTH,
        row: "(1, NULL, NULL, 1)",
        ddl: "CREATE OR REPLACE FUNCTION app.is_one(n int) RETURNS bool LANGUAGE sql STABLE AS 'SELECT n <> 1'",
        set: false,
    },
    Case {
        name: "the policy is gone",
        policy: TEAM,
        members: BOTH,
        row: "(1, NULL, NULL, 1)",
        ddl: "DROP POLICY p ON docs",
        set: true,
    },
];

#[tokio::test]
async fn on_the_image() -> Result<()> {
    each(&CASES, Tier::Image).await
}

#[tokio::test]
async fn all_viewers_in_one_statement() -> Result<()> {
    let sets = CASES.into_iter().filter(|case| case.set);
    each(&sets.collect::<Vec<_>>(), Tier::Set).await
}

async fn each(cases: &[Case], tier: Tier) -> Result<()> {
    let mut wrong = Vec::new();
    for case in cases {
        let Outcome {
            before,
            found,
            after,
        } = run(case, tier).await.context(case.name)?;
        if found != after {
            wrong.push(format!(
                "{}: {found:?}, before {before:?}, after {after:?}",
                case.name
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

/// Who sees the row, by their numbers.
struct Outcome {
    before: BTreeSet<u32>,
    found: BTreeSet<u32>,
    after: BTreeSet<u32>,
}

async fn run(case: &Case, tier: Tier) -> Result<Outcome> {
    let crowd = tier == Tier::Set;
    let fill = |sql: &str| {
        let sql = sql.replace("{P}", case.policy);
        sql.replace("{A}", ALICE).replace("{B}", BOB)
    };
    let mut rig = Rig::new(&format!(
        "{DOCS} INSERT INTO members VALUES {}; CREATE POLICY p ON docs USING ({})",
        fill(case.members),
        case.policy
    ))
    .await?;
    let config = CheckConfig {
        statement_timeout: Duration::from_secs(60),
        lock_timeout: Duration::from_secs(60),
        ..rig.config()
    };
    let mut check = PostgresCheck::connect(config).await?;
    let viewers = [user(ALICE, ""), user(BOB, "")];
    for (number, viewer) in viewers.iter().enumerate() {
        check.watch(number as u32, viewer, "public", Some("docs"));
    }
    let insert = format!("INSERT INTO docs VALUES {}", fill(case.row));
    let changes = [rig.change(&insert).await?];
    let before = seeing(&mut check, &changes, &viewers, crowd).await;
    assert_eq!(before, select(&rig, &viewers).await, "{}", case.name);
    let counts = check.counters().read();
    let times = (counts.image.time.is_zero(), counts.set.time.is_zero());
    assert_eq!(times, (crowd, !crowd), "{}", case.name);
    let alterer = rig.postgres.connect("postgres", &rig.database).await?;
    alterer
        .batch_execute("BEGIN; LOCK TABLE members IN ACCESS EXCLUSIVE MODE")
        .await?;
    let (found, altered) = tokio::join!(seeing(&mut check, &changes, &viewers, crowd), async {
        let sql = "SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()
                    WHERE l.relation = 'members'::regclass AND NOT l.granted";
        eventually(Duration::from_secs(60), async || {
            let waiting = rig.admin.query(sql, &[]).await.ok()?;
            (!waiting.is_empty()).then_some(())
        })
        .await?;
        alterer.batch_execute(&fill(case.ddl)).await?;
        alterer.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    });
    altered?;
    Ok(Outcome {
        before,
        found,
        after: select(&rig, &viewers).await,
    })
}

async fn seeing(
    check: &mut PostgresCheck,
    changes: &[Change],
    viewers: &[Viewer],
    crowd: bool,
) -> BTreeSet<u32> {
    if !crowd {
        let seen = ask(check, changes, viewers).await.concat();
        let seeing = (0..).zip(seen).filter(|(_, seen)| *seen == Some(true));
        return seeing.map(|(number, _)| number).collect();
    }
    let question = |change: &Change| Question {
        row: change.new().expect("a new row").clone(),
        version: Version::New,
        xid: Some(change.xid),
        viewers: Vec::new(),
        among: None,
    };
    let questions: Vec<Question> = changes.iter().map(question).collect();
    let found = check.sweep(&questions, &|_, _| true).await.concat();
    let visible = found
        .iter()
        .filter(|sighting| matches!(sighting.verdict, Verdict::Visible(_)));
    visible.map(|sighting| sighting.viewer).collect()
}

async fn select(rig: &Rig, viewers: &[Viewer]) -> BTreeSet<u32> {
    let mut seeing = BTreeSet::new();
    for (number, viewer) in viewers.iter().enumerate() {
        if rig.finds(viewer, "docs", "id = 1").await {
            seeing.insert(number as u32);
        }
    }
    seeing
}
