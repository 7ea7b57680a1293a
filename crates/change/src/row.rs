//! One version of a row.

use std::sync::Arc;

use walcast_pgoutput::{Tuple, Value};

use crate::{ColumnSet, Shape};

/// A row's values with the shape they were written with. Cloning shares the bytes.
#[derive(Clone, Debug)]
pub struct Row {
    shape: Arc<Shape>,
    tuple: Tuple,
    /// The old version, which has the TOASTed values that an UPDATE left alone.
    fill: Option<Tuple>,
    /// Only the replica identity's columns were sent.
    key_only: bool,
}

/// One value of a [`Row`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell<'a> {
    Null,
    /// What the type's output function prints.
    Text(&'a [u8]),
    /// Postgres did not send it: an unchanged TOASTed value, or a column outside the key.
    Missing,
}

impl Row {
    /// A row that is in the table, as `tuple` has it; not a change's. `None`: it has not as many
    /// values as the shape has columns.
    pub fn new(shape: Arc<Shape>, tuple: Tuple) -> Option<Row> {
        (tuple.len() == shape.columns.len()).then(|| Row::full(shape, tuple, None))
    }

    pub(crate) fn full(shape: Arc<Shape>, tuple: Tuple, fill: Option<Tuple>) -> Row {
        Row {
            shape,
            tuple,
            fill,
            key_only: false,
        }
    }

    pub(crate) fn key(shape: Arc<Shape>, tuple: Tuple) -> Row {
        Row {
            shape,
            tuple,
            fill: None,
            key_only: true,
        }
    }

    pub fn shape(&self) -> &Arc<Shape> {
        &self.shape
    }

    /// The values as Postgres sent them, without those filled in from the old row.
    pub fn tuple(&self) -> &Tuple {
        &self.tuple
    }

    /// Only the replica identity's columns are known.
    pub fn is_key_only(&self) -> bool {
        self.key_only
    }

    /// The size of the values as Postgres sent them, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.tuple.size_bytes()
    }

    /// One cell for each of the shape's columns, in their order.
    pub fn cells(&self) -> impl Iterator<Item = Cell<'_>> {
        let mut fill = self.fill.as_ref().map(Tuple::values);
        let mut values = self.tuple.values();
        self.shape.columns.iter().map(move |column| {
            let old = fill.as_mut().and_then(Iterator::next);
            match values.next() {
                Some(_) if self.key_only && !column.identity => Cell::Missing,
                Some(Value::Unchanged) => cell(old),
                value => cell(value),
            }
        })
    }

    /// The cell of column `index`; walks the columns before it.
    pub fn cell(&self, index: usize) -> Cell<'_> {
        self.cells().nth(index).unwrap_or(Cell::Missing)
    }

    /// The columns whose value is known.
    pub fn known(&self) -> ColumnSet {
        let cells = self.cells().enumerate();
        cells
            .filter(|(_, cell)| *cell != Cell::Missing)
            .map(|(index, _)| index)
            .collect()
    }
}

fn cell(value: Option<Value<'_>>) -> Cell<'_> {
    match value {
        Some(Value::Null) => Cell::Null,
        Some(Value::Text(text)) => Cell::Text(text),
        // Binary values are never asked for, so one is as good as not sent.
        Some(Value::Unchanged | Value::Binary(_)) | None => Cell::Missing,
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use walcast_pgoutput::encode::tuple;
    use walcast_pgoutput::{Column, Relation, RelationId, ReplicaIdentity};

    use super::*;
    use crate::Types;

    /// Three text columns, the first of which is the identity.
    fn shape() -> Arc<Shape> {
        let column = |(nth, name)| Column {
            key: nth == 0,
            name: Bytes::from_static(name),
            type_oid: 25,
            type_modifier: -1,
        };
        let names: [&'static [u8]; 3] = [b"a", b"b", b"c"];
        let relation = Relation {
            id: RelationId(1),
            schema: Bytes::from_static(b"public"),
            name: Bytes::from_static(b"t"),
            identity: ReplicaIdentity::Default,
            columns: names.into_iter().enumerate().map(column).collect(),
        };
        Arc::new(Shape::new(&relation, None, &Types::default()))
    }

    fn cells(row: &Row) -> Vec<Cell<'_>> {
        row.cells().collect()
    }

    #[test]
    fn cells_of_a_full_row() {
        use Value::{Binary, Null, Text, Unchanged};
        let old = || Some(tuple([Text(b"old"), Null, Unchanged]));
        for (values, fill, expected) in [
            (
                [Text(b"1"), Null, Text(b"")],
                None,
                [Cell::Text(b"1"), Cell::Null, Cell::Text(b"")],
            ),
            ([Unchanged; 3], None, [Cell::Missing; 3]),
            (
                [Unchanged; 3],
                old(),
                [Cell::Text(b"old"), Cell::Null, Cell::Missing],
            ),
            (
                [Null, Text(b"new"), Text(b"")],
                old(),
                [Cell::Null, Cell::Text(b"new"), Cell::Text(b"")],
            ),
            ([Binary(b"1"); 3], old(), [Cell::Missing; 3]),
        ] {
            let row = Row::full(shape(), tuple(values), fill);
            assert_eq!(cells(&row), expected, "{values:?}");
            assert_eq!(row.cell(1), expected[1]);
            assert_eq!(row.cell(3), Cell::Missing);
            let known = (0..3).filter(|&nth| expected[nth] != Cell::Missing);
            assert_eq!(row.known(), known.collect());
            assert!(!row.is_key_only());
        }
    }

    #[test]
    fn a_key_has_the_identity_alone() {
        let row = Row::key(
            shape(),
            tuple([Value::Text(b"1"), Value::Null, Value::Null]),
        );
        let expected = [Cell::Text(b"1"), Cell::Missing, Cell::Missing];
        assert_eq!(cells(&row), expected);
        assert!(row.is_key_only());
    }

    #[test]
    fn a_row_shorter_than_its_shape_lacks_the_rest() {
        let row = Row::full(shape(), tuple([Value::Null]), None);
        let expected = [Cell::Null, Cell::Missing, Cell::Missing];
        assert_eq!(cells(&row), expected);
    }
}
