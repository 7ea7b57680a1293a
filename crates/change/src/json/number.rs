//! Numbers: every digit as Postgres printed it.

/// How `int8` and `numeric` stand in JSON, also inside arrays, composites and domains. Clients that
/// read every number as a double lose digits of theirs (beyond 2^53, in JavaScript) and of no others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Numbers {
    /// As JSON numbers, every digit. `NaN` and infinities as strings.
    #[default]
    Number,
    /// As JSON strings, whatever their size: a column has one type.
    String,
}

/// Appends an `int8` or a `numeric` if it is to be a JSON number and is one.
pub(super) fn write_long(text: &[u8], numbers: Numbers, out: &mut Vec<u8>) -> Option<()> {
    match numbers {
        Numbers::Number => write(text, out),
        Numbers::String => None,
    }
}

/// Appends `text` if it is a JSON number. `NaN` and the infinities are none.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    (length(text)? == text.len()).then(|| out.extend_from_slice(text))
}

/// The length of the JSON number at the start of `text`; at least 1.
pub(super) fn length(text: &[u8]) -> Option<usize> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, mut rest) = digits(unsigned)?;
    if whole.len() > 1 && whole.starts_with(b"0") {
        return None;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        rest = digits(fraction)?.1;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        rest = match exponent {
            [b'+' | b'-', exponent @ ..] => digits(exponent)?.1,
            _ => digits(exponent)?.1,
        };
    }
    Some(text.len() - rest.len())
}

