//! `ref` and `join_ref`.

use std::io::Write;

use serde_json::Value;
use serde_json::value::RawValue;
use walcast_change::write_string;

/// The longest one, in bytes; binary frames have no room for more.
const BYTES_MAX: usize = 255;

/// The name that a client gave to one of its messages, kept as it was given: most send the decimal
/// digits of a counter as a string, some the number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ref {
    text: Box<str>,
    number: bool,
}

impl Ref {
    /// A string; `None` if it is longer than 255 bytes.
    pub fn new(text: &str) -> Option<Ref> {
        (text.len() <= BYTES_MAX).then(|| Ref {
            text: text.into(),
            number: false,
        })
    }

    /// The text, or the number's digits.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `Ok(None)` is null; an error is what is neither null, a string nor a number.
    pub(super) fn read(raw: Option<&RawValue>) -> Result<Option<Ref>, ()> {
        let Some(raw) = raw else { return Ok(None) };
        match serde_json::from_str(raw.get()) {
            Ok(Value::Null) => Ok(None),
            Ok(Value::String(text)) => Ref::new(&text).map(Some).ok_or(()),
            Ok(Value::Number(_)) if raw.get().len() <= BYTES_MAX => Ok(Some(Ref {
                text: raw.get().into(),
                number: true,
            })),
            _ => Err(()),
        }
    }

    /// From a binary frame, where nothing stands for null.
    pub(super) fn from_binary(text: &str) -> Option<Ref> {
        Ref::new(text).filter(|_| !text.is_empty())
    }
}

pub(super) fn write_ref(reference: Option<&Ref>, out: &mut Vec<u8>) {
    match reference {
        None => out.extend_from_slice(b"null"),
        Some(Ref { text, number: true }) => out.extend_from_slice(text.as_bytes()),
        Some(Ref { text, .. }) => write_string(text.as_bytes(), out),
    }
}

/// Appends what prints itself as a JSON string. Meant for what needs no escapes.
pub(super) fn write_display(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    out.push(b'"');
    write!(out, "{value}").expect("writing to a Vec can't fail");
    out.push(b'"');
}
