//! One statement that judges many viewers: what the claims come to stands in a relation, and
//! Postgres joins it with the rows.
//!
//! Only for policies in which nothing can raise: a join may leave out, or look at, what the policy
//! as it is written would not.

mod held;

use std::collections::HashSet;
use std::fmt::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Visit, Visitor};
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;
use walcast_pgoutput::Xid;

use crate::Viewer;
use crate::claims::{self, Outline};
use crate::formula::Value;
use crate::lane::{Failure, Lane, Started, failure, lacks};
use crate::literal::identifier;
use crate::projection::Group;
use crate::rules::{Image, Rules};
use crate::snapshot::PgSnapshot;

pub(crate) use self::held::Held;

/// The statements for a policy: numbers of images (`$1 :: text[]`) and of viewers that see them.
#[derive(Debug)]
pub(crate) struct SetSql {
    /// The viewers are the other parameters, one array of texts for each slot that varies; they are
    /// numbered from 1.
    pub(crate) with_parameters: String,
    /// The viewers are groups in a relation that the session has.
    over_relation: String,
    /// Slots that vary, each with its type.
    columns: Vec<(usize, &'static str)>,
}

/// Parts that an OR is taken apart into.
const PARTS_MAX: usize = 8;

/// `None`: there is none. `id`: the projection's.
pub(crate) fn sql(
    id: u64,
    outline: &Outline,
    types: &[u32],
    (schema, table): (&str, &str),
) -> Option<SetSql> {
    if !is_tame(&outline.tree) {
        return None;
    }
    let varying: Vec<usize> = varying(outline);
    if varying.is_empty() {
        return None;
    }
    let (mut arrays, mut names, mut casts) = (String::new(), String::new(), String::new());
    let mut columns = Vec::new();
    for (nth, slot) in varying.iter().enumerate() {
        let kind = type_name(*types.get(*slot)?)?;
        columns.push((*slot, kind));
        let _ = write!(
            arrays,
            "pg_catalog.unnest(${}::pg_catalog.text[]), ",
            nth + 2
        );
        let _ = write!(names, "walcast_t{slot}, ");
        let _ = write!(casts, "walcast_t{slot}::{kind} AS walcast_c{slot}, ");
    }
    let parts = |viewers: &str| {
        let parts = alternatives(&outline.tree);
        let parts = parts.iter().map(|part| {
            format!(
                "SELECT walcast_n, walcast_m FROM walcast_images AS {}, {viewers} WHERE {}",
                identifier(table),
                print(part, outline)
            )
        });
        parts.collect::<Vec<_>>().join(" UNION ")
    };
    let images = format!(
        "WITH walcast_images AS MATERIALIZED (SELECT (walcast_row).*, walcast_n FROM \
           (SELECT walcast_text::{schema}.{table} AS walcast_row, walcast_n \
              FROM pg_catalog.unnest($1::pg_catalog.text[]) WITH ORDINALITY AS walcast_x(walcast_text, walcast_n) OFFSET 0) AS walcast_y)",
        schema = identifier(schema),
        table = identifier(table),
    );
    let pairs = "SELECT walcast_n::pg_catalog.int4, walcast_m::pg_catalog.int8 FROM";
    Some(SetSql {
        with_parameters: format!(
            "{images}, walcast_viewers AS MATERIALIZED (SELECT {casts} walcast_m \
               FROM ROWS FROM ({arrays}) WITH ORDINALITY AS walcast_z({names}walcast_m)) \
             {pairs} ({}) AS walcast_pairs",
            parts("walcast_viewers"),
            arrays = arrays.trim_end_matches(", "),
        ),
        over_relation: format!(
            "{images} {pairs} ({}) AS walcast_pairs",
            parts(&format!("{} AS walcast_viewers", held::name(id)))
        ),
        columns,
    })
}

fn varying(outline: &Outline) -> Vec<usize> {
    let slots = outline.slots.iter().enumerate();
    slots
        .filter(|(_, slot)| slot.varies)
        .map(|(at, _)| at)
        .collect()
}

/// The expressions of which one has to be true, as far as they can be told apart.
fn alternatives(tree: &Expr) -> Vec<Expr> {
    let found = match tree {
        Expr::Nested(inner) => alternatives(inner),
        Expr::BinaryOp {
            left,
            op: BinaryOperator::Or,
            right,
        } => {
            let mut found = alternatives(left);
            found.extend(alternatives(right));
            found
        }
        Expr::BinaryOp {
            left,
            op: BinaryOperator::And,
            right,
        } => {
            let (lefts, rights) = (alternatives(left), alternatives(right));
            let mut found = Vec::new();
            for left in &lefts {
                for right in &rights {
                    found.push(Expr::BinaryOp {
                        left: Box::new(left.clone()),
                        op: BinaryOperator::And,
                        right: Box::new(right.clone()),
                    });
                }
            }
            found
        }
        other => return vec![Expr::Nested(Box::new(other.clone()))],
    };
    match found.len() > PARTS_MAX {
        true => vec![Expr::Nested(Box::new(tree.clone()))],
        false => found,
    }
}

/// The text, with the viewers' columns and the constants in their places.
fn print(part: &Expr, outline: &Outline) -> String {
    let mut part = part.clone();
    let _ = sqlparser::ast::visit_expressions_mut(&mut part, |expression| {
        if let Some(slot) = claims::slot_of(expression)
            && let Some(found) = outline.slots.get(slot)
        {
            let text = match found.varies {
                true => format!("walcast_viewers.walcast_c{slot}"),
                false => format!("({})", found.sql),
            };
            // Printed as it stands: an identifier without quotes.
            *expression = Expr::Identifier(sqlparser::ast::Ident::new(text));
        }
        ControlFlow::<()>::Continue(())
    });
    part.to_string()
}

/// Whether nothing in it can raise, whatever the rows and in whatever order.
fn is_tame(tree: &Expr) -> bool {
    struct Tame;
    impl Visitor for Tame {
        type Break = ();
        fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
            use BinaryOperator::{And, Eq, Gt, GtEq, Lt, LtEq, NotEq, Or};
            let tame = match expression {
                Expr::BinaryOp { op, .. } => {
                    matches!(op, And | Or | Eq | NotEq | Gt | GtEq | Lt | LtEq)
                }
                Expr::AnyOp { compare_op, .. } | Expr::AllOp { compare_op, .. } => {
                    matches!(compare_op, Eq | NotEq)
                }
                Expr::UnaryOp {
                    op: UnaryOperator::Not,
                    ..
                }
                | Expr::Identifier(_)
                | Expr::CompoundIdentifier(_)
                | Expr::Nested(_)
                | Expr::Value(_)
                | Expr::IsNull(_)
                | Expr::IsNotNull(_)
                | Expr::IsTrue(_)
                | Expr::IsNotTrue(_)
                | Expr::IsFalse(_)
                | Expr::IsNotFalse(_)
                | Expr::Exists { .. }
                | Expr::InSubquery { .. } => true,
                Expr::Cast { data_type, .. } => matches!(
                    data_type,
                    sqlparser::ast::DataType::Text
                        | sqlparser::ast::DataType::CharacterVarying(None)
                ),
                _ => false,
            };
            match tame {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        }
    }
    Visit::visit(tree, &mut Tame).is_continue()
}

/// A type that a text can be cast to and is the same value again.
fn type_name(oid: u32) -> Option<&'static str> {
    Some(match oid {
        16 => "pg_catalog.bool",
        20 => "pg_catalog.int8",
        21 => "pg_catalog.int2",
        23 => "pg_catalog.int4",
        25 => "pg_catalog.text",
        1005 => "pg_catalog.int2[]",
        1007 => "pg_catalog.int4[]",
        1009 => "pg_catalog.text[]",
        1016 => "pg_catalog.int8[]",
        1043 => "pg_catalog.varchar",
        1700 => "pg_catalog.numeric",
        2950 => "pg_catalog.uuid",
        2951 => "pg_catalog.uuid[]",
        _ => return None,
    })
}

