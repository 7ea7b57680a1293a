//! The list of `in`: what stands between the braces of one of Postgres's array literals.

use super::{FilterError, OPERANDS_MAX};

/// The items of `(1,"two, three",NULL)`; `None` is NULL.
///
/// As Postgres reads arrays: blanks around items do not count, a backslash takes the next character
/// as it is, quotes stand around whole items, `()` is empty, an unquoted NULL is one.
pub(super) fn items(value: &str) -> Result<Box<[Option<Box<str>>]>, FilterError> {
    let inner = value
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'));
    let mut rest = trim_start(inner.ok_or(FilterError::List)?);
    let mut items = Vec::new();
    if rest.is_empty() {
        return Ok(items.into());
    }
    loop {
        let (item, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_item(quoted)?,
            None => plain_item(rest)?,
        };
        items.push(item);
        if items.len() > OPERANDS_MAX {
            return Err(FilterError::TooManyOperands);
        }
        let behind = trim_start(behind);
        match behind.strip_prefix(',') {
            Some(next) => rest = trim_start(next),
            None if behind.is_empty() => return Ok(items.into()),
            None => return Err(FilterError::Items),
        }
    }
}

type Item<'a> = (Option<Box<str>>, &'a str);

fn quoted_item(text: &str) -> Result<Item<'_>, FilterError> {
    let mut item = String::new();
    let mut chars = text.chars();
    loop {
        match chars.next().ok_or(FilterError::Items)? {
            '"' => return Ok((Some(item.into()), chars.as_str())),
            '\\' => item.push(chars.next().ok_or(FilterError::Items)?),
            char => item.push(char),
        }
    }
}

fn plain_item(text: &str) -> Result<Item<'_>, FilterError> {
    let mut item = String::new();
    // What an escape made is never trimmed, and never part of a NULL.
    let (mut kept, mut escaped) = (0, false);
    let mut chars = text.chars();
    let rest = loop {
        let rest = chars.as_str();
        match chars.next() {
            None | Some(',') => break rest,
            Some('"' | '{' | '}') => return Err(FilterError::Items),
            Some('\\') => {
                item.push(chars.next().ok_or(FilterError::Items)?);
                (kept, escaped) = (item.len(), true);
            }
            Some(char) => {
                item.push(char);
                if !is_space(char) {
                    kept = item.len();
                }
            }
        }
    };
    item.truncate(kept);
    match item.is_empty() {
        true => Err(FilterError::Items),
        false if !escaped && item.eq_ignore_ascii_case("null") => Ok((None, rest)),
        false => Ok((Some(item.into()), rest)),
    }
}

fn trim_start(text: &str) -> &str {
    text.trim_start_matches(is_space)
}

/// What Postgres takes for a blank in an array.
fn is_space(char: char) -> bool {
    matches!(char, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        for (text, expected) in [
            ("()", Some(&[][..])),
            ("( )", Some(&[])),
            ("(1,2)", Some(&[Some("1"), Some("2")])),
            ("( 1 , a b )", Some(&[Some("1"), Some("a b")])),
            (
                r#"("x,y", "q\"", "")"#,
                Some(&[Some("x,y"), Some("q\""), Some("")]),
            ),
            (
                "(null,NuLL,\"null\",n\\ull)",
                Some(&[None, None, Some("null"), Some("null")]),
            ),
            (
                r"(a\,b,\ ,c\ )",
                Some(&[Some("a,b"), Some(" "), Some("c ")]),
            ),
            ("(a(b),c)", Some(&[Some("a(b)"), Some("c")])),
            ("(1,)", None),
            ("(,1)", None),
            ("(\"a)", None),
            ("(\"a\"b)", None),
            ("(a\"b\")", None),
            ("({1},{2})", None),
            ("(a\\)", None),
        ] {
            let items = items(text);
            match (&items, expected) {
                (Ok(items), Some(expected)) => {
                    let found: Vec<_> = items.iter().map(Option::as_deref).collect();
                    assert_eq!(found, expected, "{text}");
                }
                (Err(error), None) => assert_eq!(*error, FilterError::Items, "{text}"),
                _ => panic!("{text}: {items:?}"),
            }
        }
        assert_eq!(items("1,2"), Err(FilterError::List));
    }
}
