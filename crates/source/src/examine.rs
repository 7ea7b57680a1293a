//! Everything that can be said about a database before streaming from it.

use walcast_pgoutput::Lsn;

use crate::database::{Database, Target};
use crate::preflight::{Facts, quote, slot_lost, wal_retained};
use crate::slot::Slot;
use crate::stream::Opening;
use crate::tables::Table;
use crate::{Finding, SlotKind, SourceConfig, SourceError};

/// Looks at server, role, publication, slot and published tables; changes nothing. The worst comes
/// first. What it can't look at is a finding as well.
pub async fn examine(config: &SourceConfig) -> Vec<Finding> {
    let mut findings = match look(config).await {
        Ok(findings) => findings,
        Err(error) => vec![unreachable_database(&error)],
    };
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity)); // stable
    findings
}

async fn look(config: &SourceConfig) -> Result<Vec<Finding>, SourceError> {
    let name = format!("{} doctor", config.application_name);
    let database = Database::parse(&config.database_url)?;
    let (target, sql) = database.reach(&name).await?;
    let facts = Facts::read(&sql, config).await?;
    let mut findings = facts.obstacles(config);
    if findings.is_empty() {
        findings.extend(replication_finding(&target, config).await);
    }
    findings.extend(slot_findings(&facts, config));
    findings.extend(publication_findings(&facts, config));
    findings.extend(server_findings(&facts));
    if let Some(publication) = &facts.publication {
        let changes_rows = !["update", "delete"]
            .iter()
            .all(|operation| publication.omitted.contains(operation));
        for table in Table::read_all(&sql, &config.publication).await? {
            findings.extend(table.findings(changes_rows));
        }
    }
    Ok(findings)
}

fn unreachable_database(error: &SourceError) -> Finding {
    let remedy = match error.code() {
        Some("28P01" | "28000") => {
            "check user, password and pg_hba.conf (replication needs its own line there)"
        }
        Some("3D000") => "check the database's name",
        Some("42501") => "grant what the message names",
        Some("53300") => "raise max_connections or close other connections",
        _ => match error {
            SourceError::Url(_) => "write postgres://user:password@host:5432/database",
            SourceError::Tls(_) => "check sslmode, sslrootcert and the server's certificate",
            SourceError::Login(_) => "check user and password",
            _ => "check host and port, and that PostgreSQL listens there",
        },
    };
    Finding::error("database_unreachable", error.to_string(), remedy)
}

/// Opens a replication connection, as the stream will, and leaves it.
async fn replication_finding(target: &Target, config: &SourceConfig) -> Option<Finding> {
    match Opening::login(target, config, config.slot.name(), Lsn::ZERO).await {
        Ok(_) => None,
        Err(SourceError::Finding(finding)) => Some(*finding),
        Err(error) => Some(Finding {
            code: "replication_unreachable",
            ..unreachable_database(&error)
        }),
    }
}

fn slot_findings(facts: &Facts, config: &SourceConfig) -> Vec<Finding> {
    let name = config.slot.name();
    let Some(slot) = &facts.slot else {
        let durable = matches!(config.slot, SlotKind::Durable(_));
        let what = format!("slot \"{name}\" does not exist yet");
        return Vec::from_iter(
            durable
                .then(|| Finding::info("slot_missing", what, "it is created at the first start")),
        );
    };
    let lost = slot.is_lost().then(|| slot_lost(slot, name));
    [lost, slot_in_use(slot, config), wal_retained(facts, config)]
        .into_iter()
        .flatten()
        .collect()
}

fn slot_in_use(slot: &Slot, config: &SourceConfig) -> Option<Finding> {
    let reader = slot.reader.as_ref()?;
    let what = format!("slot \"{}\" is being read by {reader}", config.slot.name());
    if reader.application == config.application_name {
        let remedy = "normal while the server runs; a second one stands by until the first ends";
        return Some(Finding::info("slot_in_use", what, remedy));
    }
    let remedy = format!(
        "stop that process, or choose another slot name; by force: SELECT pg_terminate_backend({})",
        reader.pid
    );
    Some(Finding::warning("slot_in_use", what, remedy))
}

fn publication_findings(facts: &Facts, config: &SourceConfig) -> Vec<Finding> {
    let Some(publication) = &facts.publication else {
        return Vec::new(); // an obstacle already
    };
    let name = &config.publication;
    let alter = format!("ALTER PUBLICATION {} SET", quote(name));
    let empty = (publication.tables == 0).then(|| {
        Finding::warning(
            "publication_empty",
            format!("publication \"{name}\" has no tables: nothing will be sent"),
            "SELECT enable_realtime('your_table')",
        )
    });
    let omitted = (!publication.omitted.is_empty()).then(|| {
        Finding::warning(
            "publication_operations",
            format!(
                "publication \"{name}\" leaves out: {}",
                publication.omitted.join(", ")
            ),
            format!("{alter} (publish = 'insert, update, delete, truncate')"),
        )
    });
    let leaves = (!publication.via_root).then(|| {
        Finding::warning(
            "publication_not_via_root",
            format!("publication \"{name}\" names partitions, not their table: who subscribes to the table gets nothing"),
            format!("{alter} (publish_via_partition_root = true)"),
        )
    });
    [empty, omitted, leaves].into_iter().flatten().collect()
}

fn server_findings(facts: &Facts) -> Vec<Finding> {
    let unlimited = facts.wal_keep_bytes.is_none().then(|| {
        Finding::warning(
            "wal_unlimited",
            "max_slot_wal_keep_size is -1: a slot that nobody reads fills the disk",
            "ALTER SYSTEM SET max_slot_wal_keep_size = '20GB' (what the disk can spare), then SELECT pg_reload_conf()",
        )
    });
    let senders = (facts.senders.used >= facts.senders.max).then(|| {
        Finding::warning(
            "senders_exhausted",
            format!("all {} WAL senders are busy", facts.senders.max),
            "end unused ones (SELECT * FROM pg_stat_replication), or raise max_wal_senders and restart PostgreSQL",
        )
    });
    let encoding = (facts.encoding == "SQL_ASCII").then(|| {
        Finding::warning(
            "encoding_unknown",
            format!(
                "database \"{}\" has encoding SQL_ASCII: its texts may be anything",
                facts.database
            ),
            "move the data to a database with encoding UTF8",
        )
    });
    [unlimited, senders, encoding]
        .into_iter()
        .flatten()
        .collect()
}
