//! What has to be true of the server, the role, the publication and the slot before streaming: read
//! in one query each time a connection is made, judged by plain functions.

use tokio_postgres::Client;
use walcast_pgoutput::Lsn;

use crate::slot::Slot;
use crate::{Finding, SlotKind, SourceConfig, SourceError};

/// The oldest server that is supported, as `server_version_num` puts it.
pub const OLDEST_VERSION: i32 = 15_00_00;

/// Facts about one server, for one publication and slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    /// As `server_version_num`: 150018.
    pub(crate) version: i32,
    pub(crate) system: String,
    pub(crate) wal_level: String,
    pub(crate) in_recovery: bool,
    /// The end of the WAL on disk.
    pub(crate) flushed: Lsn,
    pub(crate) user: String,
    pub(crate) may_replicate: bool,
    pub(crate) database: String,
    pub(crate) encoding: String,
    pub(crate) publication: Option<Publication>,
    pub(crate) slots: Usage,
    pub(crate) senders: Usage,
    /// `max_slot_wal_keep_size`. None: no limit.
    pub(crate) wal_keep_bytes: Option<u64>,
    pub(crate) slot: Option<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publication {
    pub(crate) oid: u32,
    pub(crate) via_root: bool,
    /// Of insert, update, delete, truncate: those that it leaves out.
    pub(crate) omitted: Vec<&'static str>,
    pub(crate) tables: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) used: i64,
    pub(crate) max: i64,
}

impl Facts {
    pub(crate) async fn read(sql: &Client, config: &SourceConfig) -> Result<Facts, SourceError> {
        let row = sql.query_one(READ, &[&config.publication]).await?;
        let usage = |used, max| -> Result<Usage, SourceError> {
            Ok(Usage {
                used: row.try_get(used)?,
                max: row.try_get(max)?,
            })
        };
        let keep_mb: i64 = row.try_get("wal_keep_mb")?;
        let flushed: String = row.try_get("flushed")?;
        Ok(Facts {
            version: row.try_get("version")?,
            system: row.try_get("system")?,
            wal_level: row.try_get("wal_level")?,
            in_recovery: row.try_get("in_recovery")?,
            flushed: flushed.parse().unwrap_or(Lsn::ZERO),
            user: row.try_get("role")?,
            may_replicate: row.try_get("may_replicate")?,
            database: row.try_get("database")?,
            encoding: row.try_get("encoding")?,
            publication: publication(&row)?,
            slots: usage("slots", "slots_max")?,
            senders: usage("senders", "senders_max")?,
            wal_keep_bytes: u64::try_from(keep_mb).ok().map(|mb| mb * 1024 * 1024),
            slot: Slot::read(sql, config.slot.name()).await?,
        })
    }

    /// What keeps the stream from starting. The slot is judged by `connect`: most of its troubles
    /// have a way out there.
    pub(crate) fn obstacles(&self, config: &SourceConfig) -> Vec<Finding> {
        let own = [
            self.version_old(),
            self.wal_level_low(),
            self.recovery(),
            self.replication_right(),
            self.publication_missing(config),
            self.slots_exhausted(),
        ];
        let slot = self
            .slot
            .as_ref()
            .and_then(|slot| slot_unusable(slot, &config.slot, &self.database));
        own.into_iter().flatten().chain(slot).collect()
    }

    fn version_old(&self) -> Option<Finding> {
        (self.version < OLDEST_VERSION).then(|| {
            Finding::error(
                "server_too_old",
                format!("the server is PostgreSQL {}", self.version / 10_000),
                "use PostgreSQL 15 or newer",
            )
        })
    }

    fn wal_level_low(&self) -> Option<Finding> {
        (self.wal_level != "logical").then(|| {
            Finding::error(
                "wal_level",
                format!("wal_level is {}, logical is needed", self.wal_level),
                "ALTER SYSTEM SET wal_level = 'logical' as a superuser, then restart PostgreSQL",
            )
        })
    }

    fn recovery(&self) -> Option<Finding> {
        self.in_recovery.then(|| {
            Finding::error(
                "server_in_recovery",
                "the server is a standby",
                "connect to the primary; with several hosts add target_session_attrs=read-write",
            )
        })
    }

    fn replication_right(&self) -> Option<Finding> {
        (!self.may_replicate).then(|| {
            Finding::error(
                "no_replication_right",
                format!("role \"{}\" may not replicate", self.user),
                format!(
                    "ALTER ROLE {} REPLICATION (on Amazon RDS: GRANT rds_replication TO it)",
                    quote(&self.user)
                ),
            )
        })
    }

