//! A table's policies for one role, as the statements that apply them to images of rows.

use std::fmt::Write;

use crate::catalogue::{Facts, PolicyFacts};
use crate::literal::identifier;
use crate::names::Names;
use crate::rules::Rules;

/// The policies that hold for one role, with all that is needed to run them.
#[derive(Debug)]
pub(crate) struct Policies {
    schema: String,
    table: String,
    /// They as one expression, as Postgres itself combines them.
    expression: String,
    /// Positions of the columns that they read, with what these are computed from.
    reads: Vec<usize>,
    /// How many columns there are, and what the generated ones that the policies read come from.
    columns: Vec<(String, Option<String>)>,
    /// Position and equality operator of the key's columns.
    key: Vec<(usize, String)>,
    /// More than the row's own values may decide.
    pub(crate) reaches_out: bool,
    /// What they call may be computed when the statement is planned, with the claims of that moment:
    /// a plan serves one viewer only.
    pub(crate) folds: bool,
    /// Names in the expression could mean something else under the application's `search_path`.
    pub(crate) shadowed: bool,
}

impl Policies {
    /// `None`, if nothing can ever be visible.
    pub(crate) fn new(facts: Facts, shadowed: bool) -> Option<Policies> {
        let expression = combine(&facts.policies)?;
        let names = Names::of(&expression);
        let whole_row = names.as_ref().is_none_or(|names| names.whole_row);
        let sub_select = names.as_ref().is_none_or(|names| names.sub_select);
        let position = |number: i16| {
            facts
                .columns
                .iter()
                .position(|column| column.number == number)
        };
        let reads: Vec<usize> = match whole_row {
            true => (0..facts.columns.len()).collect(),
            false => facts
                .reads
                .iter()
                .filter_map(|number| position(*number))
                .collect(),
        };
        let key = facts.key.iter();
        let key = key.map(|(number, operator)| Some((position(*number)?, operator.clone())));
        Some(Policies {
            key: key.collect::<Option<_>>().unwrap_or_default(),
            columns: facts
                .columns
                .iter()
                .enumerate()
                .map(|(at, column)| {
                    let computed = column.generated.clone().filter(|_| reads.contains(&at));
                    (column.name.clone(), computed)
                })
                .collect(),
            reads,
            reaches_out: facts.reaches_out || sub_select,
            folds: facts.folds,
            shadowed,
            expression,
            schema: facts.schema,
            table: facts.table,
        })
    }

    /// All of them as one.
    pub(crate) fn expression(&self) -> &str {
        &self.expression
    }

    /// Whether an image without these columns can be judged. Computed columns may lack.
    pub(crate) fn judges_without(&self, lacking: &[usize]) -> bool {
        let computed = |at: usize| self.columns.get(at).is_some_and(|(_, from)| from.is_some());
        lacking
            .iter()
            .all(|at| computed(*at) || !self.reads.contains(at))
    }

    pub(crate) fn has_key(&self) -> bool {
        !self.key.is_empty()
    }

    /// Whether an image without these columns still names its row.
    pub(crate) fn keys_without(&self, lacking: &[usize]) -> bool {
        self.has_key() && self.key.iter().all(|(at, _)| !lacking.contains(at))
    }

    /// Numbers those of the images `$1 :: text[]` (composite literals) that the policies let through.
    ///
    /// The policies see the image under the table's own name, as they were written, and nothing else:
    /// no outer name can hide a column. Sub-selects on the table itself read the real one.
    /// If names are shadowed, the text is parsed and planned with an empty `search_path`, and only
    /// then `$2`, the application's, is put into force: the images depend on it.
    pub(crate) fn image_sql(&self) -> String {
        let images = match self.shadowed {
            false => images("$1::pg_catalog.text[]"),
            true => images(
                "CASE WHEN pg_catalog.set_config('search_path', $2::pg_catalog.text, true) IS NOT NULL \
                 THEN $1::pg_catalog.text[] END",
            ),
        };
        format!(
            "SELECT walcast_image.n::pg_catalog.int4 FROM {images} WHERE (SELECT {} FROM {} AS {})",
            self.expression,
            self.row(),
            identifier(&self.table),
        )
    }

    /// The image as a relation of one row of the table's own type. Generated columns are not in the
    /// stream: what the policies read of them is computed here.
    fn row(&self) -> String {
        let image = format!("pg_catalog.unnest(ARRAY[walcast_image.t::{}])", self.name());
        if self.columns.iter().all(|(_, computed)| computed.is_none()) {
            return image;
        }
        let table = identifier(&self.table);
        let fields = self.columns.iter().map(|(name, computed)| match computed {
            Some(expression) => format!("({expression})"),
            None => format!("{table}.{}", identifier(name)),
        });
        let fields: Vec<String> = fields.collect();
        format!(
            "pg_catalog.unnest(ARRAY[(SELECT ROW({})::{} FROM {image} AS {table})])",
            fields.join(", "),
            self.name(),
        )
    }

    /// Numbers those of the images that the role finds in the table, by their key and with the same
    /// values in all columns that it may see and that the image has.
    pub(crate) fn key_sql(&self, rules: &Rules, lacking: &[usize]) -> String {
        let mut found = String::from("true");
        for (at, operator) in &self.key {
            if let Some((name, _)) = self.columns.get(*at) {
                let name = identifier(name);
                let _ = write!(
                    found,
                    " AND walcast_row.{name} {operator} walcast_new.{name}"
                );
            }
        }
        for name in rules.selectable_names(lacking) {
            let name = identifier(name);
            let _ = write!(
                found,
                " AND walcast_row.{name}::pg_catalog.text IS NOT DISTINCT FROM walcast_new.{name}::pg_catalog.text"
            );
        }
        format!(
            "SELECT walcast_image.n::pg_catalog.int4 \
             FROM {images} \
             CROSS JOIN LATERAL pg_catalog.unnest(ARRAY[walcast_image.t::{table}]) AS walcast_new \
             WHERE EXISTS (SELECT FROM {table} AS walcast_row WHERE {found})",
            images = images("$1::pg_catalog.text[]"),
            table = self.name(),
        )
    }

    fn name(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.table))
    }
}

/// The images, numbered from 1. Through a sub-select that is computed by itself, so that Postgres
/// expects as many whatever the parameter: then it keeps the statement's plan, instead of planning
/// at each run, which takes longer than the run.
fn images(array: &str) -> String {
    format!(
        "(SELECT {array} AS texts OFFSET 0) AS walcast_images \
         CROSS JOIN LATERAL pg_catalog.unnest(walcast_images.texts) WITH ORDINALITY AS walcast_image(t, n)"
    )
}

/// Restrictive policies all hold, and one of the permissive ones does. A policy without USING counts
/// for nothing, and without a permissive one nothing is visible.
///
/// Source: `add_security_quals` in Postgres's own sources, whose order of evaluation this keeps.
pub(crate) fn combine(policies: &[PolicyFacts]) -> Option<String> {
    let quals = |permissive: bool| -> Vec<String> {
        let policies = policies
            .iter()
            .filter(|policy| policy.permissive == permissive);
        policies
            .filter_map(|policy| policy.qual.as_ref())
            .map(|qual| format!("({qual})"))
            .collect()
    };
    let (mut permissive, mut all) = (quals(true), quals(false));
    permissive.reverse(); // Postgres ORs them from the last name to the first, and the first may raise
    if permissive.is_empty() {
        return None;
    }
    all.push(format!("({})", permissive.join(" OR ")));
    Some(all.join(" AND "))
}
