//! The rules read so far, and how fresh they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join;
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_postgres::Error;
use tracing::{info, warn};

use crate::CheckConfig;
use crate::catalogue::{self, Facts};
use crate::claims::{self, Outline};
use crate::formula::ColumnType;
use crate::lane::Lane;
use crate::names::Names;
use crate::policy::combine;
use crate::projection::Projection;
use crate::role;
use crate::rules::{Rules, Standing, Study};
use crate::settled::{self, Settled};
use crate::vocabulary;

type Pair = (u32, Arc<str>);

/// Rules by (table, role). Bounded: when full, all are read anew.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    rules: Mutex<HashMap<Pair, Entry>>,
    /// What policies make of claims; outlives its rules while the catalogue says the same.
    projections: Mutex<HashMap<Pair, Arc<Projection>>>,
}

#[derive(Debug)]
struct Entry {
    rules: Arc<Rules>,
    /// When the catalogue last said the same.
    confirmed: Instant,
}

const RULES_MAX: usize = 10_000;
/// Between two readings while the table is being altered.
const SETTLING: [Duration; 3] = [
    Duration::from_millis(2),
    Duration::from_millis(15),
    Duration::from_millis(40),
];
/// Pairs asked about in one statement.
const PAIRS_MAX: usize = 500;

impl Cache {
    pub(crate) fn get(&self, relation: u32, role: &Arc<str>) -> Option<(Arc<Rules>, Instant)> {
        let rules = self.rules.lock();
        rules
            .get(&(relation, role.clone()))
            .map(|entry| (entry.rules.clone(), entry.confirmed))
    }

    pub(crate) fn clear(&self) {
        self.rules.lock().clear();
    }

    /// `read_at`: a moment before the rules were read.
    fn insert(&self, rules: Arc<Rules>, read_at: Instant) {
        let mut cached = self.rules.lock();
        if cached.len() >= RULES_MAX {
            cached.clear();
        }
        let pair = (rules.relation, rules.role.clone());
        cached.insert(
            pair,
            Entry {
                rules,
                confirmed: read_at,
            },
        );
    }

    /// Compares with what the catalogue says now. True if all are as they were; those that aren't
    /// are forgotten.
    pub(crate) fn confirm(
        &self,
        asked: &[Arc<Rules>],
        digests: &[Option<String>],
        at: Instant,
    ) -> bool {
        let mut cached = self.rules.lock();
        let mut same = asked.len() == digests.len();
        for (rules, digest) in asked.iter().zip(digests) {
            let pair = (rules.relation, rules.role.clone());
            if digest.as_deref().unwrap_or_default() == rules.digest {
                let entry = cached
                    .get_mut(&pair)
                    .filter(|entry| entry.rules.id == rules.id);
                if let Some(entry) = entry {
                    entry.confirmed = entry.confirmed.max(at);
                }
            } else {
                same = false;
                cached.remove(&pair);
            }
        }
        same
    }

    fn all(&self) -> Vec<Arc<Rules>> {
        self.rules
            .lock()
            .values()
            .map(|entry| entry.rules.clone())
            .collect()
    }

    /// Reads what the catalogue says of a table and a role; again, for a moment, while the table is
    /// being altered. If it still is then, the rules are for now only. `None`: what was read is not of
    /// one time.
    ///
    /// What others are doing is asked between two digests, the second of which comes with the rules.
    /// Are they the same, then whatever the rules show was there at the first; and if everybody had
    /// been told of that, so had this session before it read the rules. Asked after them only, it
    /// would say nothing about the moment when they were read, and policies printed by the table as it
    /// was would have the digest of it as it is.
    pub(crate) async fn load(
        &self,
        lane: &Lane,
        config: &CheckConfig,
        relation: u32,
        role: &Arc<str>,
    ) -> Result<Option<Arc<Rules>>, Error> {
        let mut pauses = SETTLING.into_iter();
        loop {
            let read_at = Instant::now();
            let (digest, settled) = look_ahead(lane, config, relation, role).await?;
            let mut rules = self.read(lane, config, relation, role).await?;
            let whole = settled.told && rules.is_of(digest.as_deref());
            rules.settled = whole && settled.table;
            let pause = pauses.next().filter(|_| !rules.settled);
            if let Some(pause) = pause {
                sleep(pause).await;
                continue;
            }
            if !whole {
                return Ok(None);
            }
            log(&rules);
            let rules = Arc::new(rules);
            if rules.settled {
                self.insert(rules.clone(), read_at);
            }
            return Ok(Some(rules));
        }
    }

    async fn read(
        &self,
        lane: &Lane,
        config: &CheckConfig,
        relation: u32,
        role: &Arc<str>,
    ) -> Result<Rules, Error> {
        let facts = match role::check_name(role, config) {
            Ok(()) => catalogue::read(&lane.client, relation, role).await?,
            Err(_) => None,
        };
        let mut shadowed = false;
        if let Some(facts) = facts.as_ref().filter(|facts| facts.policies_apply) {
            let searched = lane.searched(role);
            shadowed = searched.catalog_late;
            for qual in facts
                .policies
                .iter()
                .filter_map(|policy| policy.qual.as_ref())
            {
                shadowed |= match Names::of(qual) {
                    Some(names) => {
                        catalogue::is_shadowed(&lane.client, &names, &searched.schemas).await?
                    }
                    None => true,
                };
            }
        }
        let study = match &facts {
            Some(facts) if facts.policies_apply => {
                self.study(lane, relation, role, facts, shadowed).await?
            }
            _ => Study::default(),
        };
        Ok(Rules::new(relation, role, facts, shadowed, study, config))
    }
}

