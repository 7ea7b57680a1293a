//! Runs the traps: each a table in a schema of its own, all of them judged together.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, Result};
use walcast_change::{Cell, Change};
use walcast_rls::{CheckConfig, PostgresCheck, Viewer};

use crate::oracle::Oracle;
use crate::rig::{LOGIN, Rig, ask, viewer};
use crate::traps::TRAPS;

/// `@.` is the trap's schema in all SQL texts, and `docs` its table.
pub(crate) struct Trap {
    pub(crate) name: &'static str,
    /// What the table needs.
    pub(crate) before: &'static str,
    /// After `id int PRIMARY KEY`.
    pub(crate) columns: &'static str,
    /// Values of `columns`.
    pub(crate) rows: &'static [&'static str],
    /// An expression, or whole statements.
    pub(crate) policy: &'static str,
    pub(crate) claims: &'static [&'static str],
    pub(crate) sees: Sees,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Sees {
    /// Some rows are visible to somebody and some are not.
    Some,
    /// Nobody sees a row, by a direct SELECT either.
    Nothing,
    /// Nobody sees a row, whatever a direct SELECT says.
    Refused,
}

const ROLES: [&str; 3] = ["authenticated", "anon", "senior"];

#[tokio::test(flavor = "multi_thread")]
async fn traps() -> Result<()> {
    let mut rig = Rig::new("CREATE COLLATION blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false)").await?;
    for (number, trap) in TRAPS.iter().enumerate() {
        rig.run(&trap.sql(number))
            .await
            .with_context(|| trap.name)?;
    }
    let config = CheckConfig {
        statement_timeout: Duration::from_secs(20),
        ..rig.config()
    };
    let mut check = PostgresCheck::connect(config).await?;
    let oracle = Oracle::new(rig.postgres.connect(LOGIN, &rig.database).await?);
    rig.changes().await?; // of the tables around
    let inserts = TRAPS
        .iter()
        .enumerate()
        .map(|(number, trap)| trap.insert(number));
    rig.run(&inserts.collect::<String>()).await?;
    let inserted = rig.changes().await?;
    let mut truth = Vec::new();
    for (number, trap) in TRAPS.iter().enumerate() {
        truth.push(trap.truth(number, &oracle).await?);
    }
    let mut wrong = compare(&mut check, &inserted, &truth).await?;
    // all at once in the other order, so that another table's answers would be noticed
    let deletes: Vec<String> = (0..TRAPS.len())
        .rev()
        .map(|number| format!("DELETE FROM w{number}.docs;"))
        .collect();
    rig.run(&deletes.concat()).await?;
    let deleted = rig.changes().await?;
    wrong.extend(compare(&mut check, &deleted, &truth).await?);
    println!("{} traps", TRAPS.len());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    Ok(())
}

impl Trap {
    fn sql(&self, number: usize) -> String {
        let policy = match self.policy.contains("CREATE POLICY") {
            true => self.policy.to_owned(),
            false => format!("CREATE POLICY p ON @.docs USING ({});", self.policy),
        };
        let table = match self.columns.contains("CREATE TABLE") {
            true => self.columns.to_owned(),
            false => format!(
                "CREATE TABLE @.docs (id int PRIMARY KEY, {}); ALTER TABLE @.docs REPLICA IDENTITY FULL;",
                self.columns
            ),
        };
        format!(
            "CREATE SCHEMA w{number}; GRANT USAGE ON SCHEMA w{number} TO PUBLIC; SET search_path = w{number}, public; {} {table}
             ALTER TABLE @.docs ENABLE ROW LEVEL SECURITY; GRANT SELECT ON @.docs TO PUBLIC; {policy} RESET search_path;",
            self.before
        )
        .replace("@.", &format!("w{number}."))
    }

    fn insert(&self, number: usize) -> String {
        let rows = self.rows.iter().enumerate();
        rows.map(|(at, row)| {
            format!(
                "INSERT INTO w{number}.docs VALUES ({}, {});",
                at + 1,
                row.replace("@.", &format!("w{number}."))
            )
        })
        .collect()
    }

    fn viewers(&self) -> Vec<Viewer> {
        let all = self.claims.iter().flat_map(|claims| {
            ROLES.map(|role| viewer(role, &claims.replace("LONG", &"x".repeat(100_000))))
        });
        all.collect()
    }

    /// Ids by viewer.
    async fn truth(&self, number: usize, oracle: &Oracle) -> Result<Vec<HashSet<i32>>> {
        let mut truth = Vec::new();
        for viewer in self.viewers() {
            let found = oracle
                .selects(&viewer, &format!("w{number}.docs"), 1..=self.rows.len())
                .await?;
            truth.push(if self.sees == Sees::Refused {
                HashSet::new()
            } else {
                found
            });
        }
        let (seen, all) = (
            truth.iter().map(HashSet::len).sum::<usize>(),
            truth.len() * self.rows.len(),
        );
        let says = if self.sees == Sees::Some {
            seen > 0 && seen < all
        } else {
            seen == 0
        };
        anyhow::ensure!(
            says,
            "{}: {seen} of {all} are visible, which says too little",
            self.name
        );
        Ok(truth)
    }
}

/// What is wrong, each with all that is needed to try it by hand.
async fn compare(
    check: &mut PostgresCheck,
    changes: &[Change],
    truth: &[Vec<HashSet<i32>>],
) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (number, trap) in TRAPS.iter().enumerate() {
        let schema = format!("w{number}");
        let own: Vec<Change> = changes
            .iter()
            .filter(|change| *change.shape.schema == *schema)
            .cloned()
            .collect();
        anyhow::ensure!(
            own.len() == trap.rows.len(),
            "{}: {} changes",
            trap.name,
            own.len()
        );
        let viewers = trap.viewers();
        let answers = ask(check, &own, &viewers).await;
        for (change, answers) in own.iter().zip(answers) {
            let row = change.new().or(change.old()).context("a row")?;
            let place = row.shape().column("id").context("the id")?;
            let Cell::Text(id) = row.cell(place) else {
                anyhow::bail!("an id is missing")
            };
            let id: i32 = std::str::from_utf8(id)?.parse()?;
            for ((viewer, answer), found) in viewers.iter().zip(answers).zip(&truth[number]) {
                let expected = found.contains(&id);
                let mut answer = answer;
                if expected && answer == Some(false) {
                    // among many rows that raise, the search for the others may have been given up
                    let alone = ask(
                        check,
                        std::slice::from_ref(change),
                        std::slice::from_ref(viewer),
                    )
                    .await;
                    answer = alone.first().and_then(|one| *one.first()?);
                }
                if answer != Some(expected) {
                    let row = trap.rows.get(id as usize - 1);
                    wrong.push(format!(
                        "{}: {} {:.100}, row {row:?}: {answer:?}, SELECT says {}",
                        trap.name,
                        viewer.role,
                        viewer.claims,
                        found.contains(&id)
                    ));
                }
            }
        }
    }
    Ok(wrong)
}
