//! Policies that are decided here, without a statement: equality of columns with what the claims
//! come to, under AND, OR and NOT.
//!
//! Only for types whose values are equal exactly if Postgres prints them alike, in every session:
//! uuid, the integers, boolean, and text and varchar under the database's own collation. All else
//! has no formula, and goes to Postgres. The three values of logic are SQL's.

use sqlparser::ast::{BinaryOperator, DataType, Expr, Ident, UnaryOperator};
use walcast_change::Cell;

use crate::claims::{self, Outline};

/// A column as far as a formula needs it.
#[derive(Clone, Debug)]
pub(crate) struct ColumnType {
    pub(crate) name: String,
    pub(crate) oid: u32,
    /// No collation, or the database's own, which tells all different texts apart.
    pub(crate) plain: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Formula {
    And(Vec<Formula>),
    Or(Vec<Formula>),
    Not(Box<Formula>),
    /// A boolean that the claims decide.
    Slot(usize),
    /// A boolean column.
    Column(usize),
    IsNull(usize),
    SlotIsNull(usize),
    /// `column = slot`.
    Equal(usize, usize),
    /// `column = ANY (slot)`.
    Any(usize, usize),
}

/// What a slot comes to for one viewer, as Postgres prints it in a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    Null,
    Text(Box<str>),
    /// Of one dimension.
    Array(Box<[Option<Box<str>>]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Uuid,
    Integer,
    Boolean,
    Text,
}

fn kind(oid: u32) -> Option<Kind> {
    Some(match oid {
        16 => Kind::Boolean,
        20 | 21 | 23 => Kind::Integer,
        25 | 1043 => Kind::Text,
        2950 => Kind::Uuid,
        _ => return None,
    })
}

fn element(oid: u32) -> Option<Kind> {
    Some(match oid {
        1005 | 1007 | 1016 => Kind::Integer,
        1009 | 1015 => Kind::Text,
        2951 => Kind::Uuid,
        _ => return None,
    })
}

/// Whether a slot of this type holds a list.
pub(crate) fn is_list(oid: u32) -> bool {
    element(oid).is_some()
}

/// Writes a policy as a formula. `types`: of the slots; `columns`: of the table. `Err`: why not.
pub(crate) fn compile(
    outline: &Outline,
    types: &[u32],
    table: &str,
    columns: &[ColumnType],
) -> Result<Formula, String> {
    let compiler = Compiler {
        types,
        table,
        columns,
    };
    compiler
        .boolean(&outline.tree)
        .ok_or_else(|| "it is more than equality of plain columns with claims".into())
}

struct Compiler<'c> {
    types: &'c [u32],
    table: &'c str,
    columns: &'c [ColumnType],
}

enum Operand {
    Column(usize, Kind),
    Slot(usize, Kind),
}

impl Compiler<'_> {
    fn boolean(&self, tree: &Expr) -> Option<Formula> {
        if let Some(slot) = claims::slot_of(tree) {
            return (kind(*self.types.get(slot)?)? == Kind::Boolean).then_some(Formula::Slot(slot));
        }
        match tree {
            Expr::Nested(inner) => self.boolean(inner),
            Expr::UnaryOp {
                op: UnaryOperator::Not,
                expr,
            } => Some(not(self.boolean(expr)?)),
            Expr::BinaryOp { left, op, right } => match op {
                BinaryOperator::And => Some(Formula::And(vec![
                    self.boolean(left)?,
                    self.boolean(right)?,
                ])),
                BinaryOperator::Or => {
                    Some(Formula::Or(vec![self.boolean(left)?, self.boolean(right)?]))
                }
                BinaryOperator::Eq => self.equal(left, right),
                BinaryOperator::NotEq => Some(not(self.equal(left, right)?)),
                _ => None,
            },
            Expr::AnyOp {
                left,
                compare_op: BinaryOperator::Eq,
                right,
                ..
            } => self.any(left, right),
            Expr::AllOp {
                left,
                compare_op: BinaryOperator::NotEq,
                right,
            } => Some(not(self.any(left, right)?)),
            Expr::IsNull(inner) => self.is_null(inner),
            Expr::IsNotNull(inner) => Some(not(self.is_null(inner)?)),
            _ => match self.operand(tree)? {
                Operand::Column(at, Kind::Boolean) => Some(Formula::Column(at)),
                _ => None,
            },
        }
    }

    fn equal(&self, left: &Expr, right: &Expr) -> Option<Formula> {
        match (self.operand(left)?, self.operand(right)?) {
            (Operand::Column(column, one), Operand::Slot(slot, other))
            | (Operand::Slot(slot, other), Operand::Column(column, one))
                if one == other =>
            {
                Some(Formula::Equal(column, slot))
            }
            _ => None,
        }
    }

    fn any(&self, left: &Expr, right: &Expr) -> Option<Formula> {
        let Operand::Column(column, one) = self.operand(left)? else {
            return None;
        };
        let slot = claims::slot_of(bare(right))?;
        (element(*self.types.get(slot)?)? == one).then_some(Formula::Any(column, slot))
    }

    fn is_null(&self, inner: &Expr) -> Option<Formula> {
        match self.operand(inner)? {
            Operand::Column(at, _) => Some(Formula::IsNull(at)),
            Operand::Slot(at, _) => Some(Formula::SlotIsNull(at)),
        }
    }

    fn operand(&self, tree: &Expr) -> Option<Operand> {
        let tree = bare(tree);
        if let Some(slot) = claims::slot_of(tree) {
            return Some(Operand::Slot(slot, kind(*self.types.get(slot)?)?));
        }
        match tree {
            Expr::Identifier(name) => self.column(name),
            Expr::CompoundIdentifier(names) => match names.as_slice() {
                [table, name] if claims::folded(table) == self.table => self.column(name),
                _ => None,
            },
            Expr::Cast {
                expr,
                data_type,
                format: None,
                ..
            } => {
                let Operand::Column(at, from) = self.operand(expr)? else {
                    return None;
                };
                Some(Operand::Column(at, cast(from, data_type)?))
            }
            _ => None,
        }
    }

    fn column(&self, name: &Ident) -> Option<Operand> {
        let name = claims::folded(name);
        let at = self.columns.iter().position(|column| column.name == name)?;
        let column = self.columns.get(at).filter(|column| column.plain)?;
        Some(Operand::Column(at, kind(column.oid)?))
    }
}

