//! Changes in, and out come only those who see them: whoever watches is known beforehand.

mod asking;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use walcast_change::{Cell, ColumnSet, Shape};
use walcast_pgoutput::Xid;

use self::asking::Asking;
use crate::check::{Again, PostgresCheck};
use crate::index::Index;
use crate::rules::{Image, Rules, Standing};
use crate::set::SetJob;
use crate::{Question, Sighting, Tier, Verdict, Wants};

/// What to judge, as far as it needs no statement of its own.
#[derive(Default)]
struct Sweep {
    /// What Postgres is asked viewer by viewer, or group by group.
    asking: Asking,
    /// Confirmed behind everything that is asked, before anything counts.
    confirm: Vec<Arc<Rules>>,
    confirmed: bool,
    sets: Vec<SetWork>,
    /// Transactions that have to be visible to the sets' statements.
    xids: HashSet<Xid>,
}

/// Images of one statement. Its parameters are sent in one message.
const IMAGES_MAX: usize = 500;
const BYTES_MAX: usize = 4 << 20;

/// How a role's viewers of a table are found.
enum Way {
    /// Nobody sees anything.
    Nobody,
    /// Everybody sees these columns.
    Everybody,
    Index,
    /// One statement asks Postgres about all.
    Set,
    /// Postgres is asked about one viewer of each group.
    Groups,
    /// Postgres is asked about each.
    Each,
}

/// Rows that one statement judges for all of a role's viewers of a table.
struct SetWork {
    rules: Arc<Rules>,
    shape: Arc<Shape>,
    /// The questions, with the rows' images and what is visible of the rows that are.
    rows: Vec<(usize, Arc<Image>, Arc<ColumnSet>)>,
    bytes: usize,
}

impl PostgresCheck {
    pub(crate) async fn attempt_sweep(
        &mut self,
        questions: &[Question],
        wants: &Wants<'_>,
        unseen: &HashSet<Xid>,
    ) -> Result<Vec<Vec<Sighting>>, Again> {
        let concerned = |at: usize, viewer: u32| {
            let question: Option<&Question> = questions.get(at);
            question.is_some_and(|question| question.concerns(viewer)) && wants(at, viewer)
        };
        let wants: &Wants<'_> = &concerned;
        let ways = self.ways(questions).await?;
        let mut sweep = Sweep::default();
        let mut confirmed = HashSet::new();
        for (rules, _, fresh) in ways.values().flatten() {
            if (!fresh || rules.is_confirmed_always()) && confirmed.insert(rules.id) {
                sweep.confirm.push(rules.clone());
            }
        }
        let mut found: Vec<Vec<Sighting>> = Vec::with_capacity(questions.len());
        let mut visible = 0;
        for (at, question) in questions.iter().enumerate() {
            let mut sightings = Vec::new();
            for (rules, way, _) in ways.get(&question.row.shape().id.0).into_iter().flatten() {
                let Some(columns) = rules.fit(question.row.shape()).visible.clone() else {
                    continue;
                };
                if matches!(way, Way::Set) && sweep.take(at, question, rules, &columns, unseen) {
                    let odd = self.odd(question.row.shape(), rules);
                    let wanting = odd.into_iter().filter(|viewer| wants(at, *viewer));
                    sweep.asking.each(&self.roster, at, question, wanting);
                    continue;
                }
                let seen = match self.look_up(question, rules, way) {
                    Look::Seen(seen) => seen,
                    Look::Ask(viewers) => {
                        let wanting = viewers.into_iter().filter(|viewer| wants(at, *viewer));
                        sweep.asking.each(&self.roster, at, question, wanting);
                        continue;
                    }
                    Look::Groups => {
                        let roster = &mut self.roster;
                        sweep.asking.groups(roster, at, question, rules, wants);
                        continue;
                    }
                    Look::Both(seen, ask) => {
                        let wanting = ask.into_iter().filter(|viewer| wants(at, *viewer));
                        sweep.asking.each(&self.roster, at, question, wanting);
                        seen
                    }
                };
                visible += seen.len() as u64;
                sightings.extend(seen.into_iter().map(|viewer| Sighting {
                    viewer,
                    verdict: Verdict::Visible(columns.clone()),
                }));
            }
            found.push(sightings);
        }
        self.judge_sets(questions, wants, &mut sweep, &mut found)
            .await?;
        // Else they are behind what is asked now, and so behind the sets.
        let confirm = match sweep.confirmed {
            true => &[][..],
            false => &sweep.confirm,
        };
        let answers = self
            .attempt_with(&sweep.asking.batch, unseen, confirm)
            .await?;
        self.counters().verdicts(Tier::Index, true, visible);
        sweep.asking.enter(&answers, &mut self.roster, &mut found);
        let mut busiest: HashMap<u32, usize> = HashMap::new();
        for (question, sightings) in questions.iter().zip(&mut found) {
            // Statements for all, and for groups, answer for more than are concerned.
            if question.among.is_some() {
                sightings.retain(|sighting| question.concerns(sighting.viewer));
            }
            let most = busiest.entry(question.row.shape().id.0).or_default();
            *most = (*most).max(sightings.len());
        }
        for (relation, most) in busiest {
            self.roster.note(relation, most);
        }
        Ok(found)
    }

