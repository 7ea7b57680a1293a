//! Lines of `COPY … TO STDOUT` in text format → rows.

use std::sync::Arc;

use bytes::BytesMut;
use memchr::{memchr, memchr2};
use walcast_change::{ColumnSet, Row, Shape};
use walcast_pgoutput::Tuples;

/// Takes a chunk of rows at a time; they share one buffer.
pub(crate) struct Rows {
    shape: Arc<Shape>,
    /// For each of the shape's columns, whether the line has it.
    given: Box<[bool]>,
    /// The first field is the guard.
    guarded: bool,
    tuples: Tuples,
}

/// What is wrong with a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadLine {
    /// The guard says that the statement no longer runs as the viewer.
    Escaped,
    /// Not as many fields as were asked for.
    Malformed,
}

impl Rows {
    /// `None`: no table has so many columns.
    pub(crate) fn new(shape: Arc<Shape>, columns: &ColumnSet, guarded: bool) -> Option<Rows> {
        let count = shape.columns.len();
        Some(Rows {
            given: (0..count).map(|at| columns.contains(at)).collect(),
            tuples: Tuples::new(u16::try_from(count).ok()?),
            shape,
            guarded,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.tuples.len()
    }

    pub(crate) fn size_bytes(&self) -> usize {
        self.tuples.size_bytes()
    }

    /// The rows since the last time.
    pub(crate) fn take(&mut self) -> Vec<Row> {
        let tuples: Vec<_> = self.tuples.take();
        let rows = tuples
            .into_iter()
            .filter_map(|tuple| Row::new(self.shape.clone(), tuple));
        rows.collect()
    }

    /// Adds the row of one line, with or without its line feed; of a bad one nothing.
    pub(crate) fn push(&mut self, line: &[u8]) -> Result<(), BadLine> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let fields = match self.guarded {
            false => Some(line),
            true => match split(line) {
                (b"1", fields) => fields,
                _ => return Err(BadLine::Escaped),
            },
        };
        if self.fill(fields) && self.tuples.end_row() {
            return Ok(());
        }
        self.tuples.take_back();
        Err(BadLine::Malformed)
    }

    /// Whether there were exactly as many fields as columns to be given.
    fn fill(&mut self, mut fields: Option<&[u8]>) -> bool {
        for given in &self.given {
            match (given, fields) {
                (false, _) => self.tuples.unchanged(),
                (true, Some(rest)) => fields = field(rest, &mut self.tuples),
                (true, None) => return false,
            }
        }
        fields.is_none()
    }
}

/// Everything up to the first tab, and what follows it.
fn split(line: &[u8]) -> (&[u8], Option<&[u8]>) {
    match memchr(b'\t', line) {
        Some(at) => (&line[..at], Some(&line[at + 1..])),
        None => (line, None),
    }
}

/// Adds the first value of `line`; gives what follows it. A tab within a value is escaped.
fn field<'l>(line: &'l [u8], out: &mut Tuples) -> Option<&'l [u8]> {
    match memchr2(b'\t', b'\\', line) {
        Some(at) if line[at] == b'\\' => {
            let (text, rest) = split(line);
            match text {
                b"\\N" => out.null(),
                text => out.text_with(|out| unescape(text, out)),
            }
            rest
        }
        Some(at) => {
            out.text(&line[..at]);
            Some(&line[at + 1..])
        }
        None => {
            out.text(line);
            None
        }
    }
}

/// Source: the Postgres manual, "COPY", "Text Format": these are all the escapes that are written.
fn unescape(text: &[u8], out: &mut BytesMut) {
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some(&escaped) = rest.get(at + 1) else {
            rest = &rest[at..]; // a lone one at the end is never written
            break;
        };
        let byte = match escaped {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 0x0b,
            other => other,
        };
        out.extend_from_slice(&[byte]);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use walcast_change::{Cell, Types};
    use walcast_pgoutput::{Column, Relation, RelationId, ReplicaIdentity};

    use super::*;

    fn rows(columns: usize, given: &[usize], guarded: bool) -> Rows {
        let column = |nth| Column {
            key: nth == 0,
            name: Bytes::from(format!("c{nth}")),
            type_oid: 25,
            type_modifier: -1,
        };
        let relation = Relation {
            id: RelationId(1),
            schema: Bytes::from_static(b"public"),
            name: Bytes::from_static(b"t"),
            identity: ReplicaIdentity::Default,
            columns: (0..columns).map(column).collect(),
        };
        let shape = Arc::new(Shape::new(&relation, None, &Types::default()));
        let given = given.iter().copied().collect();
        Rows::new(shape, &given, guarded).expect("few columns")
    }

    #[test]
    fn lines() {
        use Cell::{Missing, Null, Text};
        let check = |given: &[usize], guarded, line: &[u8], expected: &[Cell<'_>]| {
            let mut rows = rows(3, given, guarded);
            assert_eq!(rows.push(line), Ok(()), "{line:?}");
            let taken = rows.take();
            assert_eq!(taken[0].cells().collect::<Vec<_>>(), expected, "{line:?}");
        };
        let all = &[0, 1, 2];
        check(all, false, b"1\t\\N\t\n", &[Text(b"1"), Null, Text(b"")]);
        check(all, false, b"\t\t", &[Text(b""); 3]);
        check(
            all,
            false,
            b"\\\\N\t\\\\\\t\\n\ta\\b\\f\\r\\v\xc3\xa9\\.\n",
            &[
                Text(b"\\N"),
                Text(b"\\\t\n"),
                Text(b"a\x08\x0c\r\x0b\xc3\xa9."),
            ],
        );
        check(&[1], false, b"x\n", &[Missing, Text(b"x"), Missing]);
        check(&[1], false, b"\n", &[Missing, Text(b""), Missing]);
        check(
            &[0, 2],
            true,
            b"1\t1\t2\n",
            &[Text(b"1"), Missing, Text(b"2")],
        );
    }

    #[test]
    fn bad_lines() {
        let check = |guarded, line: &[u8], expected| {
            let mut rows = rows(2, &[0, 1], guarded);
            assert_eq!(rows.push(b"1\t2\t3\n").is_err(), !guarded);
            assert_eq!(rows.push(line), Err(expected), "{line:?}");
            assert_eq!(rows.take().len(), usize::from(guarded));
        };
        for line in [&b"\n"[..], b"1\n", b"1\t2\t3\n", b"1\\t2\n"] {
            check(false, line, BadLine::Malformed);
        }
        for line in [&b"\n"[..], b"\\N\t1\t2\n", b"t\t1\t2\n"] {
            check(true, line, BadLine::Escaped);
        }
        check(true, b"1\n", BadLine::Malformed);
    }

    #[test]
    fn every_prefix_of_a_line_is_an_error_or_a_row() {
        let line = b"1\ta\\tb\t\\N";
        for cut in 0..=line.len() {
            let mut rows = rows(2, &[0, 1], true);
            let pushed = rows.push(&line[..cut]);
            assert_eq!(pushed.is_ok(), rows.take().len() == 1, "{cut}");
        }
    }
}