fn not(formula: Formula) -> Formula {
    Formula::Not(Box::new(formula))
}

fn bare(mut tree: &Expr) -> &Expr {
    while let Expr::Nested(inner) = tree {
        tree = inner;
    }
    tree
}

/// Casts that change no text and can't fail. (A boolean is `t` in a row and `true` as a text.)
fn cast(from: Kind, to: &DataType) -> Option<Kind> {
    match (from, to) {
        (
            Kind::Uuid | Kind::Integer | Kind::Text,
            DataType::Text | DataType::CharacterVarying(None) | DataType::Varchar(None),
        ) => Some(Kind::Text),
        (Kind::Integer, DataType::BigInt(None) | DataType::Int8(None)) => Some(Kind::Integer),
        (Kind::Uuid, DataType::Uuid) => Some(Kind::Uuid),
        _ => None,
    }
}

impl Formula {
    /// The columns it reads.
    pub(crate) fn columns(&self, into: &mut Vec<usize>) {
        match self {
            Formula::And(parts) | Formula::Or(parts) => {
                parts.iter().for_each(|part| part.columns(into));
            }
            Formula::Not(part) => part.columns(into),
            Formula::Slot(_) | Formula::SlotIsNull(_) => {}
            Formula::Column(at)
            | Formula::IsNull(at)
            | Formula::Equal(at, _)
            | Formula::Any(at, _) => {
                if !into.contains(at) {
                    into.push(*at);
                }
            }
        }
    }

    /// The slots it reads.
    pub(crate) fn slots(&self) -> Vec<usize> {
        match self {
            Formula::And(parts) | Formula::Or(parts) => {
                parts.iter().flat_map(Formula::slots).collect()
            }
            Formula::Not(part) => part.slots(),
            Formula::Column(_) | Formula::IsNull(_) => Vec::new(),
            Formula::Slot(slot)
            | Formula::SlotIsNull(slot)
            | Formula::Equal(_, slot)
            | Formula::Any(_, slot) => vec![*slot],
        }
    }

