//! One round: tables, viewers and changes; all verdicts beside what the viewers find.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use walcast_change::{Cell, Change, ColumnSet, Row};
use walcast_pgoutput::Xid;
use walcast_rls::{
    Batch, CheckConfig, Counts, PostgresCheck, Question, RowCheck, TierCounts, Verdict, Version,
    Viewer,
};

use crate::crowd::{ROLES, crowd};
use crate::oracle::{Found, Oracle};
use crate::random::Random;
use crate::rig::{LOGIN, Rig};
use crate::world::{SURROUNDINGS, Table};

#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) verdicts: usize,
    pub(crate) visible: usize,
    pub(crate) tables: usize,
    pub(crate) policies: usize,
    /// Hidden in a batch where the search for failing rows was given up; right when asked alone.
    pub(crate) given_up: usize,
    /// Visible by the policies, while the whole SELECT fails already when it is planned.
    pub(crate) evaluated: usize,
    /// Old rows of which only the key was sent.
    pub(crate) unknown: usize,
    pub(crate) counts: Vec<Counts>,
    pub(crate) mismatches: usize,
    /// One of each table, to look into.
    pub(crate) wrong: BTreeMap<(u64, String), String>,
}

/// One version of one row, to be judged.
struct Item {
    row: Row,
    version: Version,
    xid: Xid,
    table: usize,
    id: i32,
}

/// What everybody finds at one moment.
struct Sight {
    /// By table and viewer.
    found: HashMap<(usize, usize), Found>,
    /// Names of selectable columns, by table and role.
    columns: HashMap<(usize, String), HashSet<String>>,
}

pub(crate) struct Round<'f> {
    seed: u64,
    random: Random,
    rig: Rig,
    oracle: Oracle,
    check: PostgresCheck,
    tables: Vec<Table>,
    viewers: Vec<Viewer>,
    figures: &'f mut Figures,
}

/// Rounds after which one with many viewers comes.
const CROWDED_EVERY: u64 = 5;

impl<'f> Round<'f> {
    pub(crate) async fn run(seed: u64, figures: &'f mut Figures) -> Result<()> {
        let mut random = Random::new(seed);
        let crowded = seed.is_multiple_of(CROWDED_EVERY);
        let own = [format!("crew_{seed}"), format!("mate_{seed}")];
        let mut roles = ROLES.to_vec();
        roles.extend(own.iter().map(String::as_str));
        let count = if crowded { 3 } else { 10 };
        let mut tables: Vec<Table> = (0..count)
            .map(|number| Table::new(&mut random, number, &roles))
            .collect();
        let sql = format!(
            "CREATE ROLE {0}; CREATE ROLE {1}; GRANT {0} TO {1}; GRANT {0}, {1} TO {LOGIN}; {SURROUNDINGS}",
            own[0], own[1]
        );
        let statements: Vec<String> = tables
            .iter_mut()
            .flat_map(|table| table.sql(&mut random))
            .collect();
        let viewers = if crowded {
            random.between(60, 90)
        } else {
            random.between(6, 16)
        };
        let viewers = crowd(&mut random, &roles, viewers);
        let rig = Rig::new(&sql).await?;
        for statement in &statements {
            rig.run(statement).await?;
        }
        let config = CheckConfig {
            statement_timeout: Duration::from_secs(20),
            ..rig.config()
        };
        let check = PostgresCheck::connect(config).await?;
        let oracle = Oracle::new(rig.postgres.connect(LOGIN, &rig.database).await?);
        let mut round = Round {
            seed,
            random,
            rig,
            oracle,
            check,
            tables,
            viewers,
            figures,
        };
        round
            .steps(&own)
            .await
            .with_context(|| format!("seed {seed}"))
    }

