//! A cursor that says in which history it counts.

use std::fmt;
use std::str::FromStr;

use crate::Cursor;

/// A history without gaps. A number drawn at random when the history begins, and again after
/// every gap: a cursor of another epoch says nothing of what was missed. Printed as `5f3c9a12`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Epoch(pub u32);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The text is not of the form `5f3c9a12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an epoch (expected eight hexadecimal digits, as in 5f3c9a12)")]
pub struct ParseEpochError;

impl FromStr for Epoch {
    type Err = ParseEpochError;

    fn from_str(text: &str) -> Result<Self, ParseEpochError> {
        if text.len() != 8 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(ParseEpochError);
        }
        let number = u32::from_str_radix(text, 16);
        number.map(Epoch).map_err(|_| ParseEpochError)
    }
}

/// What a client remembers and comes back with. Printed as `0/16B3748:3@5f3c9a12`.
/// Positions of different epochs have no order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub cursor: Cursor,
    pub epoch: Epoch,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.cursor, self.epoch)
    }
}

/// The text is not of the form `0/16B3748:3@5f3c9a12`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a position (expected <commit lsn>:<ordinal>@<epoch>, as in 0/16B3748:3@5f3c9a12)")]
pub struct ParsePositionError;

impl FromStr for Position {
    type Err = ParsePositionError;

    fn from_str(text: &str) -> Result<Self, ParsePositionError> {
        let (cursor, epoch) = text.split_once('@').ok_or(ParsePositionError)?;
        Ok(Position {
            cursor: cursor.parse().map_err(|_| ParsePositionError)?,
            epoch: epoch.parse().map_err(|_| ParsePositionError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::Lsn;

    use super::*;

    #[test]
    fn texts() {
        for (text, lsn, ordinal, epoch) in [
            ("0/16B3748:3@5f3c9a12", 0x16B_3748, 3, 0x5f3c_9a12),
            ("0/0:0@00000000", 0, 0, 0),
            (
                "16/B374D848:18446744073709551615@0000000f",
                0x16_B374_D848,
                u64::MAX,
                15,
            ),
        ] {
            let position = Position {
                cursor: Cursor {
                    commit_lsn: Lsn(lsn),
                    ordinal,
                },
                epoch: Epoch(epoch),
            };
            assert_eq!(text.parse(), Ok(position));
            assert_eq!(position.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_position() {
        for bad in [
            "",
            "@",
            "0/0:0",
            "0/0:0@",
            "0/0@00000000",
            "@00000000",
            "0/0:0@0000000",
            "0/0:0@000000000",
            "0/0:0@+0000000",
            "0/0:0@0000000g",
            "0/0:0@00000000@00000000",
            "0/0:0 @00000000",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(ParsePositionError), "{bad:?}");
        }
    }
}
