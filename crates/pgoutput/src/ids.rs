//! The numbers that Postgres names things by.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// A position in the write-ahead log, in bytes. Printed as the server does: `16/B374D848`.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// "Nowhere yet"; Postgres calls it `InvalidXLogRecPtr`.
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not of the form `16/B374D848`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a log sequence number (expected two hexadecimal numbers, as in 16/B374D848)")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, ParseLsnError> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

fn half(text: &str) -> Result<u64, ParseLsnError> {
    let digits_only = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if text.is_empty() || text.len() > 8 || !digits_only {
        return Err(ParseLsnError);
    }
    u64::from_str_radix(text, 16).map_err(|_| ParseLsnError)
}

/// A transaction's number, without the epoch (it wraps around at 2^32).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Xid(pub u32);

/// A table's OID in `pg_class`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationId(pub u32);

/// Microseconds since 2000-01-01 00:00:00 UTC, Postgres's own clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

const POSTGRES_EPOCH_UNIX_MICROS: i64 = 946_684_800_000_000;

impl PgTime {
    /// Microseconds since 1970-01-01 00:00:00 UTC.
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(POSTGRES_EPOCH_UNIX_MICROS)
    }

    /// The moment `time`; one before 1970 becomes 1970.
    pub fn from_system(time: SystemTime) -> PgTime {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        let micros = i64::try_from(since.as_micros()).unwrap_or(i64::MAX);
        PgTime(micros.saturating_sub(POSTGRES_EPOCH_UNIX_MICROS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_texts() {
        for (text, value) in [
            ("0/0", 0),
            ("16/B374D848", 0x16_B374_D848),
            ("FFFFFFFF/FFFFFFFF", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(value)));
            assert_eq!(Lsn(value).to_string(), text);
        }
        for bad in [
            "",
            "/",
            "1/",
            "/1",
            "1",
            "1/2/3",
            "+1/2",
            "123456789/0",
            "g/0",
            "1/ 2",
        ] {
            assert_eq!(bad.parse::<Lsn>(), Err(ParseLsnError), "{bad:?}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(PgTime(0).unix_micros(), POSTGRES_EPOCH_UNIX_MICROS);
        assert_eq!(PgTime::from_system(SystemTime::UNIX_EPOCH).unix_micros(), 0);
        assert_eq!(PgTime(i64::MAX).unix_micros(), i64::MAX);
    }
}
