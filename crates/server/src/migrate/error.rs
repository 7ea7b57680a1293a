//! Why a migration did not happen, and what to do about it.

use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MigrateError {
    #[error("the server is PostgreSQL {found}; use PostgreSQL 15 or newer")]
    TooOld {
        /// Its major version.
        found: i32,
    },
    #[error(
        "migration {version} ({name}) is not the one that was applied to this database: its checksum was {recorded} \
         and is {here}; use the build that the database was migrated with, or a newer one, and never edit an applied \
         migration (a change is a new file)"
    )]
    Changed {
        version: i32,
        name: String,
        recorded: String,
        here: String,
    },
    #[error("{step}: {message} (SQLSTATE {code}, {class}); {remedy}")]
    Refused {
        /// `migration 0003_identity`, `realtime.walcast_setup()`, …
        step: String,
        code: String,
        class: &'static str,
        /// Postgres's primary message, without detail and context.
        message: String,
        remedy: String,
        #[source]
        source: Box<tokio_postgres::Error>,
    },
    #[error("{step}: the connection to the database failed; look whether it is up and try again")]
    Connection {
        step: String,
        #[source]
        source: Box<tokio_postgres::Error>,
    },
}

impl MigrateError {
    /// Whether the same call may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            MigrateError::TooOld { .. } | MigrateError::Changed { .. } => false,
            MigrateError::Connection { .. } => true,
            MigrateError::Refused { code, .. } => {
                code == SqlState::LOCK_NOT_AVAILABLE.code()
                    || matches!(code.get(..2), Some("08" | "40" | "53" | "57" | "58"))
            }
        }
    }
}

/// An error of tokio-postgres, told as what failed at `step`.
pub(super) fn at(step: &str) -> impl FnOnce(tokio_postgres::Error) -> MigrateError {
    let step = step.to_owned();
    move |source| {
        let Some(db) = source.as_db_error() else {
            return MigrateError::Connection {
                step,
                source: Box::new(source),
            };
        };
        let code = db.code().code().to_owned();
        MigrateError::Refused {
            step,
            class: class(&code),
            message: db.message().to_owned(),
            remedy: db
                .hint()
                .map_or_else(|| remedy(db.code()).to_owned(), str::to_owned),
            code,
            source: Box::new(source),
        }
    }
}

/// What the first two characters of an SQLSTATE mean: the manual's appendix A, in short.
fn class(code: &str) -> &'static str {
    match code.get(..2) {
        Some("08") => "connection",
        Some("0A") => "not supported",
        Some("23") => "constraint",
        Some("25") => "transaction state",
        Some("28") => "authorization",
        Some("40") => "rollback",
        Some("42") => "access rule or missing object",
        Some("53") => "resources",
        Some("55") => "object state",
        Some("57") => "operator intervention",
        _ => "see the list of SQLSTATE codes",
    }
}

fn remedy(code: &SqlState) -> &'static str {
    match *code {
        SqlState::INSUFFICIENT_PRIVILEGE => {
            "run the migrations as the owner of schema realtime (or of the database); a login that only serves needs \
             GRANT USAGE ON SCHEMA realtime and GRANT SELECT ON realtime.walcast_migrations, realtime.walcast_tables"
        }
        SqlState::READ_ONLY_SQL_TRANSACTION => {
            "this is a standby or a read-only login: run the migrations on the primary"
        }
        SqlState::LOCK_NOT_AVAILABLE | SqlState::T_R_DEADLOCK_DETECTED => {
            "another session holds a lock that the migration needs: try again, or look for it in pg_locks"
        }
        _ => "nothing was changed; put the cause right and run the migrations again",
    }
}
