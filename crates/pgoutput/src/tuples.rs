//! Rows made here instead of by Postgres, many in one buffer.

use bytes::{Bytes, BytesMut};

use crate::Tuple;
use crate::encode::{put_null, put_text_with, put_unchanged};

/// Writes rows of equally many columns one after the other into one buffer, of which their
/// [`Tuple`]s are slices.
///
/// ```
/// # use walcast_pgoutput::{Tuples, Value};
/// let mut rows = Tuples::new(2);
/// rows.text(b"1");
/// rows.null();
/// assert!(rows.end_row());
/// let rows: Vec<_> = rows.take();
/// assert_eq!(rows[0].values().collect::<Vec<_>>(), [Value::Text(b"1"), Value::Null]);
/// ```
#[derive(Debug)]
pub struct Tuples {
    columns: u16,
    body: BytesMut,
    /// Where the rows that are complete end.
    ends: Vec<usize>,
    /// Values of the row in progress.
    open: u16,
}

impl Tuples {
    /// No rows yet; each is to have `columns` values.
    pub fn new(columns: u16) -> Tuples {
        Tuples {
            columns,
            body: BytesMut::new(),
            ends: Vec::new(),
            open: 0,
        }
    }

    pub fn null(&mut self) {
        put_null(&mut self.body);
        self.open = self.open.saturating_add(1);
    }

    /// A value that is not there to be known; see [`Value::Unchanged`](crate::Value::Unchanged).
    pub fn unchanged(&mut self) {
        put_unchanged(&mut self.body);
        self.open = self.open.saturating_add(1);
    }

    pub fn text(&mut self, text: &[u8]) {
        self.text_with(|out| out.extend_from_slice(text));
    }

    /// A text that `write` appends.
    pub fn text_with(&mut self, write: impl FnOnce(&mut BytesMut)) {
        put_text_with(&mut self.body, write);
        self.open = self.open.saturating_add(1);
    }

    /// Ends the row in progress. `false`: it has not as many values as there are columns, and is
    /// taken back.
    pub fn end_row(&mut self) -> bool {
        let whole = self.open == self.columns;
        if whole {
            self.open = 0;
            self.ends.push(self.body.len());
        } else {
            self.take_back();
        }
        whole
    }

    /// Forgets the row in progress.
    pub fn take_back(&mut self) {
        self.open = 0;
        self.body.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Rows that are complete.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Of all that was written since the last [`take`](Tuples::take), in bytes.
    pub fn size_bytes(&self) -> usize {
        self.body.len()
    }

    /// The rows so far, collected as the caller likes; a row in progress is lost.
    pub fn take<C: FromIterator<Tuple>>(&mut self) -> C {
        self.open = 0;
        let body: Bytes = self.body.split().freeze();
        let mut start = 0;
        let rows = self.ends.drain(..).map(|end| {
            let row = body.slice(start..end);
            start = end;
            Tuple::checked(self.columns, row)
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Value;
    use crate::encode::tuple;

    #[test]
    fn rows_are_those_of_the_encoder() {
        use Value::{Null, Text, Unchanged};
        let mut rows = Tuples::new(3);
        let expected = [
            [Null, Text(b"a"), Unchanged],
            [Text(b""), Text(b"\0\n"), Null],
        ];
        for _ in 0..2 {
            for row in expected {
                for value in row {
                    match value {
                        Null => rows.null(),
                        Text(text) => rows.text(text),
                        _ => rows.unchanged(),
                    }
                }
                assert!(rows.end_row());
            }
            assert_eq!((rows.len(), rows.is_empty()), (2, false));
            assert_eq!(rows.take::<Vec<_>>(), expected.map(tuple));
            assert_eq!((rows.len(), rows.size_bytes()), (0, 0));
        }
    }

    #[test]
    fn a_row_of_another_length_is_taken_back() {
        let mut rows = Tuples::new(2);
        rows.text(b"1");
        rows.null();
        assert!(rows.end_row());
        for values in [0, 1, 3] {
            (0..values).for_each(|_| rows.text(b"x"));
            assert!(!rows.end_row());
        }
        assert_eq!(
            rows.take::<Vec<_>>(),
            [tuple([Value::Text(b"1"), Value::Null])]
        );
    }
}
