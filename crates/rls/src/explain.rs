//! For the operator: how each role's policies on a table are judged, and why.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::types::ToSql;

use crate::cache::Cache;
use crate::lane::Lane;
use crate::projection;
use crate::rules::{Rules, Standing};
use crate::{CheckConfig, ConnectError, Viewer};

/// How one role's sight of a table is decided.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub role: String,
    /// `index`, `set`, `image`, `privileges` or `nobody`.
    pub tier: &'static str,
    pub reason: String,
    /// The policies that hold, as one expression; what is computed of each viewer's claims.
    pub policies: Option<String>,
    pub claims: Vec<String>,
    /// What Postgres is asked, and its plan: for rows that no cheaper way takes, too.
    pub statement: Option<String>,
    pub plan: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExplainError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("there is no table {schema}.{table}")]
    NoTable { schema: String, table: String },
    #[error("the catalogue can't be read")]
    Catalogue(#[from] tokio_postgres::Error),
}

/// The plan is made for this many.
const VIEWERS: usize = 1000;
const IMAGES: usize = 100;

/// Explains one role, or all that the login may judge for.
pub async fn explain(
    config: &CheckConfig,
    schema: &str,
    table: &str,
    role: Option<&str>,
) -> Result<Vec<Explanation>, ExplainError> {
    let mut lane = Lane::open(config, None).await?;
    let oid = "SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')";
    let found = lane.client.query_opt(oid, &[&schema, &table]).await?;
    let Some(found) = found else {
        let (schema, table) = (schema.to_owned(), table.to_owned());
        return Err(ExplainError::NoTable { schema, table });
    };
    let relation: u32 = found.try_get(0)?;
    let roles: Vec<String> = match role {
        Some(role) => vec![role.to_owned()],
        None => {
            let sql = "SELECT r.rolname::text FROM pg_roles r
                WHERE pg_has_role(session_user, r.oid, 'MEMBER') AND NOT r.rolsuper
                  AND r.rolname <> session_user AND r.rolname NOT LIKE 'pg\\_%' ORDER BY 1";
            let rows = lane.client.query(sql, &[]).await?;
            let names: Result<_, _> = rows.iter().map(|row| row.try_get(0)).collect();
            names?
        }
    };
    let cache = Cache::default();
    let mut all = Vec::new();
    for role in roles {
        let role: Arc<str> = role.into();
        all.push(match cache.load(&lane, config, relation, &role).await? {
            Some(rules) => one(&mut lane, &rules).await,
            None => Explanation {
                reason: "the catalogue is being altered".to_owned(),
                ..nothing(&role)
            },
        });
    }
    Ok(all)
}

fn nothing(role: &str) -> Explanation {
    Explanation {
        role: role.to_owned(),
        tier: "nobody",
        reason: String::new(),
        policies: None,
        claims: Vec::new(),
        statement: None,
        plan: Vec::new(),
    }
}

async fn one(lane: &mut Lane, rules: &Rules) -> Explanation {
    let mut found = nothing(&rules.role);
    let policies = match &rules.standing {
        Standing::Refused(refusal) => {
            found.reason = format!("the role is refused: {refusal}");
            return found;
        }
        Standing::Nothing { .. } => {
            found.reason = "no USAGE on the schema, or no such role".into();
            return found;
        }
        Standing::NoPolicy => {
            found.reason = "no policy lets anything through".into();
            return found;
        }
        Standing::Privileges => {
            found.tier = "privileges";
            found.reason = "no policies apply: column privileges alone decide".into();
            return found;
        }
        Standing::Policies(policies) => policies,
    };
    found.policies = Some(policies.expression().to_owned());
    let viewer = Viewer {
        role: rules.role.clone(),
        claims: "{}".into(),
    };
    let mut sql = policies.image_sql();
    let mut arrays = 0;
    found.tier = "image";
    match &rules.projection {
        Err(reason) => found.reason = format!("each viewer is judged by itself: {reason}"),
        Ok(projection) => {
            let slots = projection.outline.slots.iter();
            found.claims = slots
                .filter(|slot| slot.varies)
                .map(|slot| slot.sql.clone())
                .collect();
            let _ = projection::complete(lane, projection, &[&viewer]).await;
            match projection.prepared() {
                None => {
                    let refusal = projection
                        .refusal()
                        .unwrap_or("the claims can't be computed");
                    found.reason = format!("each viewer is judged by itself: {refusal}");
                }
                Some(prepared) => match (&prepared.formula, &prepared.set) {
                    (Ok(_), _) => {
                        found.tier = "index";
                        found.reason = "equality of columns with claims: no statement, viewers are found by lookup".into();
                    }
                    (Err(reason), Some(set)) => {
                        found.tier = "set";
                        found.reason = format!("one statement for all viewers: {reason}");
                        sql.clone_from(&set.with_parameters);
                        arrays = found.claims.len();
                    }
                    (Err(reason), None) => {
                        found.reason = format!(
                            "one statement for each group of viewers with equal claims: {reason}, and parts of it may raise"
                        );
                    }
                },
            }
        }
    }
    if found.tier != "index" && !policies.shadowed {
        found.plan = plan(lane, &viewer, &sql, arrays).await;
    }
    found.statement = Some(sql);
    found
}

/// The plan, as the role; empty where Postgres refuses to make one.
async fn plan(lane: &Lane, viewer: &Viewer, sql: &str, arrays: usize) -> Vec<String> {
    let client = &lane.client;
    let images = vec![None::<&str>; IMAGES];
    let viewers = vec![None::<&str>; VIEWERS];
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&images];
    parameters.extend((0..arrays).map(|_| &viewers as &(dyn ToSql + Sync)));
    let explained = async {
        client.batch_execute("BEGIN").await?;
        lane.enter(viewer, "force_custom_plan").await?;
        client.query(&format!("EXPLAIN {sql}"), &parameters).await
    };
    let rows = explained.await.unwrap_or_default();
    let _ = client.batch_execute("ROLLBACK").await;
    rows.iter().filter_map(|row| row.try_get(0).ok()).collect()
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "role {}: {}", self.role, self.tier)?;
        writeln!(f, "  {}", self.reason)?;
        if let Some(policies) = &self.policies {
            writeln!(f, "  policies:  {policies}")?;
        }
        for claims in &self.claims {
            writeln!(f, "  once for each viewer:  {claims}")?;
        }
        if let Some(statement) = &self.statement {
            let note = match self.tier {
                "index" => " (for rows that were not sent in full only)",
                _ => "",
            };
            writeln!(f, "  statement{note}:  {statement}")?;
        }
        for line in &self.plan {
            writeln!(f, "    {line}")?;
        }
        Ok(())
    }
}