/// Splits off the digits at the start, of which there must be one.
fn digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then(|| text.split_at(count))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{TypeInfo, TypeKind, Types, write_cell};

    const DOMAIN: u32 = 20001;
    const DOMAIN_OF_DOMAIN: u32 = 20002;
    const DOMAINS: u32 = 20003;
    const SHORT_DOMAIN: u32 = 20004;
    const LINE: u32 = 20005;
    const LINES: u32 = 20006;

    /// Domains over `int8` and `int4`, `line (id int8, n int4, prices numeric[], note text)`, arrays.
    fn types() -> Types {
        let array = |element| TypeKind::Array {
            element,
            delimiter: b',',
        };
        let fields = [("id", 20), ("n", 23), ("prices", 1231), ("note", 25)];
        let fields = fields.map(|(name, oid)| (name.to_owned(), oid)).into();
        let mut types = Types::default();
        for (oid, kind) in [
            (DOMAIN, TypeKind::Domain { base: 20 }),
            (DOMAIN_OF_DOMAIN, TypeKind::Domain { base: DOMAIN }),
            (DOMAINS, array(DOMAIN_OF_DOMAIN)),
            (SHORT_DOMAIN, TypeKind::Domain { base: 23 }),
            (LINE, TypeKind::Composite { fields }),
            (LINES, array(LINE)),
        ] {
            let name = format!("t{oid}").into();
            types.insert(TypeInfo { oid, name, kind });
        }
        types
    }

    fn written(oid: u32, text: &str, numbers: Numbers) -> String {
        let mut out = Vec::new();
        write_cell(&types().json_type(oid), text.as_bytes(), numbers, &mut out);
        String::from_utf8(out).expect("JSON is UTF-8")
    }

    #[test]
    fn what_a_double_may_not_hold_is_a_string_where_asked_for() {
        for (oid, text, number, string) in [
            (
                20,
                "9007199254740993",
                "9007199254740993",
                r#""9007199254740993""#,
            ),
            (
                20,
                "-9223372036854775808",
                "-9223372036854775808",
                r#""-9223372036854775808""#,
            ),
            (20, "7", "7", r#""7""#),
            (
                1700,
                "0.1234567890123456789",
                "0.1234567890123456789",
                r#""0.1234567890123456789""#,
            ),
            (1700, "1.500", "1.500", r#""1.500""#),
            (1700, "7", "7", r#""7""#),
            (1700, "NaN", r#""NaN""#, r#""NaN""#),
            (1700, "Infinity", r#""Infinity""#, r#""Infinity""#),
            (1700, "-Infinity", r#""-Infinity""#, r#""-Infinity""#),
            (1016, "{1,NULL,-3}", "[1,null,-3]", r#"["1",null,"-3"]"#),
            (1016, "[0:1]={1,2}", "[1,2]", r#"["1","2"]"#),
            (
                1231,
                "{{0.10,NaN},{NULL,2}}",
                r#"[[0.10,"NaN"],[null,2]]"#,
                r#"[["0.10","NaN"],[null,"2"]]"#,
            ),
            (1231, "{}", "[]", "[]"),
            (DOMAIN, "7", "7", r#""7""#),
            (DOMAIN_OF_DOMAIN, "7", "7", r#""7""#),
            (DOMAINS, "{7,NULL}", "[7,null]", r#"["7",null]"#),
            (
                LINE,
                r#"(8,9,"{1.0,NULL}",x)"#,
                r#"{"id":8,"n":9,"prices":[1.0,null],"note":"x"}"#,
                r#"{"id":"8","n":9,"prices":["1.0",null],"note":"x"}"#,
            ),
            (
                LINE,
                "(,,,)",
                r#"{"id":null,"n":null,"prices":null,"note":null}"#,
                r#"{"id":null,"n":null,"prices":null,"note":null}"#,
            ),
            (
                LINES,
                r#"{"(8,9,,)",NULL}"#,
                r#"[{"id":8,"n":9,"prices":null,"note":null},null]"#,
                r#"[{"id":"8","n":9,"prices":null,"note":null},null]"#,
            ),
        ] {
            assert_eq!(written(oid, text, Numbers::Number), number, "{oid} {text}");
            assert_eq!(written(oid, text, Numbers::String), string, "{oid} {text}");
        }
    }

    #[test]
    fn every_other_type_stands_as_ever() {
        for (oid, text, json) in [
            (21, "-32768", "-32768"),
            (23, "2147483647", "2147483647"),
            (700, "0.1", "0.1"),
            (701, "1e+300", "1e+300"),
            (701, "NaN", r#""NaN""#),
            (1005, "{1,NULL}", "[1,null]"),
            (1007, "{1,2}", "[1,2]"),
            (1022, "{0.1,-Infinity}", r#"[0.1,"-Infinity"]"#),
            (22, "1 2", "[1,2]"),
            (SHORT_DOMAIN, "7", "7"),
            (16, "t", "true"),
            (25, "7", r#""7""#),
            (26, "16384", r#""16384""#),
            (3926, "[1,10)", r#""[1,10)""#),
            (
                3802,
                r#"{"a": 9007199254740993}"#,
                r#"{"a": 9007199254740993}"#,
            ),
            (114, "[1.50]", "[1.50]"),
        ] {
            for numbers in [Numbers::Number, Numbers::String] {
                assert_eq!(
                    written(oid, text, numbers),
                    json,
                    "{oid} {text} {numbers:?}"
                );
            }
        }
    }

    #[test]
    fn numbers() {
        for good in [
            "0",
            "-0",
            "7",
            "-12",
            "9007199254740993",
            "1.500",
            "0.1",
            "1e+20",
            "1e-45",
            "-1.5E7",
            "12345678901234567890123456789012345678901234567890.12345678901234567890",
        ] {
            let mut out = Vec::new();
            assert_eq!(write(good.as_bytes(), &mut out), Some(()), "{good}");
            assert_eq!(out, good.as_bytes());
        }
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-01",
            "1.",
            ".1",
            "1e",
            "1e+",
            "1.e1",
            "NaN",
            "Infinity",
            "-Infinity",
            "0x10",
            "1 ",
            " 1",
            "1,2",
            "1_000",
            "--1",
            "1e1.5",
            "१",
        ] {
            let mut out = Vec::new();
            assert_eq!(write(bad.as_bytes(), &mut out), None, "{bad:?}");
        }
    }
}