    /// For each table the roles that watch it, their rules, and whether these are fresh.
    async fn ways(
        &mut self,
        questions: &[Question],
    ) -> Result<HashMap<u32, Vec<(Arc<Rules>, Way, bool)>>, Again> {
        let now = Instant::now();
        let mut ways: HashMap<u32, Vec<(Arc<Rules>, Way, bool)>> = HashMap::new();
        for question in questions {
            let shape = question.row.shape().clone();
            if ways.contains_key(&shape.id.0) {
                continue;
            }
            let mut of_table = Vec::new();
            for role in self.roster.roles(&shape) {
                let (rules, confirmed) = self.rules_of(shape.id.0, &role).await?;
                let way = self.way(&shape, &rules).await?;
                let fresh = now.duration_since(confirmed) < self.config.staleness_max;
                of_table.push((rules, way, fresh));
            }
            ways.insert(shape.id.0, of_table);
        }
        Ok(ways)
    }

    async fn way(&mut self, shape: &Arc<Shape>, rules: &Arc<Rules>) -> Result<Way, Again> {
        Ok(match &rules.standing {
            Standing::Refused(_) | Standing::Nothing { .. } | Standing::NoPolicy => Way::Nobody,
            Standing::Privileges => Way::Everybody,
            Standing::Policies(_) => {
                let pending = self.roster.pending(shape, rules);
                self.project(rules, pending.iter()).await?;
                let index = self.roster.index(shape, rules);
                let index = index.map(|index| {
                    (
                        index.id,
                        index.prepared.formula.is_ok(),
                        index.prepared.set.is_some(),
                    )
                });
                match index {
                    Some((_, true, _)) => Way::Index,
                    Some((id, _, true)) if !self.is_paused(id) => Way::Set,
                    Some(_) => Way::Groups,
                    None => Way::Each,
                }
            }
        })
    }

    fn look_up(&mut self, question: &Question, rules: &Rules, way: &Way) -> Look {
        let shape = question.row.shape();
        let everybody = |check: &PostgresCheck| check.roster.concerned(question, &rules.role);
        match way {
            Way::Nobody => Look::Seen(Vec::new()),
            Way::Everybody => Look::Seen(everybody(self)),
            Way::Each => Look::Ask(everybody(self)),
            Way::Set | Way::Groups => Look::Groups,
            Way::Index => {
                let found = self.roster.index(shape, rules).and_then(|index| {
                    let formula = index.prepared.formula.as_ref().ok()?;
                    let cells: Vec<Cell> = rules.cells_for(formula, &question.row)?;
                    Some(Look::Both(
                        index.find(&cells, question.among.as_deref()),
                        index.odd().collect(),
                    ))
                });
                found.unwrap_or(Look::Groups)
            }
        }
    }

    fn odd(&mut self, shape: &Shape, rules: &Rules) -> Vec<u32> {
        let index = self.roster.index(shape, rules);
        index.map_or_else(Vec::new, |index| index.odd().collect())
    }

