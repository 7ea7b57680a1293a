//! What a subscription's frames look like, in one byte: subscriptions of one byte share them.

use walcast_change::Numbers;

use super::POSTGRES_CHANGES;
use crate::Subscribe;

/// Numbers that a double may not hold stand as strings. Away from the other dialects' formats.
const STRINGS: u8 = 0x80;

/// What a client may say of its numbers, in a subscription or for the whole connection.
///
/// Source: `proto-docs/native.md`, "Exact numbers".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown form of numbers (use number or string)")]
pub struct UnknownNumbers;

/// `number` or `string`.
pub fn parse_numbers(text: &str) -> Result<Numbers, UnknownNumbers> {
    match text {
        "number" => Ok(Numbers::Number),
        "string" => Ok(Numbers::String),
        _ => Err(UnknownNumbers),
    }
}

impl Subscribe {
    /// The format of its frames, [`Delivery::format`](crate::Delivery::format): its style, and how
    /// numbers stand.
    pub fn format(&self) -> u8 {
        match self.numbers {
            Some(Numbers::String) => self.style | STRINGS,
            Some(Numbers::Number) | None => self.style,
        }
    }
}

/// For clients that subscribe with a `config` object.
pub(super) fn is_postgres_changes(format: u8) -> bool {
    format & !STRINGS == POSTGRES_CHANGES
}

/// As the frames of `format` are to have them.
pub(super) fn numbers(format: u8) -> Numbers {
    match format & STRINGS {
        0 => Numbers::Number,
        _ => Numbers::String,
    }
}

#[cfg(test)]
mod tests;
