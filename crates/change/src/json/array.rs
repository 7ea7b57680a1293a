//! Array text (`array_out`) → JSON array.
//!
//! Postgres manual, 8.15.6 "Array Input and Output Syntax".

use super::quoted::{self, Quote};
use super::write_cell;
use crate::{JsonType, Numbers};

/// `MAXDIM` of Postgres.
const DIMENSIONS_MAX: usize = 6;

/// Appends the array. On `None` the text is malformed and `out` has a part of it at its end.
pub(super) fn write(
    element: &JsonType,
    delimiter: u8,
    text: &[u8],
    numbers: Numbers,
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut left = after_bounds(text)?;
    let mut depth = 0;
    let mut leaves_at = None; // the depth of the elements: the same for all of them
    let mut expected = Expected::First;
    loop {
        let (&byte, rest) = left.split_first()?;
        match (byte, expected) {
            (b'{', Expected::First | Expected::Next) => {
                let deeper = depth < leaves_at.unwrap_or(DIMENSIONS_MAX);
                deeper.then(|| depth += 1)?;
                out.push(b'[');
                expected = Expected::First;
                left = rest;
            }
            (b'}', Expected::First | Expected::Separator) if depth > 0 => {
                depth -= 1;
                out.push(b']');
                if depth == 0 {
                    return rest.is_empty().then_some(());
                }
                expected = Expected::Separator;
                left = rest;
            }
            (_, Expected::Separator) if byte == delimiter => {
                out.push(b',');
                expected = Expected::Next;
                left = rest;
            }
            (_, Expected::First | Expected::Next) if depth > 0 => {
                (*leaves_at.get_or_insert(depth) == depth).then_some(())?;
                expected = Expected::Separator;
                left = match byte {
                    b'"' => write_quoted(element, rest, numbers, out)?,
                    _ => write_bare(element, delimiter, left, numbers, out)?,
                };
            }
            _ => return None,
        }
    }
}

#[derive(Clone, Copy)]
enum Expected {
    /// An element, a sub-array or the end: just after `{`.
    First,
    /// An element or a sub-array: just after a delimiter.
    Next,
    /// A delimiter or the end.
    Separator,
}

/// What follows `[1:2][0:3]=`, where that stands before the braces.
fn after_bounds(text: &[u8]) -> Option<&[u8]> {
    if !text.starts_with(b"[") {
        return Some(text);
    }
    let (bounds, rest) = text.split_at(memchr::memchr(b'=', text)?);
    let is_bound = |byte: &u8| byte.is_ascii_digit() || b"[]:-+".contains(byte);
    bounds.iter().all(is_bound).then(|| rest.get(1..))?
}

/// Writes the element whose opening quote stands before `text`; what follows it.
fn write_quoted<'a>(
    element: &JsonType,
    text: &'a [u8],
    numbers: Numbers,
    out: &mut Vec<u8>,
) -> Option<&'a [u8]> {
    let (value, rest) = quoted::read(text, Quote::Escaped)?;
    write_cell(element, &value, numbers, out);
    Some(rest)
}

/// Writes the element at the start of `text`, which has no quotes; what follows it.
fn write_bare<'a>(
    element: &JsonType,
    delimiter: u8,
    text: &'a [u8],
    numbers: Numbers,
    out: &mut Vec<u8>,
) -> Option<&'a [u8]> {
    let (value, rest) = text.split_at(memchr::memchr2(delimiter, b'}', text)?);
    if value.is_empty() || memchr::memchr3(b'{', b'"', b'\\', value).is_some() {
        return None;
    }
    match value.eq_ignore_ascii_case(b"NULL") {
        true => out.extend_from_slice(b"null"),
        false => write_cell(element, value, numbers, out),
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn check(element: JsonType, delimiter: u8, text: &str, expected: &str) {
        let json = JsonType::Array {
            element: Arc::new(element),
            delimiter,
        };
        let mut out = Vec::new();
        write_cell(&json, text.as_bytes(), Numbers::Number, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{text}");
    }

    #[test]
    fn numbers() {
        for (text, json) in [
            ("{}", "[]"),
            ("{1}", "[1]"),
            ("{1,NULL,-3}", "[1,null,-3]"),
            ("{{1,2},{3,4}}", "[[1,2],[3,4]]"),
            ("[0:2]={1,2,3}", "[1,2,3]"),
            ("[-1:0][2:2]={{1},{2}}", "[[1],[2]]"),
            ("{NaN,1e+20}", r#"["NaN",1e+20]"#),
            ("{{{{{{1}}}}}}", "[[[[[[1]]]]]]"),
        ] {
            check(JsonType::Number, b',', text, json);
        }
    }

    #[test]
    fn strings() {
        for (text, json) in [
            (
                r#"{"a,b",NULL,"NULL","q\""}"#,
                r#"["a,b",null,"NULL","q\""]"#,
            ),
            (r#"{"","\\",a b,"{}"}"#, r#"["","\\","a b","{}"]"#),
            ("{\"line\nbreak\",ü}", r#"["line\nbreak","ü"]"#),
        ] {
            check(JsonType::String, b',', text, json);
        }
    }

    #[test]
    fn boxes_have_a_delimiter_of_their_own() {
        let json = r#"["(3,4),(1,2)",null,"(0,0),(0,0)"]"#;
        check(
            JsonType::String,
            b';',
            "{(3,4),(1,2);NULL;(0,0),(0,0)}",
            json,
        );
    }

    #[test]
    fn malformed_text_is_a_string() {
        for text in [
            "",
            "{",
            "}",
            "{1",
            "1}",
            "{1,}",
            "{,1}",
            "{1,,2}",
            "{1}2",
            "{1}{2}",
            "{1 \"a\"}",
            "{\"a",
            "{\"a\"b}",
            "{1,{2}}",
            "{{1},2}",
            "{{1}{2}}",
            "{{{{{{{1}}}}}}}",
            "[1:2]",
            "[1:2]={1",
            "[x]={1}",
            "[=",
            "1",
            "{a\\b}",
            "{a\"b\"}",
            "{a{b}",
            "{\"a\"\"b\"}",
            ",",
            "{1};",
        ] {
            let mut string = Vec::new();
            crate::write_string(text.as_bytes(), &mut string);
            let string = String::from_utf8(string).unwrap();
            check(JsonType::Number, b',', text, &string);
        }
    }
}