    /// Judges what one statement each can judge. What fails is asked viewer by viewer.
    async fn judge_sets(
        &mut self,
        questions: &[Question],
        wants: &Wants<'_>,
        sweep: &mut Sweep,
        found: &mut [Vec<Sighting>],
    ) -> Result<(), Again> {
        let sets = std::mem::take(&mut sweep.sets);
        if sets.is_empty() {
            return Ok(());
        }
        let started = Instant::now();
        let last = sets.len() - 1;
        for (nth, set) in sets.iter().enumerate() {
            let confirms = nth == last && sweep.asking.batch.questions.is_empty();
            let confirm = if confirms { &sweep.confirm[..] } else { &[] };
            match self.judge_set(set, &sweep.xids, confirm, found).await? {
                Judged::All => {
                    sweep.confirmed = confirms;
                    continue;
                }
                Judged::Nobody => continue,
                Judged::Failed => {}
            }
            let index = self.roster.index(&set.shape, &set.rules);
            let odd: HashSet<u32> = index.into_iter().flat_map(Index::odd).collect();
            for (at, ..) in &set.rows {
                let Some(question) = questions.get(*at) else {
                    continue;
                };
                // the odd ones are asked already
                let wants = |at: usize, viewer: u32| !odd.contains(&viewer) && wants(at, viewer);
                let asking = &mut sweep.asking;
                asking.groups(&mut self.roster, *at, question, &set.rules, &wants);
            }
        }
        self.counters().time(Tier::Set, started.elapsed());
        Ok(())
    }

    /// `confirm`: rules that are confirmed behind the statement, unless it fails.
    async fn judge_set(
        &mut self,
        set: &SetWork,
        xids: &HashSet<Xid>,
        confirm: &[Arc<Rules>],
        found: &mut [Vec<Sighting>],
    ) -> Result<Judged, Again> {
        let Some(index) = self.roster.index(&set.shape, &set.rules) else {
            return Ok(Judged::Failed);
        };
        let (groups, any) = index.groups();
        let version = index.version();
        let prepared = index.prepared.clone();
        let Some(viewer) = any.and_then(|number| self.roster.viewer(number).cloned()) else {
            return Ok(Judged::Nobody);
        };
        let (Ok(projection), Some(statements)) = (&set.rules.projection, &prepared.set) else {
            return Ok(Judged::Failed);
        };
        let images: Vec<Arc<Image>> = set.rows.iter().map(|(_, image, _)| image.clone()).collect();
        let job = SetJob {
            id: projection.id,
            set: statements,
            version,
            viewer: &viewer,
            images: &images,
            groups: &groups,
            xids,
            confirm,
        };
        let Some(pairs) = self.run_set(&job).await? else {
            return Ok(Judged::Failed);
        };
        let Some(index) = self.roster.index(&set.shape, &set.rules) else {
            return Ok(Judged::Failed);
        };
        let mut visible = 0;
        for (image, group) in pairs {
            let Some((at, _, columns)) = set.rows.get(image) else {
                continue;
            };
            let Some(sightings) = found.get_mut(*at) else {
                continue;
            };
            for viewer in index.members(group) {
                visible += 1;
                sightings.push(Sighting {
                    viewer,
                    verdict: Verdict::Visible(columns.clone()),
                });
            }
        }
        self.counters().verdicts(Tier::Set, true, visible);
        Ok(Judged::All)
    }
}

/// What became of a set.
enum Judged {
    All,
    /// There is nobody but the odd ones, who are asked one by one.
    Nobody,
    Failed,
}

/// What a lookup says of a role's viewers.
enum Look {
    Seen(Vec<u32>),
    Ask(Vec<u32>),
    /// One of each group is asked.
    Groups,
    Both(Vec<u32>, Vec<u32>),
}

impl Sweep {
    /// Whether the row can be judged by a statement for all viewers; then it will be.
    fn take(
        &mut self,
        at: usize,
        question: &Question,
        rules: &Arc<Rules>,
        columns: &Arc<ColumnSet>,
        unseen: &HashSet<Xid>,
    ) -> bool {
        let shape = question.row.shape();
        let image = rules.fit(shape).image(&question.row);
        let Some(image) = image.filter(|image| image.lacking.is_empty()) else {
            return false;
        };
        if rules.reaches_out()
            && let Some(xid) = question.xid
        {
            if unseen.contains(&xid) {
                return false;
            }
            self.xids.insert(xid);
        }
        let size = image.text.len();
        let row = (at, Arc::new(image), columns.clone());
        let open = self.sets.iter_mut().rev().find(|set| {
            set.rules.id == rules.id && set.rows.len() < IMAGES_MAX && set.bytes + size <= BYTES_MAX
        });
        match open {
            Some(set) => {
                set.bytes += size;
                set.rows.push(row);
            }
            None => self.sets.push(SetWork {
                rules: rules.clone(),
                shape: shape.clone(),
                rows: vec![row],
                bytes: size,
            }),
        }
        true
    }
}