impl Cache {
    /// Takes the policies apart, as far as they can be.
    async fn study(
        &self,
        lane: &Lane,
        relation: u32,
        role: &Arc<str>,
        facts: &Facts,
        shadowed: bool,
    ) -> Result<Study, Error> {
        let Some(text) = combine(&facts.policies) else {
            return Ok(Study::default());
        };
        if shadowed {
            return Ok(Study::refused(
                "its names could mean something else in the search_path",
            ));
        }
        if facts.folds {
            return Ok(Study::refused(
                "it calls a function that is declared IMMUTABLE",
            ));
        }
        let lexicon = vocabulary::read(&lane.client, relation, &text, &lane.searched(role)).await?;
        if let Some(refusal) = lexicon.refusal {
            return Ok(Study::refused(refusal));
        }
        let outline = match claims::outline(&text, &lexicon.vocabulary) {
            Ok(outline) => outline,
            Err(refusal) => return Ok(Study::refused(&refusal)),
        };
        let oids: Vec<String> = lexicon.functions.keys().map(u32::to_string).collect();
        let versions: String = lexicon
            .functions
            .values()
            .fold(String::new(), |all, one| all + " " + one);
        // With the text: one that was printed by what was there before is not to outlive its rules.
        let versions_and_text = format!("{versions} {text}");
        let projection = self.projection(relation, role, facts, outline, &versions_and_text);
        Ok(Study {
            functions: format!("{{{}}}", oids.join(",")),
            versions,
            projection: Ok(projection),
        })
    }

    fn projection(
        &self,
        relation: u32,
        role: &Arc<str>,
        facts: &Facts,
        outline: Outline,
        versions: &str,
    ) -> Arc<Projection> {
        let digest = format!("{}{versions}", facts.digest);
        let mut projections = self.projections.lock();
        let pair = (relation, role.clone());
        if let Some(known) = projections
            .get(&pair)
            .filter(|known| known.digest == digest)
        {
            return known.clone();
        }
        if projections.len() >= RULES_MAX {
            projections.clear();
        }
        let columns = facts.columns.iter().map(|column| ColumnType {
            name: column.name.clone(),
            oid: column.type_oid,
            plain: column.plain_collation && column.generated.is_none(),
        });
        let projection = Projection::new(
            digest,
            outline,
            (facts.schema.clone(), facts.table.clone()),
            columns.collect(),
        );
        let projection = Arc::new(projection);
        projections.insert(pair, projection.clone());
        projection
    }
}

/// The digest, and then what others are doing.
async fn look_ahead(
    lane: &Lane,
    config: &CheckConfig,
    relation: u32,
    role: &str,
) -> Result<(Option<String>, Settled), Error> {
    if role::check_name(role, config).is_err() {
        // Refused without a look, and Postgres may not even take the name.
        let settled = Settled {
            table: true,
            told: true,
        };
        return Ok((None, settled));
    }
    let settled = settled::settled(&lane.client, relation);
    try_join(lane.digest(relation, role), settled).await
}

fn log(rules: &Rules) {
    match &rules.standing {
        Standing::Refused(refusal) => {
            // `check_name` refuses without looking, so the name may be anything.
            let role: String = rules.role.chars().take(63).collect();
            warn!(role = ?role, reason = %refusal, "role refused");
        }
        standing => {
            let by = match standing {
                Standing::Policies(policies) if policies.shadowed => "policies, names shadowed",
                Standing::Policies(_) => "policies",
                Standing::Privileges => "privileges",
                _ => "nothing visible",
            };
            match &rules.projection {
                Err(reason) if matches!(standing, Standing::Policies(_)) => {
                    info!(relation = rules.relation, role = %rules.role, by, viewers = "one by one", reason, "read the rules");
                }
                _ => info!(relation = rules.relation, role = %rules.role, by, "read the rules"),
            }
        }
    }
}

/// Reads the digests again and again, so that tables without policies need no query on their way.
/// Ends when dropped.
pub(crate) async fn keep_fresh(cache: Arc<Cache>, config: Arc<CheckConfig>) {
    let interval = config.staleness_max / 2;
    let mut lane: Option<Lane> = None;
    loop {
        tokio::time::sleep(interval.max(Duration::from_millis(10))).await;
        let rules = cache.all();
        if rules.is_empty() {
            continue;
        }
        if lane.as_ref().is_none_or(Lane::is_closed) {
            lane = Lane::open(&config, None).await.ok();
        }
        let Some(open) = &lane else { continue };
        for rules in rules.chunks(PAIRS_MAX) {
            if confirm(open, &cache, rules).await.is_err() {
                lane = None; // its rules grow old, and the checks ask for themselves
                break;
            }
        }
    }
}

/// Asks whether the rules still hold.
pub(crate) async fn confirm(
    lane: &Lane,
    cache: &Cache,
    rules: &[Arc<Rules>],
) -> Result<bool, Error> {
    let at = Instant::now();
    let digests = lane.digests(rules).await?;
    Ok(cache.confirm(rules, &digests, at))
}
