//! The files of `migrations/`, applied to a database in one transaction.
//!
//! Owns: the order of the files, the record of them in `realtime.walcast_migrations`, and the report
//! of what was done. What the files do is in the files.
//!
//! Invariants:
//! - All that is pending is applied, and then `realtime.walcast_setup()` called, in one transaction
//!   under an advisory lock: of many that start at once, one migrates and the others find it done.
//! - A file that has been applied is never applied again, and never may change: its SHA-256 is kept.
//! - An up-to-date database is only read, so that a role without any right to create can start.
//! - An error names the step, the SQLSTATE and a remedy; Postgres's DETAIL, which may quote rows, is
//!   left out.

mod error;

use sha2::{Digest, Sha256};
use tokio_postgres::{Client, GenericClient, IsolationLevel, Transaction};

pub use error::MigrateError;
use error::at;

/// Any number that no other program uses for its advisory locks: "walcast" in ASCII.
const LOCK_KEY: i64 = 0x0077_616C_6361_7374;

/// How long to wait for another migration, and for any lock that a migration needs.
const LOCK_TIMEOUT: &str = "60s";

macro_rules! migrations {
    ($($version:literal $name:literal),* $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $name,
            sql: include_str!(concat!("../../../migrations/", $name, ".sql")),
        }),*]
    };
}

const MIGRATIONS: &[Migration] = migrations![
    1 "0001_schema",
    2 "0002_names",
    3 "0003_identity",
    4 "0004_enable",
    5 "0005_view",
    6 "0006_setup",
    7 "0007_messages",
    8 "0008_send",
    9 "0009_setup_messages",
];

/// Brings the database up to date and makes what is missing around it (publication, roles, `auth`
/// helpers), as far as the login may. What it may not make is in the report, not an error.
pub async fn migrate(client: &mut Client) -> Result<Report, MigrateError> {
    let transaction = client
        .build_transaction()
        // each statement sees what a migration that held the lock before us has committed
        .isolation_level(IsolationLevel::ReadCommitted)
        .start()
        .await
        .map_err(at("begin"))?;
    check_version(version(&transaction).await?)?;
    prepare(&transaction).await?;

    let present = applied(&transaction).await?;
    check_present(&present)?;
    let mut report = Report {
        unknown: unknown(&present),
        ..Report::default()
    };
    for migration in MIGRATIONS {
        if present.iter().any(|p| p.version == migration.version) {
            report.present.push(migration.id());
            continue;
        }
        apply(&transaction, migration).await?;
        report.applied.push(migration.id());
    }
    report.notes = set_up(&transaction).await?;
    transaction.commit().await.map_err(at("commit"))?;
    report.log();
    Ok(report)
}

async fn version(client: &impl GenericClient) -> Result<i32, MigrateError> {
    let sql = "SELECT current_setting('server_version_num')::int";
    let row = client.query_one(sql, &[]).await.map_err(at("version"))?;
    row.try_get(0).map_err(at("version"))
}

/// As the source has it; the files would fail in the middle, over what that version doesn't have.
fn check_version(version: i32) -> Result<(), MigrateError> {
    match version < walcast_source::OLDEST_VERSION {
        true => Err(MigrateError::TooOld {
            found: version / 10_000,
        }),
        false => Ok(()),
    }
}

/// What [`migrate`] would apply. Reads only, and takes no lock.
pub async fn pending(client: &Client) -> Result<Vec<MigrationId>, MigrateError> {
    let present = applied(client).await?;
    check_present(&present)?;
    Ok(MIGRATIONS
        .iter()
        .filter(|migration| present.iter().all(|p| p.version != migration.version))
        .map(Migration::id)
        .collect())
}

/// A migration by its place in the order and its file's name without `.sql`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationId {
    pub version: i32,
    pub name: String,
}

/// What [`migrate`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Applied now, in this order.
    pub applied: Vec<MigrationId>,
    /// Applied before.
    pub present: Vec<MigrationId>,
    /// In the database, and unknown to this build: a newer one has been here.
    pub unknown: Vec<MigrationId>,
    pub notes: Vec<Note>,
}

