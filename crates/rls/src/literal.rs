//! A row as Postgres's composite literal: `("1",,"a ""b""")`.

use walcast_change::Cell;

/// Writes the fields of a row, in the order of its table's columns. Values are the texts that
/// `pgoutput` sent, so the types' input functions make exactly the values that were written.
/// `None`, where a value is no UTF-8: it can't be a parameter.
///
/// Source: the Postgres manual, "Composite Types", "Constructing Composite Values".
pub(crate) fn composite<'a>(fields: impl Iterator<Item = Cell<'a>>) -> Option<String> {
    let mut out = String::with_capacity(128);
    out.push('(');
    for (at, field) in fields.enumerate() {
        if at > 0 {
            out.push(',');
        }
        if let Cell::Text(text) = field {
            quoted(std::str::from_utf8(text).ok()?, &mut out);
        }
    }
    out.push(')');
    Some(out)
}

/// Always in quotes: an empty field without them is NULL.
fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for part in text.split_inclusive(['"', '\\']) {
        out.push_str(part);
        match part.as_bytes().last() {
            Some(b'"') => out.push('"'),
            Some(b'\\') => out.push('\\'),
            _ => {}
        }
    }
    out.push('"');
}

/// A name as SQL text, always in quotes.
pub(crate) fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as SQL text. The session has `standard_conforming_strings`.
pub(crate) fn text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn composites() {
        let check = |fields: &[Option<&str>], expected: &str| {
            let cells = fields.iter().map(|field| match field {
                Some(text) => Cell::Text(text.as_bytes()),
                None => Cell::Null,
            });
            assert_eq!(composite(cells).as_deref(), Some(expected));
        };
        check(&[], "()");
        check(&[None], "()");
        check(&[Some("")], r#"("")"#);
        check(&[Some("1"), None, Some("a,b")], r#"("1",,"a,b")"#);
        check(&[Some("\"\\"), Some("{\"x\"}")], r#"("""\\","{""x""}")"#);
        check(&[Some("é\n)("), Some("NULL")], "(\"é\n)(\",\"NULL\")");
    }

    #[test]
    fn what_is_no_utf8_is_refused() {
        assert_eq!(composite([Cell::Text(b"\xff")].into_iter()), None);
        assert_eq!(
            composite([Cell::Missing, Cell::Text(b"x")].into_iter()).as_deref(),
            Some("(,\"x\")")
        );
    }

    #[test]
    fn identifiers() {
        assert_eq!(identifier("a\"B c"), "\"a\"\"B c\"");
    }
}
