use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::AuthError;

/// 9999-12-31T23:59:59Z. A later `exp` is a mistake, most often milliseconds; taken as it is it would never end.
const TIME_MAX: f64 = 253_402_300_799.0;
/// Deeper nesting is refused before anything (Postgres's JSON parser among them) recurses into it.
const DEPTH_MAX: usize = 64;

/// A JSON object's members in their order, values unread, no name twice.
pub(crate) struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Object<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, AuthError> {
        serde_json::from_str::<Members<'a>>(text)
            .map_err(|_| AuthError::Claims)?
            .0
            .map(Object)
            .ok_or(AuthError::DuplicateClaim)
    }

    fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| *value)
    }

    /// A string claim; another type is an error.
    pub(crate) fn string(&self, name: &str) -> Result<Option<String>, AuthError> {
        self.get(name).map(string).transpose()
    }

    /// A time in Unix seconds (RFC 7519 `NumericDate`: may have a fraction, which is dropped).
    pub(crate) fn time(&self, name: &str) -> Result<Option<i64>, AuthError> {
        self.get(name).map(time).transpose()
    }

    /// A string or a list of strings, as `aud` may be.
    pub(crate) fn strings(&self, name: &str) -> Result<Vec<String>, AuthError> {
        let Some(value) = self.get(name) else {
            return Ok(Vec::new());
        };
        string(value)
            .map(|one| vec![one])
            .or_else(|_| serde_json::from_str(value.get()).map_err(|_| AuthError::Claims))
    }

    /// The string at `path`: a claim of exactly that name (`https://example.com/role`), else, step by step, the
    /// members named between its dots (`app_metadata.role`).
    pub(crate) fn string_at(&self, path: &str) -> Result<Option<String>, AuthError> {
        if let Some(value) = self.get(path) {
            return string(value).map(Some);
        }
        let Some((first, rest)) = path.split_once('.') else {
            return Ok(None);
        };
        match self.get(first) {
            Some(value) if value.get().starts_with('{') => {
                Object::parse(value.get())?.string_at(rest)
            }
            Some(_) => Err(AuthError::Claims),
            None => Ok(None),
        }
    }

    /// The object as compact JSON, each value as it was written, with `role` set.
    pub(crate) fn with_role(&self, role: &str) -> Result<String, AuthError> {
        let mut out = String::from("{");
        for (name, value) in self.0.iter().filter(|(name, _)| name != "role") {
            push_json_string(&mut out, name);
            out.push(':');
            push_compact(&mut out, value.get())?;
            out.push(',');
        }
        out.push_str("\"role\":");
        push_json_string(&mut out, role);
        out.push('}');
        Ok(out)
    }
}

pub(crate) fn push_json_string(out: &mut String, text: &str) {
    out.push_str(&serde_json::to_string(text).expect("a string is always serializable"));
}

/// Appends valid JSON without the white space between its tokens.
fn push_compact(out: &mut String, json: &str) -> Result<(), AuthError> {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for c in json.chars() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else {
            match c {
                '"' => in_string = true,
                '{' | '[' => depth += 1,
                '}' | ']' => depth = depth.saturating_sub(1),
                ' ' | '\t' | '\r' | '\n' => continue,
                _ => {}
            }
            if depth > DEPTH_MAX {
                return Err(AuthError::Claims);
            }
        }
        out.push(c);
    }
    Ok(())
}

fn string(value: &RawValue) -> Result<String, AuthError> {
    serde_json::from_str(value.get()).map_err(|_| AuthError::Claims)
}

fn time(value: &RawValue) -> Result<i64, AuthError> {
    let seconds: f64 = serde_json::from_str(value.get()).map_err(|_| AuthError::Claims)?;
    if !seconds.is_finite() || seconds.abs() > TIME_MAX {
        return Err(AuthError::Claims);
    }
    #[allow(clippy::cast_possible_truncation)] // within ±TIME_MAX
    Ok(seconds.floor() as i64)
}

/// `None` inside: some name came twice.
struct Members<'a>(Option<Vec<(Cow<'a, str>, &'a RawValue)>>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members<'de>, M::Error> {
                let (mut members, mut seen, mut is_unique) = (Vec::new(), HashSet::new(), true);
                while let Some(name) = map.next_key::<String>()? {
                    is_unique &= seen.insert(name.clone());
                    members.push((Cow::Owned(name), map.next_value::<&RawValue>()?));
                }
                Ok(Members(is_unique.then_some(members)))
            }
        }
        from.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_keep_their_values_and_lose_their_white_space() {
        let cases: &[(&str, &str)] = &[
            ("{}", r#"{"role":"r"}"#),
            (r#" { "a" : 1 } "#, r#"{"a":1,"role":"r"}"#),
            (r#"{"role":"x","a":[ 1 , 2 ]}"#, r#"{"a":[1,2],"role":"r"}"#),
            (
                r#"{"n":12345678901234567890123.450}"#,
                r#"{"n":12345678901234567890123.450,"role":"r"}"#,
            ),
            (
                r#"{"s":" a \" { \\ "}"#,
                r#"{"s":" a \" { \\ ","role":"r"}"#,
            ),
            (r#"{"ro\u006ce":1}"#, r#"{"role":"r"}"#),
            (r#"{"é\n":null}"#, r#"{"é\n":null,"role":"r"}"#),
        ];
        for (text, expected) in cases {
            let object = Object::parse(text).expect(text);
            assert_eq!(object.with_role("r").as_deref(), Ok(*expected), "{text}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        for (depth, expected) in [(64, true), (65, false), (3000, false)] {
            let text = nested(depth);
            let result = Object::parse(&text).and_then(|object| object.with_role("r"));
            assert_eq!(result.is_ok(), expected, "{depth}");
        }
    }

    #[test]
    fn a_role_is_found_by_name_or_by_path() {
        type Case = (
            &'static str,
            &'static str,
            Result<Option<&'static str>, AuthError>,
        );
        let cases: &[Case] = &[
            (r#"{"role":"a"}"#, "role", Ok(Some("a"))),
            (r#"{"role":"a"}"#, "app.role", Ok(None)),
            (r#"{"app":{"role":"a"}}"#, "app.role", Ok(Some("a"))),
            (r#"{"app":{}}"#, "app.role", Ok(None)),
            (r#"{"a":{"b":{"c":"x"}}}"#, "a.b.c", Ok(Some("x"))),
            (
                r#"{"https://my.app/role":"a"}"#,
                "https://my.app/role",
                Ok(Some("a")),
            ),
            (r#"{"role":null}"#, "role", Err(AuthError::Claims)),
            (r#"{"role":["a"]}"#, "role", Err(AuthError::Claims)),
            (r#"{"app":"x"}"#, "app.role", Err(AuthError::Claims)),
            (
                r#"{"app":{"role":"a","role":"b"}}"#,
                "app.role",
                Err(AuthError::DuplicateClaim),
            ),
        ];
        for (text, path, expected) in cases {
            let got = Object::parse(text).expect(text).string_at(path);
            assert_eq!(got, expected.map(|o| o.map(str::to_owned)), "{text} {path}");
        }
    }
}
