//! A row as it stands in the message: checked once, walked without copying.

use std::fmt;

use bytes::Bytes;

/// A row's values in the order of its relation's columns.
#[derive(Clone, PartialEq, Eq)]
pub struct Tuple {
    columns: u16,
    /// The values as `pgoutput` writes them, already checked by the decoder.
    body: Bytes,
}

/// One value of a [`Tuple`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    Null,
    /// A TOASTed value that the UPDATE did not touch; the message doesn't have it.
    Unchanged,
    /// What the type's output function prints, in the client encoding.
    Text(&'a [u8]),
    /// What the type's send function gives; only where `binary` was asked for.
    Binary(&'a [u8]),
}

impl Tuple {
    /// `body` must hold exactly `columns` well-formed values: the decoder has just walked it.
    pub(crate) fn checked(columns: u16, body: Bytes) -> Tuple {
        Tuple { columns, body }
    }

    /// The tuple whose [`body`](Tuple::body) was written down before; `None` unless `body` holds
    /// exactly `columns` well-formed values. Shares the bytes.
    pub fn from_body(columns: u16, body: Bytes) -> Option<Tuple> {
        let mut rest = &body[..];
        for _ in 0..columns {
            (_, rest) = split_value(rest)?;
        }
        rest.is_empty().then_some(Tuple { columns, body })
    }

    /// The values as `pgoutput` writes them, without their number.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The size of the values as they stand in the message, in bytes.
    pub fn size_bytes(&self) -> usize {
        self.body.len()
    }

    pub fn values(&self) -> Values<'_> {
        Values {
            left: self.columns,
            rest: &self.body,
        }
    }

    /// The value of column `index`; walks the columns before it.
    pub fn value(&self, index: usize) -> Option<Value<'_>> {
        self.values().nth(index)
    }
}

impl fmt::Debug for Tuple {
    /// The shape only: a row's values must not reach a log by way of `{:?}`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Tuple({} columns, {} bytes)",
            self.columns,
            self.body.len()
        )
    }
}

/// Walks a [`Tuple`].
#[derive(Clone)]
pub struct Values<'a> {
    left: u16,
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        let (value, rest) = split_value(self.rest)?;
        self.rest = rest;
        Some(value)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for Values<'_> {}

/// The first value of `bytes` and what follows it; `None` where it is cut short or of no known kind.
pub(crate) fn split_value(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    let (&kind, rest) = bytes.split_first()?;
    match kind {
        b'n' => Some((Value::Null, rest)),
        b'u' => Some((Value::Unchanged, rest)),
        b't' => split_sized(rest).map(|(text, rest)| (Value::Text(text), rest)),
        b'b' => split_sized(rest).map(|(data, rest)| (Value::Binary(data), rest)),
        _ => None,
    }
}

fn split_sized(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let size = usize::try_from(i32::from_be_bytes(*size)).ok()?;
    rest.split_at_checked(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::encode::tuple;

    #[test]
    fn from_body_takes_exactly_its_values() {
        let whole = tuple([
            Value::Null,
            Value::Unchanged,
            Value::Text(b"x"),
            Value::Binary(b""),
        ]);
        let body = whole.body();
        assert_eq!(Tuple::from_body(4, body.clone()), Some(whole.clone()));
        for cut in 0..body.len() {
            assert_eq!(Tuple::from_body(4, body.slice(..cut)), None, "{cut}");
        }
        for columns in [0, 3, 5] {
            assert_eq!(Tuple::from_body(columns, body.clone()), None, "{columns}");
        }
        assert_eq!(Tuple::from_body(1, Bytes::from_static(b"x")), None);
    }
}