    async fn steps(&mut self, own: &[String; 2]) -> Result<()> {
        let nothing = self.sight().await?;
        let sql: String = self.tables.iter().map(Table::insert).collect();
        let (_, inserted) = self.step(&sql, &nothing).await?;
        let random = &mut self.random;
        let sql: String = self
            .tables
            .iter_mut()
            .map(|table| table.update(random))
            .collect();
        let (changes, _) = self.step(&sql, &inserted).await?;
        let mut sql = String::new();
        for table in &mut self.tables {
            if self.random.once_in(2) {
                sql += &table.upheaval(&mut self.random, own);
            }
        }
        self.rig.run(&sql).await?;
        let after = self.sight().await?;
        let items = self.items(&changes, |version| version == Version::New)?;
        self.compare(items, &after, &after, "after DDL").await?;
        let sql: String = self.tables.iter().map(Table::delete).collect();
        self.step(&sql, &after).await?;
        self.figures.tables += self.tables.len();
        self.figures.policies += self
            .tables
            .iter()
            .map(|table| table.policies.len())
            .sum::<usize>();
        self.figures.counts.push(self.check.counters().read());
        Ok(())
    }

    /// Runs the statements and compares what became of all rows.
    async fn step(&mut self, sql: &str, before: &Sight) -> Result<(Vec<Change>, Sight)> {
        self.rig.run(sql).await?;
        let changes = self.rig.changes().await?;
        let after = self.sight().await?;
        let items = self.items(&changes, |_| true)?;
        let what = sql.split(' ').next().unwrap_or_default().to_owned();
        self.compare(items, before, &after, &what).await?;
        Ok((changes, after))
    }

    async fn sight(&self) -> Result<Sight> {
        let mut sight = Sight {
            found: HashMap::new(),
            columns: HashMap::new(),
        };
        for (at, table) in self.tables.iter().enumerate() {
            for (nth, viewer) in self.viewers.iter().enumerate() {
                let found = self.oracle.finds(viewer, table).await?;
                sight.found.insert((at, nth), found);
            }
        }
        let names: Vec<String> = self.tables.iter().map(Table::qualified).collect();
        let roles: HashSet<&str> = self.viewers.iter().map(|viewer| &*viewer.role).collect();
        let roles: Vec<&str> = roles.into_iter().collect();
        let sql = "SELECT t.at, r.role, array_agg(a.attname::text) FROM unnest($1::text[]) WITH ORDINALITY AS t(name, at), unnest($2::text[]) AS r(role), pg_attribute a
                   WHERE a.attrelid = t.name::regclass AND a.attnum > 0 AND has_column_privilege(r.role, a.attrelid, a.attnum, 'SELECT') GROUP BY 1, 2";
        for row in self.rig.admin.query(sql, &[&names, &roles]).await? {
            let (at, names): (i64, Vec<String>) = (row.get(0), row.get(2));
            sight.columns.insert(
                (usize::try_from(at)? - 1, row.get(1)),
                names.into_iter().collect(),
            );
        }
        Ok(sight)
    }