/// One line of `realtime.walcast_setup()`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub kind: NoteKind,
    pub what: String,
    /// What an administrator has to run; always there when something is missing.
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// It was not there and now is.
    Created,
    /// It is somebody else's and was left as it is.
    Kept,
    /// It is not there (or not as it should be), and this login may not change that.
    Missing,
}

struct Migration {
    version: i32,
    name: &'static str,
    sql: &'static str,
}

impl Migration {
    fn id(&self) -> MigrationId {
        MigrationId {
            version: self.version,
            name: self.name.to_owned(),
        }
    }

    /// What is sent. A database of another encoding can't take every letter, and those beyond ASCII
    /// stand in comments only.
    fn statements(&self) -> String {
        let ascii = |letter: char| if letter.is_ascii() { letter } else { '?' };
        self.sql.chars().map(ascii).collect()
    }

    fn checksum(&self) -> String {
        // a checkout on Windows may have changed the ends of lines
        let digest = Sha256::digest(self.sql.replace("\r\n", "\n"));
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

struct Applied {
    version: i32,
    name: String,
    checksum: String,
}

async fn prepare(transaction: &Transaction<'_>) -> Result<(), MigrateError> {
    // the files must mean the same whatever this role's or database's settings are
    transaction
        .batch_execute(&format!(
            "SET LOCAL search_path = pg_catalog, pg_temp; SET LOCAL client_min_messages = warning;
             SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; SET LOCAL statement_timeout = 0"
        ))
        .await
        .map_err(at("settings"))?;
    transaction
        .execute("SELECT pg_advisory_xact_lock($1)", &[&LOCK_KEY])
        .await
        .map_err(at("waiting for another migration"))?;
    Ok(())
}

async fn applied(client: &impl GenericClient) -> Result<Vec<Applied>, MigrateError> {
    let step = "reading realtime.walcast_migrations";
    // by catalogue: to_regclass() needs USAGE on the schema, and its lack must not look like "new"
    let exists = "SELECT FROM pg_catalog.pg_class WHERE relname = 'walcast_migrations'
                     AND relnamespace = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'realtime')";
    if client
        .query_opt(exists, &[])
        .await
        .map_err(at(step))?
        .is_none()
    {
        return Ok(Vec::new());
    }
    let rows = client
        .query(
            "SELECT version, name, checksum FROM realtime.walcast_migrations ORDER BY version",
            &[],
        )
        .await
        .map_err(at(step))?;
    rows.iter()
        .map(|row| {
            Ok(Applied {
                version: row.try_get(0)?,
                name: row.try_get(1)?,
                checksum: row.try_get(2)?,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(at(step))
}

fn check_present(present: &[Applied]) -> Result<(), MigrateError> {
    for migration in MIGRATIONS {
        let here = migration.checksum();
        if let Some(changed) = present
            .iter()
            .find(|p| p.version == migration.version && p.checksum != here)
        {
            return Err(MigrateError::Changed {
                version: migration.version,
                name: migration.name.to_owned(),
                recorded: changed.checksum.clone(),
                here,
            });
        }
    }
    Ok(())
}

fn unknown(present: &[Applied]) -> Vec<MigrationId> {
    present
        .iter()
        .filter(|p| {
            MIGRATIONS
                .iter()
                .all(|migration| migration.version != p.version)
        })
        .map(|p| MigrationId {
            version: p.version,
            name: p.name.clone(),
        })
        .collect()
}

async fn apply(transaction: &Transaction<'_>, migration: &Migration) -> Result<(), MigrateError> {
    let step = format!("migration {}", migration.name);
    transaction
        .batch_execute(&migration.statements())
        .await
        .map_err(at(&step))?;
    transaction
        .execute(
            "INSERT INTO realtime.walcast_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            &[&migration.version, &migration.name, &migration.checksum()],
        )
        .await
        .map_err(at(&step))?;
    tracing::info!(
        version = migration.version,
        name = migration.name,
        "migration run"
    );
    Ok(())
}

async fn set_up(transaction: &Transaction<'_>) -> Result<Vec<Note>, MigrateError> {
    let step = "realtime.walcast_setup()";
    let rows = transaction
        .query(
            "SELECT kind, what, remedy FROM realtime.walcast_setup()",
            &[],
        )
        .await
        .map_err(at(step))?;
    rows.iter()
        .map(|row| {
            let kind = match row.try_get(0)? {
                "created" => NoteKind::Created,
                "kept" => NoteKind::Kept,
                _ => NoteKind::Missing,
            };
            Ok(Note {
                kind,
                what: row.try_get(1)?,
                remedy: row.try_get(2)?,
            })
        })
        .collect::<Result<_, _>>()
        .map_err(at(step))
}

impl Report {
    fn log(&self) {
        tracing::info!(
            applied = self.applied.len(),
            present = self.present.len(),
            "migrations are up to date"
        );
        for newer in &self.unknown {
            tracing::warn!(
                version = newer.version,
                name = newer.name,
                "the database has a migration that this build does not know: a newer walcast has been here"
            );
        }
        for note in &self.notes {
            let remedy = note.remedy.as_deref();
            match note.kind {
                NoteKind::Created => tracing::info!(what = note.what, "created"),
                NoteKind::Kept => tracing::debug!(what = note.what, "kept as it was"),
                NoteKind::Missing => tracing::warn!(what = note.what, remedy, "missing"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_old_is_told_before_anything_is_done() {
        assert!(check_version(walcast_source::OLDEST_VERSION).is_ok());
        let error = check_version(14_00_22).expect_err("too old");
        assert!(!error.is_transient());
        assert_eq!(
            error.to_string(),
            "the server is PostgreSQL 14; use PostgreSQL 15 or newer"
        );
    }

    #[test]
    fn versions_count_up_and_names_carry_them() {
        for (place, migration) in (1..).zip(MIGRATIONS) {
            assert_eq!(migration.version, place);
            assert!(
                migration.name.starts_with(&format!("{place:04}_")),
                "{}",
                migration.name
            );
        }
    }

    #[test]
    fn every_file_of_the_folder_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .expect("the folder is in the repository")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| name.strip_suffix(".sql").map(str::to_owned))
            .collect();
        files.sort();
        assert_eq!(files, MIGRATIONS.iter().map(|m| m.name).collect::<Vec<_>>());
    }

    #[test]
    fn statements_are_ascii() {
        for migration in MIGRATIONS {
            let code = migration.sql.lines().map(|line| {
                let comment = line.trim_start().starts_with("--");
                if comment { "" } else { line }
            });
            let strange = code.filter(|line| !line.is_ascii()).collect::<Vec<_>>();
            assert!(strange.is_empty(), "{}: {strange:?}", migration.name);
        }
    }

    #[test]
    fn ends_of_lines_do_not_count() {
        let unix = Migration {
            version: 1,
            name: "0001_x",
            sql: "SELECT 1;\nSELECT 2;\n",
        };
        let windows = Migration {
            version: 1,
            name: "0001_x",
            sql: "SELECT 1;\r\nSELECT 2;\r\n",
        };
        let other = Migration {
            version: 1,
            name: "0001_x",
            sql: "SELECT 1;\nSELECT 3;\n",
        };
        assert_eq!(unix.checksum(), windows.checksum());
        assert_ne!(unix.checksum(), other.checksum());
    }

    #[test]
    fn a_changed_checksum_is_named() {
        let present = [Applied {
            version: 1,
            name: "0001_schema".into(),
            checksum: "0".into(),
        }];
        let error = check_present(&present).unwrap_err();
        assert!(
            matches!(error, MigrateError::Changed { version: 1, .. }),
            "{error}"
        );
        assert!(!error.is_transient());
    }
}
