//! Composite text (`record_out`) → JSON object.
//!
//! Postgres manual, 8.16.6 "Composite Type Input and Output Syntax".

use super::quoted::{self, Quote};
use super::write_cell;
use crate::{JsonType, Numbers};

/// Appends the object; `fields` are the ready keys (`"name":`) and types in their order. On `None`
/// the text is malformed or has another number of fields, and `out` has a part of it at its end.
pub(super) fn write(
    fields: &[(Box<[u8]>, JsonType)],
    text: &[u8],
    numbers: Numbers,
    out: &mut Vec<u8>,
) -> Option<()> {
    let mut left = text.strip_prefix(b"(")?;
    out.push(b'{');
    for (nth, (key, json)) in fields.iter().enumerate() {
        if nth > 0 {
            left = left.strip_prefix(b",")?;
            out.push(b',');
        }
        out.extend_from_slice(key);
        left = write_field(json, left, numbers, out)?;
    }
    out.push(b'}');
    (left == b")").then_some(())
}

/// Writes the field at the start of `text`; what follows it. An empty field is NULL, an empty
/// string has quotes.
fn write_field<'a>(
    json: &JsonType,
    text: &'a [u8],
    numbers: Numbers,
    out: &mut Vec<u8>,
) -> Option<&'a [u8]> {
    if let Some(content) = text.strip_prefix(b"\"") {
        let (value, rest) = quoted::read(content, Quote::Doubled)?;
        write_cell(json, &value, numbers, out);
        return Some(rest);
    }
    let (value, rest) = text.split_at(memchr::memchr2(b',', b')', text)?);
    if memchr::memchr3(b'(', b'"', b'\\', value).is_some() {
        return None;
    }
    match value {
        b"" => out.extend_from_slice(b"null"),
        value => write_cell(json, value, numbers, out),
    }
    Some(rest)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn composite<const N: usize>(fields: [(&str, JsonType); N]) -> JsonType {
        let key = |name: &str| format!("\"{name}\":").into_bytes().into_boxed_slice();
        let fields = fields.into_iter().map(|(name, json)| (key(name), json));
        JsonType::Composite {
            fields: fields.collect(),
        }
    }

    fn check(json: &JsonType, text: &str, expected: &str) {
        let mut out = Vec::new();
        write_cell(json, text.as_bytes(), Numbers::Number, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{text}");
    }

    #[test]
    fn objects() {
        let pair = composite([("n", JsonType::Number), ("s", JsonType::String)]);
        for (text, json) in [
            (r#"(1,"x,""y")"#, r#"{"n":1,"s":"x,\"y"}"#),
            ("(1,x)", r#"{"n":1,"s":"x"}"#),
            ("(,)", r#"{"n":null,"s":null}"#),
            (r#"(,"")"#, r#"{"n":null,"s":""}"#),
            (r#"(1,"a\\b"" (c)")"#, r#"{"n":1,"s":"a\\b\" (c)"}"#),
            (r#"(1,"\"")"#, r#"{"n":1,"s":"\""}"#),
        ] {
            check(&pair, text, json);
        }
        check(&composite([]), "()", "{}");
        check(&composite([("n", JsonType::Number)]), "()", r#"{"n":null}"#);
    }

    #[test]
    fn nested_with_arrays() {
        let numbers = JsonType::Array {
            element: Arc::new(JsonType::Number),
            delimiter: b',',
        };
        let inner = composite([("b", JsonType::Bool), ("a", numbers)]);
        let inners = JsonType::Array {
            element: Arc::new(inner.clone()),
            delimiter: b',',
        };
        let outer = composite([("one", inner), ("many", inners)]);
        check(
            &outer,
            r#"("(t,""{1,NULL}"")","{""(f,{})"",NULL,""(,\\""{2,3}\\"")""}")"#,
            r#"{"one":{"b":true,"a":[1,null]},"many":[{"b":false,"a":[]},null,{"b":null,"a":[2,3]}]}"#,
        );
    }

    #[test]
    fn malformed_text_is_a_string() {
        let pair = composite([("n", JsonType::Number), ("s", JsonType::String)]);
        for text in [
            "",
            "(",
            ")",
            "()",
            "(1)",
            "(1,2",
            "(1,2,3)",
            "(1,2)x",
            "1,2",
            "(1,\"a)",
            "(1,a\"b\")",
            "(1,(2))",
            "(1,\"a\"b)",
            "(1,\"a",
            "(1,a\\b)",
            "(1,\"\\",
            "{1,2}",
        ] {
            let mut string = Vec::new();
            crate::write_string(text.as_bytes(), &mut string);
            check(&pair, text, std::str::from_utf8(&string).unwrap());
        }
    }
}