    /// The truth for a row (by the table's columns) and a viewer (by the slots). `None`: NULL.
    pub(crate) fn holds(&self, row: &[Cell<'_>], values: &[Value]) -> Option<bool> {
        match self {
            Formula::And(parts) => join(parts, row, values, false),
            Formula::Or(parts) => join(parts, row, values, true),
            Formula::Not(part) => part.holds(row, values).map(|truth| !truth),
            Formula::Slot(slot) => match values.get(*slot)? {
                Value::Text(text) => Some(&**text == "t"),
                _ => None,
            },
            Formula::Column(at) => text(row, *at).map(|text| text == b"t"),
            Formula::IsNull(at) => Some(text(row, *at).is_none()),
            Formula::SlotIsNull(slot) => Some(matches!(values.get(*slot), Some(Value::Null))),
            Formula::Equal(at, slot) => match (text(row, *at)?, values.get(*slot)?) {
                (text, Value::Text(value)) => Some(text == value.as_bytes()),
                _ => None,
            },
            Formula::Any(at, slot) => match values.get(*slot)? {
                Value::Array(list) if list.is_empty() => Some(false),
                Value::Array(list) => {
                    let text = text(row, *at)?;
                    let found = list.iter().flatten().any(|value| text == value.as_bytes());
                    match found {
                        true => Some(true),
                        false if list.contains(&None) => None,
                        false => Some(false),
                    }
                }
                _ => None,
            },
        }
    }
}

/// AND (`end` is false) and OR (`end` is true).
fn join(parts: &[Formula], row: &[Cell<'_>], values: &[Value], end: bool) -> Option<bool> {
    let mut unknown = false;
    for part in parts {
        match part.holds(row, values) {
            Some(truth) if truth == end => return Some(end),
            Some(_) => {}
            None => unknown = true,
        }
    }
    (!unknown).then_some(!end)
}

fn text<'r>(row: &'r [Cell<'_>], at: usize) -> Option<&'r [u8]> {
    match row.get(at) {
        Some(Cell::Text(text)) => Some(text),
        _ => None,
    }
}

/// The elements of an array of one dimension, as Postgres prints it. `None`: it is another text.
pub(crate) fn elements(text: &str) -> Option<Box<[Option<Box<str>>]>> {
    let inner = text.strip_prefix('{')?.strip_suffix('}')?;
    let mut elements = Vec::new();
    if inner.is_empty() {
        return Some(elements.into());
    }
    let mut chars = inner.chars();
    loop {
        let (mut element, mut quoted, mut inside, mut more) = (String::new(), false, false, false);
        while let Some(char) = chars.next() {
            match (char, inside) {
                ('"', true) => inside = false,
                ('\\', true) => element.push(chars.next()?),
                (char, true) => element.push(char),
                (',', false) => {
                    more = true;
                    break;
                }
                ('"', false) if element.is_empty() && !quoted => (inside, quoted) = (true, true),
                ('{' | '}' | '"' | '\\', false) => return None,
                (_, false) if quoted => return None,
                (char, false) => element.push(char),
            }
        }
        if inside {
            return None;
        }
        elements.push(match quoted {
            false if element == "NULL" => None,
            _ => Some(element.into_boxed_str()),
        });
        if !more {
            return Some(elements.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays() {
        let check = |text: &str, expected: &[Option<&str>]| {
            let found = elements(text).expect(text);
            let found: Vec<Option<&str>> = found.iter().map(Option::as_deref).collect();
            assert_eq!(found, expected, "{text}");
        };
        check("{}", &[]);
        check("{a}", &[Some("a")]);
        check("{a,NULL,\"NULL\"}", &[Some("a"), None, Some("NULL")]);
        check(
            r#"{"a,b","c\\d","\"","",x}"#,
            &[Some("a,b"), Some("c\\d"), Some("\""), Some(""), Some("x")],
        );
        for text in [
            "",
            "{",
            "{{a}}",
            "[0:1]={a,b}",
            r#"{"a"#,
            r#"{"a"b}"#,
            r#"{"a\"#,
        ] {
            assert_eq!(elements(text), None, "{text}");
        }
    }

    #[test]
    fn three_values() {
        let row = [Cell::Text(b"a"), Cell::Null, Cell::Text(b"t")];
        let text = |text: &str| Value::Text(text.into());
        let list = |items: &[Option<&str>]| {
            Value::Array(items.iter().map(|item| item.map(Into::into)).collect())
        };
        let values = [
            text("a"),
            text("b"),
            Value::Null,
            text("t"),
            list(&[Some("a"), None]),
            list(&[Some("b"), None]),
            list(&[]),
        ];
        use Formula::{And, Any, Column, Equal, IsNull, Or, Slot, SlotIsNull};
        let (yes, no, unknown) = (Equal(0, 0), Equal(0, 1), Equal(1, 0));
        for (formula, expected) in [
            (yes.clone(), Some(true)),
            (no.clone(), Some(false)),
            (unknown.clone(), None),
            (Equal(0, 2), None),
            (not(unknown.clone()), None),
            (And(vec![unknown.clone(), no.clone()]), Some(false)),
            (And(vec![unknown.clone(), yes.clone()]), None),
            (Or(vec![unknown.clone(), yes.clone()]), Some(true)),
            (Or(vec![unknown.clone(), no.clone()]), None),
            (Slot(3), Some(true)),
            (Slot(2), None),
            (Column(2), Some(true)),
            (Column(1), None),
            (Equal(2, 3), Some(true)),
            (Any(0, 4), Some(true)),
            (Any(0, 5), None),
            (not(Any(0, 5)), None),
            (Any(0, 6), Some(false)),
            (Any(1, 6), Some(false)),
            (Any(1, 4), None),
            (Any(0, 2), None),
            (IsNull(1), Some(true)),
            (not(IsNull(0)), Some(true)),
            (SlotIsNull(2), Some(true)),
            (SlotIsNull(0), Some(false)),
        ] {
            assert_eq!(formula.holds(&row, &values), expected, "{formula:?}");
        }
    }
}
