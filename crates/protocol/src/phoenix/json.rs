//! JSON that is looked into no further than needed: the parts stay the bytes they came in.

use std::fmt;

use bytes::Bytes;
use serde::de::{Deserialize, Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Nothing nested deeper is passed on to other clients: many parsers recurse, and one sender must
/// not be able to break them.
const DEPTH_MAX: usize = 512;

/// Reads an object as `T`, a struct of optional [`RawValue`]s. Unknown keys are passed over; an
/// array is not taken for an object, and a key that stands twice makes it none.
pub(super) fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    if !text.trim_start().starts_with('{') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// The first `max` elements of an array, and how many it has.
pub(super) fn array(text: &str, max: usize) -> Option<(Vec<&RawValue>, usize)> {
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let elements = Elements { max };
    let read = (&mut deserializer).deserialize_seq(elements).ok()?;
    deserializer.end().ok()?;
    Some(read)
}

struct Elements {
    max: usize,
}

impl<'a> Visitor<'a> for Elements {
    type Value = (Vec<&'a RawValue>, usize);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'a>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut first = Vec::new();
        while first.len() < self.max {
            match seq.next_element()? {
                Some(element) => first.push(element),
                None => {
                    let count = first.len();
                    return Ok((first, count));
                }
            }
        }
        let mut count = first.len();
        while seq.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        Ok((first, count))
    }
}

/// `part` as a slice of `frame`; a copy of what is none of its parts.
pub(super) fn part(frame: &Bytes, part: &[u8]) -> Bytes {
    let (whole, range) = (frame.as_ptr_range(), part.as_ptr_range());
    match whole.start <= range.start && range.end <= whole.end {
        true => frame.slice_ref(part),
        false => Bytes::copy_from_slice(part),
    }
}

/// A string's text.
pub(super) fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

pub(super) fn is_object(raw: &RawValue) -> bool {
    raw.get().starts_with('{')
}

/// Whether valid JSON is nested no deeper than other clients' parsers can stand.
pub fn is_shallow(json: &[u8]) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0usize, false, false);
    for byte in json {
        match (quoted, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => quoted = !quoted,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEPTH_MAX {
            return false;
        }
    }
    true
}

/// For a field whose null is not the same as its absence.
pub(super) fn present<'a, D: Deserializer<'a>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays() {
        for (text, expected) in [
            ("[]", Some((vec![], 0))),
            (" [1, \"a\",{ } ] ", Some((vec!["1", "\"a\""], 3))),
            ("[1]", Some((vec!["1"], 1))),
            ("[1,]", None),
            ("[1] 2", None),
            ("{}", None),
            ("", None),
        ] {
            let found = array(text, 2);
            let found = found.map(|(first, count)| {
                let first: Vec<_> = first.iter().map(|raw| raw.get()).collect();
                (first, count)
            });
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn depth() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(is_shallow(nested(512).as_bytes()));
        assert!(!is_shallow(nested(513).as_bytes()));
        let quoted = format!(r#"["\"{}"]"#, "[".repeat(600));
        assert!(is_shallow(quoted.as_bytes()));
    }
}