/// What one statement is to judge.
pub(crate) struct SetJob<'j> {
    pub(crate) id: u64,
    pub(crate) set: &'j SetSql,
    /// Different when the groups are.
    pub(crate) version: u64,
    /// Any viewer of the role.
    pub(crate) viewer: &'j Viewer,
    pub(crate) images: &'j [Arc<Image>],
    pub(crate) groups: &'j [Arc<Group>],
    /// What the statement has to see.
    pub(crate) xids: &'j HashSet<Xid>,
    /// Rules whose digests are read behind it, see [`crate::run`].
    pub(crate) confirm: &'j [Arc<Rules>],
}

/// What came of it.
pub(crate) enum Found<G> {
    /// The pairs (image's place, group) that the policies let through, and the digests.
    Pairs(Vec<(usize, G)>, Vec<Option<String>>),
    /// It did not see what it has to see.
    Unseen(PgSnapshot),
}

impl<G> Found<G> {
    fn filter_map<H>(self, group: impl Fn(G) -> Option<H>) -> Found<H> {
        match self {
            Found::Pairs(pairs, digests) => {
                let pairs = pairs.into_iter();
                let pairs = pairs.filter_map(|(image, found)| Some((image, group(found)?)));
                Found::Pairs(pairs.collect(), digests)
            }
            Found::Unseen(snapshot) => Found::Unseen(snapshot),
        }
    }
}