    fn publication_missing(&self, config: &SourceConfig) -> Option<Finding> {
        self.publication.is_none().then(|| {
            Finding::error(
                "publication_missing",
                format!(
                    "publication \"{}\" does not exist in database \"{}\"",
                    config.publication, self.database
                ),
                format!(
                    "run walcast migrate, or CREATE PUBLICATION {} WITH (publish_via_partition_root = true)",
                    quote(&config.publication)
                ),
            )
        })
    }

    fn slots_exhausted(&self) -> Option<Finding> {
        let full = self.slot.is_none() && self.slots.used >= self.slots.max;
        full.then(|| {
            Finding::error(
                "slots_exhausted",
                format!("all {} replication slots are taken", self.slots.max),
                "drop unused ones (SELECT * FROM pg_replication_slots WHERE NOT active), or raise \
                 max_replication_slots and restart PostgreSQL",
            )
        })
    }
}

/// A slot of this name that isn't one that we can read.
fn slot_unusable(slot: &Slot, kind: &SlotKind, database: &str) -> Option<Finding> {
    let name = kind.name();
    let elsewhere = "choose another slot name in the settings";
    if slot.plugin.as_deref() != Some("pgoutput") {
        let plugin = slot.plugin.as_deref().unwrap_or("none: it is physical");
        let what = format!("slot \"{name}\" has another output plugin ({plugin})");
        return Some(Finding::error("slot_other_plugin", what, elsewhere));
    }
    if let Some(other) = slot.database.as_deref().filter(|other| *other != database) {
        let what = format!("slot \"{name}\" belongs to database \"{other}\", not \"{database}\"");
        return Some(Finding::error("slot_other_database", what, elsewhere));
    }
    if slot.temporary != kind.is_temporary() {
        let (is, wanted) = if slot.temporary {
            ("temporary", "durable")
        } else {
            ("durable", "temporary")
        };
        let what = format!("slot \"{name}\" is {is}, the settings want a {wanted} one");
        let remedy = format!("choose another name, or SELECT pg_drop_replication_slot('{name}')");
        return Some(Finding::error("slot_other_kind", what, remedy));
    }
    None
}

/// The slot can't be read any more; only dropping it helps.
pub(crate) fn slot_lost(slot: &Slot, name: &crate::SlotName) -> Finding {
    let cause = slot
        .invalidation
        .as_deref()
        .unwrap_or("it held back more than max_slot_wal_keep_size");
    Finding::error(
        "slot_lost",
        format!("slot \"{name}\" was invalidated by the server: {cause}"),
        format!(
            "SELECT pg_drop_replication_slot('{name}'): it is created anew, changes between are \
             missing; then raise max_slot_wal_keep_size or keep the server running"
        ),
    )
}

/// Warns at half of what the slot may hold back.
pub(crate) fn wal_retained(facts: &Facts, config: &SourceConfig) -> Option<Finding> {
    let slot = facts.slot.as_ref()?;
    let budget = config.wal_budget_bytes.or(facts.wal_keep_bytes)?;
    (slot.retained_bytes > budget / 2).then(|| {
        Finding::warning(
            "wal_retained",
            format!(
                "slot \"{}\" holds back {} MiB of WAL, its budget is {} MiB",
                config.slot.name(),
                slot.retained_bytes >> 20,
                budget >> 20
            ),
            "find what holds it: a consumer that is down or slow, or a long transaction; past the \
             budget the slot is lost",
        )
    })
}