    fn items(&self, changes: &[Change], wanted: impl Fn(Version) -> bool) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let own = changes.iter().filter(|change| &*change.shape.schema == "s");
        for change in own {
            let table = self
                .tables
                .iter()
                .position(|table| *table.name == *change.shape.table);
            let table = table
                .with_context(|| format!("{} is no table of the round", change.shape.table))?;
            for (row, version) in [(change.new(), Version::New), (change.old(), Version::Old)] {
                if let Some(row) = row.filter(|_| wanted(version)) {
                    let place = row.shape().column("id").context("the id")?;
                    let Cell::Text(id) = row.cell(place) else {
                        continue;
                    };
                    let id = std::str::from_utf8(id)?.parse()?;
                    items.push(Item {
                        row: row.clone(),
                        version,
                        xid: change.xid,
                        table,
                        id,
                    });
                }
            }
        }
        Ok(items)
    }

    /// All items by all viewers, in batches of random make.
    async fn compare(
        &mut self,
        mut items: Vec<Item>,
        before: &Sight,
        after: &Sight,
        what: &str,
    ) -> Result<()> {
        ensure!(!items.is_empty(), "nothing to compare");
        self.random.shuffle(&mut items);
        let mut items = items.as_slice();
        while !items.is_empty() {
            let size = self.random.between(1, 60).min(items.len());
            let (now, later) = items.split_at(size);
            items = later;
            let mut people: Vec<usize> = (0..self.viewers.len()).collect();
            self.random.shuffle(&mut people);
            let mut batch = Batch {
                viewers: people.iter().map(|at| self.viewers[*at].clone()).collect(),
                questions: Vec::new(),
            };
            for item in now {
                let mut asking: Vec<u32> = (0..people.len() as u32).collect();
                if self.random.once_in(4) {
                    self.random.shuffle(&mut asking);
                    asking.truncate(asking.len().div_ceil(2));
                    asking.sort_unstable();
                }
                batch.questions.push(question(item, asking));
            }
            let answers = self.check.check(&batch).await;
            let swept = self.swept(&batch, &people).await;
            for (at, item) in now.iter().enumerate() {
                let sight = if item.version == Version::New {
                    after
                } else {
                    before
                };
                for (nth, viewer) in batch.questions[at].viewers.iter().enumerate() {
                    let person = people[*viewer as usize];
                    let verdict = answers.verdict(at, nth).clone();
                    self.verdict(item, person, verdict, sight, what).await;
                    let found = swept[at].get(&(person as u32));
                    let verdict = found.cloned().unwrap_or(Verdict::Hidden);
                    self.verdict(item, person, verdict, sight, what).await;
                }
            }
        }
        Ok(())
    }

    async fn verdict(
        &mut self,
        item: &Item,
        viewer: usize,
        mut verdict: Verdict,
        sight: &Sight,
        what: &str,
    ) {
        let found = sight.found.get(&(item.table, viewer));
        let expected = found.is_some_and(|found| found.selected.contains(&item.id));
        let evaluated = found.is_some_and(|found| found.evaluated.contains(&item.id));
        if evaluated {
            self.figures.evaluated += 1;
        }
        self.figures.verdicts += 1;
        self.figures.visible += usize::from(expected);
        if verdict == Verdict::Unknown && item.row.is_key_only() {
            self.figures.unknown += 1;
            return;
        }
        if expected && matches!(verdict, Verdict::Hidden | Verdict::Unjudged) {
            verdict = self.alone(item, viewer).await;
            self.figures.given_up += usize::from(verdict != Verdict::Hidden);
        }
        let columns = sight
            .columns
            .get(&(item.table, self.viewers[viewer].role.to_string()));
        let right = match &verdict {
            Verdict::Hidden | Verdict::Unjudged => !expected,
            Verdict::Unknown => false,
            Verdict::Visible(columns_seen) => {
                (expected || evaluated)
                    && columns.is_some_and(|names| same(&item.row, columns_seen, names))
            }
        };
        if !right {
            self.wrong(item, viewer, &verdict, expected, what);
        }
    }

    /// The same once more, the way the server asks: who watches is known beforehand.
    async fn swept(&mut self, batch: &Batch, people: &[usize]) -> Vec<HashMap<u32, Verdict>> {
        let tables: BTreeSet<(Arc<str>, Arc<str>)> = batch
            .questions
            .iter()
            .map(|question| question.row.shape())
            .map(|shape| (shape.schema.clone(), shape.table.clone()))
            .collect();
        for (schema, table) in &tables {
            for person in people {
                let viewer = &self.viewers[*person];
                self.check
                    .watch(*person as u32, viewer, schema, Some(table.as_ref()));
            }
        }
        let wants = |question: usize, number: u32| {
            let viewers = &batch.questions[question].viewers;
            viewers
                .iter()
                .any(|at| people[*at as usize] as u32 == number)
        };
        let sightings = self.check.sweep(&batch.questions, &wants).await;
        for (schema, table) in &tables {
            for person in people {
                self.check
                    .unwatch(*person as u32, schema, Some(table.as_ref()));
            }
        }
        sightings
            .into_iter()
            .map(|found| {
                found
                    .into_iter()
                    .map(|one| (one.viewer, one.verdict))
                    .collect()
            })
            .collect()
    }

    async fn alone(&mut self, item: &Item, viewer: usize) -> Verdict {
        let batch = Batch {
            viewers: vec![self.viewers[viewer].clone()],
            questions: vec![question(item, vec![0])],
        };
        self.check.check(&batch).await.verdict(0, 0).clone()
    }

    /// Everything that is needed to try it by hand.
    fn wrong(&mut self, item: &Item, viewer: usize, verdict: &Verdict, expected: bool, what: &str) {
        let (table, viewer) = (&self.tables[item.table], &self.viewers[viewer]);
        let cells =
            item.row.shape().columns.iter().zip(item.row.cells()).map(
                |(column, cell)| match cell {
                    Cell::Text(text) => {
                        format!("{} = '{}'", column.name, String::from_utf8_lossy(text))
                    }
                    other => format!("{} {other:?}", column.name),
                },
            );
        let cells: Vec<_> = cells.collect();
        let columns = table.columns.iter();
        let columns: Vec<_> = columns
            .map(|column| {
                format!(
                    "{} {} {}",
                    column.quoted(),
                    column.kind.sql,
                    column.kind.collation
                )
            })
            .collect();
        self.figures.mismatches += 1;
        self.figures.wrong.entry((self.seed, table.name.clone())).or_insert_with(|| format!(
            "seed {}, {what}, {:?} row {} of {}: {verdict:?}, but SELECT says {expected}\n  role {}, claims {}\n  row {}\n  {}\n  {}\n",
            self.seed, item.version, item.id, table.qualified(), viewer.role, viewer.claims, cells.join(", "),
            table.policies.join("\n  "),
            columns.join(", "),
        ));
    }
}

