//! What decides what one role may see of one table, ready to be applied to rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use walcast_change::{Cell, ColumnSet, Row, Shape};

use crate::catalogue::Facts;
use crate::formula::Formula;
use crate::place::{self, Named};
use crate::policy::Policies;
use crate::projection::{Group, Prepared, Projection};
use crate::role::{self, Refusal};
use crate::{CheckConfig, literal};

/// The rules of one (table, role), as of one moment.
#[derive(Debug)]
pub(crate) struct Rules {
    /// Different for every reading, so that prepared statements of an older one are not used.
    pub(crate) id: u64,
    pub(crate) relation: u32,
    pub(crate) role: Arc<str>,
    /// Nobody was altering the table when they were read.
    pub(crate) settled: bool,
    /// Empty for a table or role that does not exist.
    pub(crate) digest: String,
    pub(crate) standing: Standing,
    /// OIDs of functions that count as well, as the text of an array.
    pub(crate) functions: String,
    /// What viewers' claims come to. `Err`: why each viewer has to be judged by itself.
    pub(crate) projection: Result<Arc<Projection>, String>,
    /// As the catalogue names it, for logs.
    table: String,
    columns: Vec<Column>,
    last_number: i16,
    /// SELECT on all columns, also on those that the table has no longer under their name.
    whole_table: bool,
    fits: Mutex<Fits>,
}

/// What came out of taking the policies apart.
#[derive(Debug)]
pub(crate) struct Study {
    pub(crate) functions: String,
    /// Of these functions; a part of the digest.
    pub(crate) versions: String,
    pub(crate) projection: Result<Arc<Projection>, String>,
}

impl Default for Study {
    fn default() -> Study {
        Study::refused("")
    }
}

impl Study {
    pub(crate) fn refused(reason: &str) -> Study {
        Study {
            functions: "{}".to_owned(),
            versions: String::new(),
            projection: Err(reason.to_owned()),
        }
    }
}

/// What there is to do for a row.
#[derive(Debug)]
pub(crate) enum Standing {
    /// The role is not judged for at all.
    Refused(Refusal),
    /// No such table, or no USAGE on its schema (`secured`: though there are policies).
    Nothing {
        secured: bool,
    },
    /// No policy that lets anything through.
    NoPolicy,
    /// No policies apply: the columns alone decide.
    Privileges,
    Policies(Box<Policies>),
}

#[derive(Debug)]
struct Column {
    name: String,
    number: i16,
    selectable: bool,
    generated: bool,
    type_oid: u32,
}

/// How a shape of the stream lies on the table's columns of today.
#[derive(Debug)]
pub(crate) struct Fit {
    /// For each column of the table its place in the shape, as far as it is known.
    places: Vec<Option<usize>>,
    /// For each column of the table, whether the shape has it with the same type.
    same_types: Vec<bool>,
    /// What the role may see, in the shape's numbering. `None`: no column of the key, so no row.
    pub(crate) visible: Option<Arc<ColumnSet>>,
    /// The same without what the table has no longer, so that nobody can look there for it.
    found: Option<Arc<ColumnSet>>,
}

/// A table has one shape at a time; a few while it changes.
const FITS_MAX: usize = 8;
type Fits = Vec<(Arc<Shape>, Arc<Fit>)>;

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

impl Rules {
    pub(crate) fn new(
        relation: u32,
        role: &Arc<str>,
        facts: Option<Facts>,
        shadowed: bool,
        study: Study,
        config: &CheckConfig,
    ) -> Rules {
        let (digest, table, columns, last_number, whole_table) = match &facts {
            Some(facts) => (
                format!("{}{}", facts.digest, study.versions),
                format!("{}.{}", facts.schema, facts.table),
                columns(facts),
                facts.last_number,
                facts.whole_table,
            ),
            None => Default::default(),
        };
        Rules {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            relation,
            role: role.clone(),
            settled: true,
            digest,
            table,
            standing: standing(role, facts, shadowed, config),
            functions: study.functions,
            projection: study.projection,
            columns,
            last_number,
            whole_table,
            fits: Mutex::default(),
        }
    }

    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Whether they were read when the table and the role had this digest. What does not exist has
    /// none, and a role that is refused by its name is not looked for.
    pub(crate) fn is_of(&self, digest: Option<&str>) -> bool {
        self.digest.is_empty() || digest.is_some_and(|digest| self.digest.starts_with(digest))
    }

    /// The catalogue is asked before each verdict, not only now and then.
    pub(crate) fn is_confirmed_always(&self) -> bool {
        matches!(
            self.standing,
            Standing::Policies(_) | Standing::NoPolicy | Standing::Nothing { secured: true }
        )
    }

    /// More than the row's own values may decide.
    pub(crate) fn reaches_out(&self) -> bool {
        matches!(&self.standing, Standing::Policies(policies) if policies.reaches_out)
    }

    /// Whether the role may hear of the table at all: some column of it is to be seen.
    pub(crate) fn may_hear(&self, shape: &Arc<Shape>) -> bool {
        let reachable = !matches!(
            self.standing,
            Standing::Refused(_) | Standing::Nothing { .. }
        );
        reachable && self.fit(shape).visible.is_some()
    }

    /// The viewers that one with these claims is as one with, if that is known.
    pub(crate) fn group(&self, claims: &str) -> Option<(Arc<Group>, Arc<Prepared>)> {
        let projection = self.projection.as_ref().ok()?;
        Some((projection.group(claims)??, projection.prepared()?))
    }