/// Groups by their numbers.
pub(crate) async fn judge(lane: &mut Lane, job: &SetJob<'_>) -> Result<Found<u32>, Failure> {
    match held::statement(lane, job).await? {
        Some(statement) => {
            let found = ask(lane, job, &statement, &[]).await?;
            Ok(found.filter_map(|group| u32::try_from(group).ok()))
        }
        None => with_parameters(lane, job).await,
    }
}

async fn with_parameters(lane: &mut Lane, job: &SetJob<'_>) -> Result<Found<u32>, Failure> {
    let statement = match lane.sets.get(&job.id) {
        Some(statement) => statement.clone(),
        None => {
            let path = lane.search_path.clone();
            let mut prepared = lane.prepare_as(None, &path, &job.set.with_parameters).await;
            if matches!(&prepared, Err(Failure::Sql(code)) if *code == SqlState::INSUFFICIENT_PRIVILEGE)
            {
                prepared = lane
                    .prepare_as(Some(job.viewer), &path, &job.set.with_parameters)
                    .await;
            }
            let statement = prepared?;
            lane.keep_set(job.id, statement.clone());
            statement
        }
    };
    let slots = job.set.columns.iter();
    let columns: Vec<Vec<Option<String>>> = slots
        .map(|(slot, _)| {
            job.groups
                .iter()
                .map(|group| text(group.values.get(*slot)))
                .collect()
        })
        .collect();
    let found = ask(lane, job, &statement, &columns).await?;
    Ok(found.filter_map(|group| {
        let place = usize::try_from(group).ok()?.checked_sub(1)?;
        Some(job.groups.get(place)?.id)
    }))
}

/// One transaction, rolled back, in the viewer's place, and the digests behind it. Groups as they are
/// numbered there.
async fn ask(
    lane: &Lane,
    job: &SetJob<'_>,
    statement: &Statement,
    columns: &[Vec<Option<String>>],
) -> Result<Found<i64>, Failure> {
    let images: Vec<&str> = job.images.iter().map(|image| image.text.as_str()).collect();
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&images];
    parameters.extend(columns.iter().map(|column| column as &(dyn ToSql + Sync)));
    let client = &lane.client;
    let begun =
        Started::new(client.batch_execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")).await;
    // Planned each time, for the numbers at hand: a nested loop over all viewers is never meant.
    let set = Started::new(lane.enter(job.viewer, "force_custom_plan")).await;
    let found = Started::new(client.query(statement, &parameters)).await;
    let kept = Started::new(lane.stayed(job.viewer)).await;
    let ended = Started::new(client.batch_execute("ROLLBACK")).await;
    let digests = match job.confirm.is_empty() {
        true => None,
        false => Some(Started::new(lane.digests(job.confirm)).await),
    };
    let lost = Failure::Disconnected;
    let begun = begun.finish().await.ok_or(lost.clone())?;
    let set = set.finish().await.ok_or(lost.clone())?;
    let found = found.finish().await.ok_or(lost.clone())?;
    let kept = kept.finish().await.ok_or(lost.clone())?;
    let ended = ended.finish().await.ok_or(lost.clone())?;
    let digests = match digests {
        Some(digests) => digests.finish().await.ok_or(lost)?,
        None => Ok(Vec::new()),
    };
    if let Ok(row) = &set
        && let Some(snapshot) = lacks(row, job.xids)?
    {
        return Ok(Found::Unseen(snapshot));
    }
    let rows = begun
        .and(set)
        .and(found)
        .and_then(|rows| Ok((rows, kept?, ended?, digests?)));
    let (rows, kept, (), digests) = rows.map_err(|error| failure(&error))?;
    if !kept {
        return Err(Failure::Escaped);
    }
    let pair = |row: &tokio_postgres::Row| -> Option<(usize, i64)> {
        let (image, group): (i32, i64) = (row.try_get(0).ok()?, row.try_get(1).ok()?);
        Some((usize::try_from(image).ok()?.checked_sub(1)?, group))
    };
    Ok(Found::Pairs(
        rows.iter().filter_map(pair).collect(),
        digests,
    ))
}

/// A value as the text that it is cast from.
fn text(value: Option<&Value>) -> Option<String> {
    match value? {
        Value::Null => None,
        Value::Text(text) => Some(text.to_string()),
        Value::Array(list) => {
            let elements = list.iter().map(|element| match element {
                None => "NULL".to_owned(),
                Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
            });
            Some(format!("{{{}}}", elements.collect::<Vec<_>>().join(",")))
        }
    }
}