/// An identifier as SQL wants it, quoted where needed.
pub(crate) fn quote(name: &str) -> String {
    let plain = name
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
        && !name.starts_with(|first: char| first.is_ascii_digit());
    if plain && !name.is_empty() {
        return name.into();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn publication(row: &tokio_postgres::Row) -> Result<Option<Publication>, SourceError> {
    let Some(oid) = row.try_get::<_, Option<u32>>("publication")? else {
        return Ok(None);
    };
    let published: Vec<bool> = row.try_get("published")?;
    let names = ["insert", "update", "delete", "truncate"];
    let omitted = names
        .into_iter()
        .zip(published)
        .filter_map(|(name, published)| (!published).then_some(name))
        .collect();
    Ok(Some(Publication {
        oid,
        via_root: row.try_get("via_root")?,
        omitted,
        tables: row.try_get("tables")?,
    }))
}

const READ: &str = "
SELECT pg_catalog.current_setting('server_version_num')::int4 AS version,
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()) AS system,
       pg_catalog.current_setting('wal_level') AS wal_level,
       pg_catalog.pg_is_in_recovery() AS in_recovery,
       (CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
             ELSE pg_catalog.pg_current_wal_flush_lsn() END)::text AS flushed,
       current_user::text AS role,
       (SELECT r.rolsuper OR r.rolreplication FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
           OR EXISTS (SELECT FROM pg_catalog.pg_roles g
                       WHERE g.rolname = 'rds_replication'
                         AND pg_catalog.pg_has_role(g.oid, 'MEMBER')) AS may_replicate,
       d.datname::text AS database,
       pg_catalog.pg_encoding_to_char(d.encoding)::text AS encoding,
       p.oid AS publication, p.pubviaroot AS via_root,
       ARRAY[p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate] AS published,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_publication_tables t
         WHERE t.pubname = p.pubname) AS tables,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots) AS slots,
       pg_catalog.current_setting('max_replication_slots')::int8 AS slots_max,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_replication) AS senders,
       pg_catalog.current_setting('max_wal_senders')::int8 AS senders_max,
       (SELECT s.setting::int8 FROM pg_catalog.pg_settings s
         WHERE s.name = 'max_slot_wal_keep_size') AS wal_keep_mb
  FROM pg_catalog.pg_database d
  LEFT JOIN pg_catalog.pg_publication p ON p.pubname = $1::text
 WHERE d.datname = pg_catalog.current_database()";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SlotName;

    fn config() -> SourceConfig {
        let slot = SlotName::new("walcast").expect("valid");
        SourceConfig::new("postgres://u@h", "Real \"Time\"", SlotKind::Durable(slot))
    }

    fn good() -> Facts {
        Facts {
            version: 15_00_18,
            wal_level: "logical".into(),
            may_replicate: true,
            user: "me".into(),
            database: "app".into(),
            slots: Usage { used: 1, max: 10 },
            publication: Some(Publication {
                oid: 1,
                via_root: true,
                omitted: Vec::new(),
                tables: 1,
            }),
            slot: Some(Slot {
                plugin: Some("pgoutput".into()),
                database: Some("app".into()),
                wal_status: "reserved".into(),
                ..Slot::default()
            }),
            ..Facts::default()
        }
    }

    fn slot(facts: &mut Facts) -> &mut Slot {
        facts.slot.as_mut().expect("the good facts have one")
    }

    #[test]
    fn obstacles() {
        type Case = (fn(&mut Facts), &'static [&'static str]);
        let cases: &[Case] = &[
            (|_| (), &[]),
            (|f| f.slot = None, &[]),
            (|f| f.version = 14_00_22, &["server_too_old"]),
            (|f| f.wal_level = "replica".into(), &["wal_level"]),
            (|f| f.in_recovery = true, &["server_in_recovery"]),
            (|f| f.may_replicate = false, &["no_replication_right"]),
            (|f| f.publication = None, &["publication_missing"]),
            (|f| f.slots.used = 10, &[]),
            (
                |f| {
                    f.slots.used = 10;
                    f.slot = None;
                },
                &["slots_exhausted"],
            ),
            (
                |f| slot(f).plugin = Some("wal2json".into()),
                &["slot_other_plugin"],
            ),
            (|f| slot(f).plugin = None, &["slot_other_plugin"]),
            (
                |f| slot(f).database = Some("b".into()),
                &["slot_other_database"],
            ),
            (|f| slot(f).temporary = true, &["slot_other_kind"]),
            (|f| slot(f).wal_status = "lost".into(), &[]), // has a way out
        ];
        for (number, (change, expected)) in cases.iter().enumerate() {
            let mut facts = good();
            change(&mut facts);
            let codes: Vec<_> = facts.obstacles(&config()).iter().map(|f| f.code).collect();
            assert_eq!(codes, *expected, "case {number}");
        }
    }

    #[test]
    fn the_remedy_is_sql_that_works() {
        let mut facts = good();
        facts.publication = None;
        let remedy = &facts.obstacles(&config())[0].remedy;
        assert!(
            remedy.contains(r#"CREATE PUBLICATION "Real ""Time""""#),
            "{remedy}"
        );
    }

    #[test]
    fn retained_wal_warns_at_half_of_the_budget() {
        let mut facts = good();
        slot(&mut facts).retained_bytes = 60 << 20;
        assert_eq!(wal_retained(&facts, &config()), None); // no budget
        facts.wal_keep_bytes = Some(120 << 20);
        assert_eq!(wal_retained(&facts, &config()), None);
        facts.wal_keep_bytes = Some(100 << 20);
        let finding = wal_retained(&facts, &config()).expect("over half");
        assert_eq!(finding.code, "wal_retained");
        let own_budget = SourceConfig {
            wal_budget_bytes: Some(1 << 30),
            ..config()
        };
        assert_eq!(wal_retained(&facts, &own_budget), None);
    }

    #[test]
    fn quoting() {
        for (name, quoted) in [
            ("a_1", "a_1"),
            ("A", "\"A\""),
            ("1a", "\"1a\""),
            ("", "\"\""),
            ("a\"b", "\"a\"\"b\""),
        ] {
            assert_eq!(quote(name), quoted);
        }
    }
}