fn question(item: &Item, viewers: Vec<u32>) -> Question {
    Question {
        row: item.row.clone(),
        version: item.version,
        xid: Some(item.xid),
        viewers,
        among: None,
    }
}

fn same(row: &Row, seen: &Arc<ColumnSet>, names: &HashSet<String>) -> bool {
    let columns = row.shape().columns.iter().enumerate();
    columns
        .into_iter()
        .all(|(at, column)| seen.contains(at) == names.contains(&*column.name))
}

impl Figures {
    /// Verdicts by the way that they were reached.
    pub(crate) fn ways(&self) -> [(&'static str, u64); 5] {
        let sum = |of: fn(&Counts) -> TierCounts| {
            let ways = self.counts.iter().map(of);
            ways.map(|way| way.visible + way.hidden).sum()
        };
        [
            ("privileges", sum(|counts| counts.privileges)),
            ("index", sum(|counts| counts.index)),
            ("set", sum(|counts| counts.set)),
            ("image", sum(|counts| counts.image)),
            ("key", sum(|counts| counts.key)),
        ]
    }

    pub(crate) fn print(&self, first: u64, last: u64, took: Duration) {
        let sum = |of: fn(&Counts) -> u64| self.counts.iter().map(of).sum::<u64>();
        println!("seeds {first} to {last}, {} s", took.as_secs());
        println!(
            "{} verdicts, {} of them visible; {} tables, {} policies",
            self.verdicts, self.visible, self.tables, self.policies
        );
        println!("mismatches: {}", self.mismatches);
        println!("by way (index and set: of sweeps, those who see the row only):");
        for (way, verdicts) in self.ways() {
            println!("  {way} {verdicts}");
        }
        println!(
            "denied by an error: {}; given up and right when asked alone: {}; old rows with the key alone: {}; let through by the policies where SELECT fails as a whole: {}",
            sum(|counts| counts.errors.values().sum()),
            self.given_up,
            self.unknown,
            self.evaluated
        );
    }
}
