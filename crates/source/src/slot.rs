//! The replication slot: Postgres's memory of how far we are.

use std::fmt;
use std::str::FromStr;

use tokio_postgres::{Client, Row};
use walcast_pgoutput::Lsn;

use crate::SourceError;

/// A slot's name: `[a-z0-9_]{1,63}`. It goes unquoted into replication commands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlotName(String);

impl SlotName {
    pub fn new(name: impl Into<String>) -> Result<SlotName, SourceError> {
        let name = name.into();
        let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_');
        if (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
            Ok(SlotName(name))
        } else {
            Err(SourceError::SlotName)
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SlotName {
    type Err = SourceError;

    fn from_str(name: &str) -> Result<Self, SourceError> {
        SlotName::new(name)
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long the slot lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// Over restarts of both sides; holds back WAL while nobody reads it.
    Durable(SlotName),
    /// As long as the connection: nothing is kept while it is down, so each reconnect is a gap.
    Temporary(SlotName),
}

impl SlotKind {
    pub fn name(&self) -> &SlotName {
        match self {
            SlotKind::Durable(name) | SlotKind::Temporary(name) => name,
        }
    }

    pub fn is_temporary(&self) -> bool {
        matches!(self, SlotKind::Temporary(_))
    }
}

/// A row of `pg_replication_slots`, with who reads it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Slot {
    pub(crate) plugin: Option<String>,
    pub(crate) database: Option<String>,
    pub(crate) temporary: bool,
    pub(crate) reader: Option<Reader>,
    /// All before it has been acknowledged.
    pub(crate) confirmed: Lsn,
    /// `reserved`, `extended`, `unreserved` or `lost`.
    pub(crate) wal_status: String,
    /// PostgreSQL 16 and newer.
    pub(crate) invalidation: Option<String>,
    pub(crate) retained_bytes: u64,
    /// What may still be written before the slot can be lost. None: no limit, or lost.
    pub(crate) safe_bytes: Option<u64>,
}

/// The walsender that holds a slot. What we may not see of it is empty.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Reader {
    pub(crate) pid: i32,
    pub(crate) application: String,
    pub(crate) address: String,
    pub(crate) started: String,
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str, default: &str| {
            if text.is_empty() {
                default.into()
            } else {
                text.to_string()
            }
        };
        write!(
            f,
            "process {} (application \"{}\", from {})",
            self.pid,
            or(&self.application, "unknown"),
            or(&self.address, "a local socket")
        )
    }
}

impl Slot {
    /// Invalidated: it can't be read any more.
    pub(crate) fn is_lost(&self) -> bool {
        self.wal_status == "lost" || self.invalidation.is_some()
    }

    pub(crate) async fn read(sql: &Client, name: &SlotName) -> Result<Option<Slot>, SourceError> {
        let row = sql.query_opt(READ, &[&name.as_str()]).await?;
        row.map(|row| Slot::from_row(&row)).transpose()
    }

    fn from_row(row: &Row) -> Result<Slot, SourceError> {
        let pid: Option<i32> = row.try_get("active_pid")?;
        let text = |name| {
            row.try_get::<_, Option<String>>(name)
                .map(Option::unwrap_or_default)
        };
        let bytes = |name| {
            row.try_get::<_, Option<i64>>(name)
                .map(|bytes| bytes.map(|bytes| u64::try_from(bytes).unwrap_or(0)))
        };
        Ok(Slot {
            plugin: row.try_get("plugin")?,
            database: row.try_get("database")?,
            temporary: row.try_get("temporary")?,
            reader: match pid {
                Some(pid) => Some(Reader {
                    pid,
                    application: text("application_name")?,
                    address: text("client_addr")?,
                    started: text("backend_start")?,
                }),
                None => None,
            },
            confirmed: text("confirmed")?.parse().unwrap_or(Lsn::ZERO), // NULL once lost
            wal_status: text("wal_status")?,
            invalidation: row.try_get("invalidation")?,
            retained_bytes: bytes("retained")?.unwrap_or(0),
            safe_bytes: bytes("safe_wal_size")?,
        })
    }
}

/// `to_jsonb` reads a column that older versions lack. The conflict reasons of 16 are there as
/// `conflicting`.
const READ: &str = "
SELECT s.plugin::text, s.database::text, s.temporary, s.active_pid, s.wal_status,
       s.confirmed_flush_lsn::text AS confirmed, s.safe_wal_size::int8 AS safe_wal_size,
       coalesce(pg_catalog.to_jsonb(s) ->> 'invalidation_reason',
                CASE WHEN (pg_catalog.to_jsonb(s) ->> 'conflicting')::bool
                     THEN 'conflict with recovery' END) AS invalidation,
       pg_catalog.pg_wal_lsn_diff(
           CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
                ELSE pg_catalog.pg_current_wal_lsn() END, s.restart_lsn)::int8 AS retained,
       a.application_name, pg_catalog.host(a.client_addr) AS client_addr,
       a.backend_start::text AS backend_start
  FROM pg_catalog.pg_replication_slots s
  LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = s.active_pid
 WHERE s.slot_name = $1::text";

/// Drops a slot that nobody reads.
pub(crate) async fn drop_slot(sql: &Client, name: &SlotName) -> Result<(), SourceError> {
    sql.execute(
        "SELECT pg_catalog.pg_drop_replication_slot($1::text::name)",
        &[&name.as_str()],
    )
    .await?;
    Ok(())
}

/// Moves a slot that nobody reads to the end of the WAL, decoding nothing of what it skips.
pub(crate) async fn skip_to_end(sql: &Client, name: &SlotName) -> Result<Lsn, SourceError> {
    let row = sql
        .query_one(
            "SELECT end_lsn::text FROM pg_catalog.pg_replication_slot_advance(
                 $1::text::name, pg_catalog.pg_current_wal_lsn())",
            &[&name.as_str()],
        )
        .await?;
    let end: String = row.try_get(0)?;
    end.parse()
        .map_err(|_| SourceError::Protocol("a slot's position".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "walcast", "slot_1", &"x".repeat(63)] {
            assert!(SlotName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "A", "a-b", "a b", "a;b", "ä", "a\"", &"x".repeat(64)] {
            assert!(SlotName::new(bad).is_err(), "{bad}");
        }
    }
}
