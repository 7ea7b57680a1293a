//! Why rows are not read.

use tokio_postgres::error::SqlState;

use crate::{ConnectError, Denial};

/// Why a reading did not begin, or is not complete. The texts are fit for the subscriber;
/// [`ReadError::reason`] is for the log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("the table does not exist, is not enabled for realtime, or may not be read")]
    Denied(Denial),
    /// No room, or no session became free in time.
    #[error("too many snapshots are asked for at the moment")]
    Busy,
    #[error("the snapshot has more than {rows_max} rows")]
    TooManyRows { rows_max: u64 },
    #[error("the snapshot has more than {bytes_max} bytes")]
    TooManyBytes { bytes_max: u64 },
    #[error("the snapshot took too long")]
    TimedOut,
    /// The table is no longer as its shape describes it, or was changed or rewritten (TRUNCATE, ALTER
    /// TABLE) while it was about to be read.
    #[error("the table has just been changed")]
    Changed,
    /// A function called by a policy changed the role or the claims.
    #[error("the snapshot could not be read")]
    Escaped,
    /// Postgres refused the statement or a policy raised: the SQLSTATE.
    #[error("the snapshot could not be read")]
    Failed { code: String },
    #[error("snapshots can't be read at the moment")]
    Unavailable(String),
}

impl ReadError {
    /// For the log, never for the subscriber. Without row values.
    pub fn reason(&self) -> String {
        match self {
            ReadError::Denied(denial) => denial.to_string(),
            ReadError::Escaped => "a policy changed who it runs as".to_owned(),
            ReadError::Failed { code } => format!("SQLSTATE {code}"),
            ReadError::Unavailable(reason) => reason.clone(),
            other => other.to_string(),
        }
    }

    /// Asking again right away is pointless.
    pub fn is_final(&self) -> bool {
        !matches!(
            self,
            ReadError::Busy | ReadError::TimedOut | ReadError::Changed | ReadError::Unavailable(_)
        )
    }

    /// Too large for the limits: the subscriber has to ask for less.
    pub fn is_too_large(&self) -> bool {
        matches!(
            self,
            ReadError::TooManyRows { .. } | ReadError::TooManyBytes { .. }
        )
    }

    /// The task of the reading is gone: the runtime ends.
    pub(crate) fn gone() -> ReadError {
        ReadError::Unavailable("the reading was given up".into())
    }
}

impl From<ConnectError> for ReadError {
    fn from(error: ConnectError) -> ReadError {
        ReadError::Unavailable(error.to_string())
    }
}

/// By its SQLSTATE alone: the text may hold the row.
impl From<tokio_postgres::Error> for ReadError {
    fn from(error: tokio_postgres::Error) -> ReadError {
        let Some(code) = error.code() else {
            return ReadError::Unavailable("connection lost".into());
        };
        let changed = [
            SqlState::UNDEFINED_TABLE,
            SqlState::UNDEFINED_COLUMN,
            SqlState::INVALID_SCHEMA_NAME,
        ];
        if *code == SqlState::INSUFFICIENT_PRIVILEGE {
            ReadError::Denied(Denial::Privilege)
        } else if *code == SqlState::QUERY_CANCELED {
            ReadError::TimedOut
        } else if changed.contains(code) {
            ReadError::Changed
        } else if *code == SqlState::LOCK_NOT_AVAILABLE
            || ["57P", "08", "53", "25P03"]
                .iter()
                .any(|class| code.code().starts_with(class))
        {
            ReadError::Unavailable(format!("SQLSTATE {}", code.code()))
        } else {
            ReadError::Failed {
                code: code.code().to_owned(),
            }
        }
    }
}