    /// The row's values for a formula, in the order of the table's columns. `None`: it lacks some,
    /// or has them with another type, or is no UTF-8, which Postgres is not asked about either.
    pub(crate) fn cells_for<'r>(&self, formula: &Formula, row: &'r Row) -> Option<Vec<Cell<'r>>> {
        let fit = self.fit(row.shape());
        let cells = fit.cells(row);
        let mut read = Vec::new();
        formula.columns(&mut read);
        let known = |at: &usize| {
            cells.get(*at).is_some_and(|cell| *cell != Cell::Missing)
                && fit.same_types.get(*at) == Some(&true)
        };
        let is_text = |cell: Cell<'_>| match cell {
            Cell::Text(text) => std::str::from_utf8(text).is_ok(),
            _ => true,
        };
        (read.iter().all(known) && cells.iter().copied().all(is_text)).then_some(cells)
    }

    pub(crate) fn fit(&self, shape: &Arc<Shape>) -> Arc<Fit> {
        let mut fits = self.fits.lock();
        if let Some((_, fit)) = fits.iter().find(|(known, _)| Arc::ptr_eq(known, shape)) {
            return fit.clone();
        }
        let fit = Arc::new(self.make_fit(shape));
        if fits.len() >= FITS_MAX {
            fits.clear();
        }
        fits.push((shape.clone(), fit.clone()));
        fit
    }

    fn make_fit(&self, shape: &Shape) -> Fit {
        let named = self.columns.iter().map(|column| Named {
            name: &column.name,
            number: column.number,
            generated: column.generated,
        });
        let names: Vec<&str> = shape.columns.iter().map(|column| &*column.name).collect();
        let places = place::places(named, self.last_number, &names);
        let selectable = self
            .columns
            .iter()
            .zip(&places)
            .filter(|(column, _)| column.selectable);
        let found: ColumnSet = selectable.filter_map(|(_, place)| *place).collect();
        let mut visible = found.clone();
        if self.whole_table {
            // Renamed or dropped since: the grant covers all columns, and did then.
            let gone = (0..shape.columns.len()).filter(|index| !places.contains(&Some(*index)));
            gone.for_each(|index| visible.insert(index));
        }
        let hearable = |columns: ColumnSet| {
            let names_rows = match shape.key.is_empty() {
                true => !columns.is_empty(),
                false => !columns.intersection(&shape.key).is_empty(),
            };
            names_rows.then(|| Arc::new(columns))
        };
        let same_types = self.columns.iter().zip(&places).map(|(column, place)| {
            let found = place.and_then(|place| shape.columns.get(place));
            found.is_some_and(|found| found.type_oid == column.type_oid)
        });
        Fit {
            same_types: same_types.collect(),
            places,
            found: hearable(found),
            visible: hearable(visible),
        }
    }

    /// The names of the table's columns that are selectable and not in `without`.
    pub(crate) fn selectable_names(&self, without: &[usize]) -> impl Iterator<Item = &str> {
        let columns = self.columns.iter().enumerate();
        columns
            .filter(|(at, column)| column.selectable && !without.contains(at))
            .map(|(_, column)| column.name.as_str())
    }
}

fn columns(facts: &Facts) -> Vec<Column> {
    let columns = facts.columns.iter();
    columns
        .map(|column| Column {
            name: column.name.clone(),
            number: column.number,
            selectable: column.selectable,
            generated: column.generated.is_some(),
            type_oid: column.type_oid,
        })
        .collect()
}

fn standing(role: &str, facts: Option<Facts>, shadowed: bool, config: &CheckConfig) -> Standing {
    if let Err(refusal) = role::check(role, facts.as_ref().map(|facts| &facts.role), config) {
        return Standing::Refused(refusal);
    }
    match facts {
        Some(facts) if !facts.schema_usage => Standing::Nothing {
            secured: facts.policies_apply,
        },
        None => Standing::Nothing { secured: false },
        Some(facts) if !facts.policies_apply => Standing::Privileges,
        Some(facts) => match Policies::new(facts, shadowed) {
            Some(policies) => Standing::Policies(Box::new(policies)),
            None => Standing::NoPolicy,
        },
    }
}

impl Fit {
    /// The row's values in the order of the table's columns.
    fn cells<'r>(&self, row: &'r Row) -> Vec<Cell<'r>> {
        let cells: Vec<Cell> = row.cells().collect();
        let cell = |place: &Option<usize>| place.and_then(|place| cells.get(place).copied());
        self.places
            .iter()
            .map(|place| cell(place).unwrap_or(Cell::Missing))
            .collect()
    }

    /// The row as a composite literal of the table's own type, and which of its columns are lacking.
    /// `None`, where a value is no UTF-8.
    pub(crate) fn image(&self, row: &Row) -> Option<Image> {
        let cells: Vec<Cell> = row.cells().collect();
        let cell = |place: &Option<usize>| {
            place
                .and_then(|place| cells.get(place).copied())
                .unwrap_or(Cell::Missing)
        };
        let text = literal::composite(self.places.iter().map(cell))?;
        let lacking = self.places.iter().enumerate();
        let lacking = lacking
            .filter(|(_, place)| cell(place) == Cell::Missing)
            .map(|(at, _)| at);
        Some(Image {
            text,
            lacking: lacking.collect(),
            found: self.found.clone(),
        })
    }
}

/// A row, ready to be sent.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) text: String,
    /// Positions among the table's columns.
    pub(crate) lacking: Arc<[usize]>,
    /// What is visible if the table has the row, see [`Fit`].
    pub(crate) found: Option<Arc<ColumnSet>>,
}
