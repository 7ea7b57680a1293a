//! `json` and `jsonb`: spliced as they stand, once it is sure that they are JSON.
//!
//! Postgres has validated them, yet they are checked again: a frame holds other columns and goes
//! to many subscribers, and a superuser's cast without function, bytes of a SQL_ASCII database or a
//! damaged row would let one value rewrite the rest of the frame. One pass without allocation,
//! about as long as copying a few times over.

use super::number;
use super::plain::plain_run;

/// Deeper documents go out as a string: many JSON parsers recurse, and a single document that they
/// refuse would cost them the whole frame.
const DEPTH_MAX: usize = 512;

/// Appends the document, line breaks between its tokens as blanks: a frame is one line.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    std::str::from_utf8(text).ok()?;
    check(text)?;
    match memchr::memchr2(b'\n', b'\r', text) {
        None => out.extend_from_slice(text),
        // Inside a JSON string a line break cannot stand as itself.
        Some(_) => out.extend(text.iter().map(|&byte| match byte {
            b'\n' | b'\r' => b' ',
            byte => byte,
        })),
    }
    Some(())
}

/// Walks the document, which must be UTF-8; `None` if it is no JSON (RFC 8259) or too deep.
fn check(text: &[u8]) -> Option<()> {
    let mut open = Nesting::default();
    let mut left = after_blanks(text);
    loop {
        let (&byte, rest) = left.split_first()?;
        left = match byte {
            b'{' | b'[' => {
                let object = byte == b'{';
                open.push(object)?;
                match (object, after_blanks(rest)) {
                    (true, [b'}', rest @ ..]) | (false, [b']', rest @ ..]) => {
                        open.pop();
                        rest
                    }
                    (true, rest) => {
                        left = after_key(rest)?;
                        continue;
                    }
                    (false, rest) => {
                        left = rest;
                        continue;
                    }
                }
            }
            b'"' => after_string(rest)?,
            b't' => rest.strip_prefix(b"rue")?,
            b'f' => rest.strip_prefix(b"alse")?,
            b'n' => rest.strip_prefix(b"ull")?,
            _ => left.get(number::length(left)?..)?,
        };
        match after_closing(left, &mut open)? {
            Closed::All => return Some(()),
            Closed::Before(next) => left = next,
        }
    }
}

enum Closed<'a> {
    /// The document is complete.
    All,
    /// Another value comes.
    Before(&'a [u8]),
}

/// Takes what follows a value: ends of objects and arrays, then a comma and the next key.
fn after_closing<'a>(text: &'a [u8], open: &mut Nesting) -> Option<Closed<'a>> {
    let mut left = after_blanks(text);
    while let Some(object) = open.innermost() {
        match (object, left) {
            (true, [b',', rest @ ..]) => {
                return after_key(after_blanks(rest)).map(Closed::Before);
            }
            (false, [b',', rest @ ..]) => return Some(Closed::Before(after_blanks(rest))),
            (true, [b'}', rest @ ..]) | (false, [b']', rest @ ..]) => {
                open.pop();
                left = after_blanks(rest);
            }
            _ => return None,
        }
    }
    left.is_empty().then_some(Closed::All)
}

/// What follows `"key" : `.
fn after_key(text: &[u8]) -> Option<&[u8]> {
    let rest = after_string(text.strip_prefix(b"\"")?)?;
    after_blanks(rest).strip_prefix(b":").map(after_blanks)
}

/// What follows the string whose opening quote stands before `text`.
fn after_string(text: &[u8]) -> Option<&[u8]> {
    let mut left = text;
    loop {
        let (_, rest) = left.split_at(plain_run::<false>(left));
        left = match rest {
            [b'"', rest @ ..] => return Some(rest),
            [
                b'\\',
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                rest @ ..,
            ] => rest,
            [b'\\', b'u', a, b, c, d, rest @ ..] => {
                let digits = [a, b, c, d];
                digits
                    .iter()
                    .all(|digit| digit.is_ascii_hexdigit())
                    .then_some(rest)?
            }
            _ => return None,
        };
    }
}

fn after_blanks(text: &[u8]) -> &[u8] {
    let mut left = text;
    while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = left {
        left = rest;
    }
    left
}

/// The objects and arrays that are open: one bit each, set for an object.
#[derive(Default)]
struct Nesting {
    depth: usize,
    bits: [u64; DEPTH_MAX / 64],
}

impl Nesting {
    fn push(&mut self, object: bool) -> Option<()> {
        let word = self.bits.get_mut(self.depth / 64)?;
        let bit = 1 << (self.depth % 64);
        *word = if object { *word | bit } else { *word & !bit };
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) {
        self.depth = self.depth.saturating_sub(1);
    }

    fn innermost(&self) -> Option<bool> {
        let top = self.depth.checked_sub(1)?;
        Some(self.bits.get(top / 64)? >> (top % 64) & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> Option<String> {
        let mut out = Vec::new();
        write(text, &mut out)?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn documents_stand_as_they_are() {
        for text in [
            "null",
            "true",
            "false",
            "0",
            "-1.5e+10",
            r#""""#,
            r#""a\"\\\/\b\f\n\r\té\ud800""#,
            "{}",
            "[]",
            "[[],{}]",
            "[{},[],{\"a\":[{\"b\":1},[2],3]}]",
            r#"{"a": 1, "b": [1, 2.50, {"c": null}], "a": ""}"#,
            " [ 1 , 2 ] ",
            "{ \"a\" : { } , \"ü\" : [ ] }",
            "\"\u{7f}\u{2028}\"",
        ] {
            assert_eq!(written(text.as_bytes()).as_deref(), Some(text));
        }
    }

    #[test]
    fn a_document_is_one_line() {
        let text = b"{\r\n\t\"a\\n\": [\n1\n]\n}";
        assert_eq!(written(text).as_deref(), Some("{  \t\"a\\n\": [ 1 ] }"));
    }

    #[test]
    fn what_is_no_document() {
        for text in [
            "",
            " ",
            "nul",
            "True",
            "01",
            "1.",
            "+1",
            "NaN",
            "'a'",
            "\"",
            "\"\n\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"\\",
            "{",
            "[",
            "}",
            "]",
            "[1",
            "[1,]",
            "[,1]",
            "[1 2]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "{1:1}",
            "{\"a\":1]",
            "[1}",
            "1,\"x\":2",
            "1 2",
            "{}{}",
            "[]]",
            "// c",
            "[1]//",
            "\u{feff}1",
        ] {
            assert_eq!(written(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(written(b"\"\xff\""), None);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(written(nested(DEPTH_MAX).as_bytes()).is_some());
        assert!(written(nested(DEPTH_MAX + 1).as_bytes()).is_none());
        let mixed = r#"[{"a":"#.repeat(256) + "1" + &"}]".repeat(256);
        assert!(written(mixed.as_bytes()).is_some());
        assert!(written(mixed.replacen("}]", "]}", 1).as_bytes()).is_none());
    }
}
