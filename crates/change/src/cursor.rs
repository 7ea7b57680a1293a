//! A change's place in the total order of all changes.

use std::fmt;
use std::str::FromStr;

use walcast_pgoutput::Lsn;

/// Where a change stands: its transaction's commit, then its number in the transaction, from 0.
/// Printed as `16/B374D848:3`. The LSN alone names no change: one WAL record may hold many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    pub commit_lsn: Lsn,
    pub ordinal: u64,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.commit_lsn, self.ordinal)
    }
}

/// The text is not of the form `16/B374D848:3`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor (expected <commit lsn>:<ordinal>, as in 16/B374D848:3)")]
pub struct ParseCursorError;

impl FromStr for Cursor {
    type Err = ParseCursorError;

    fn from_str(text: &str) -> Result<Self, ParseCursorError> {
        let (lsn, ordinal) = text.split_once(':').ok_or(ParseCursorError)?;
        if ordinal.is_empty() || !ordinal.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(ParseCursorError);
        }
        Ok(Cursor {
            commit_lsn: lsn.parse().map_err(|_| ParseCursorError)?,
            ordinal: ordinal.parse().map_err(|_| ParseCursorError)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let cursor = Cursor {
            commit_lsn: Lsn(0x16_B374_D848),
            ordinal: 3,
        };
        assert_eq!(cursor.to_string(), "16/B374D848:3");
        assert_eq!("16/B374D848:3".parse(), Ok(cursor));
        for bad in [
            "",
            ":",
            "0/0",
            "0/0:",
            "0/0:-1",
            "0/0:+1",
            "0/0:1:2",
            ":1",
            "0/0:99999999999999999999",
        ] {
            assert_eq!(bad.parse::<Cursor>(), Err(ParseCursorError), "{bad:?}");
        }
    }

    #[test]
    fn order_is_commit_then_ordinal() {
        let at = |lsn, ordinal| Cursor {
            commit_lsn: Lsn(lsn),
            ordinal,
        };
        assert!(at(1, 9) < at(2, 0));
        assert!(at(2, 0) < at(2, 1));
    }
}
