//! What can go wrong, and whether trying again may help.

use crate::Finding;

/// Whether the same attempt may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// By itself: a restart, a cut network, a slot still held by another process.
    Soon,
    /// Only after somebody has changed something.
    Operator,
}

/// Why there is no stream. The texts name neither passwords nor row values.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    #[error("the database url is not usable: {0}")]
    Url(String),
    #[error("a slot name has 1 to 63 characters of a-z, 0-9 and _")]
    SlotName,
    /// A check before streaming failed; its remedy is part of the text.
    #[error("{}; {}", .0.what, .0.remedy)]
    Finding(Box<Finding>),
    #[error("replication slot \"{slot}\" is in use by process {pid} ({application})")]
    SlotInUse {
        slot: String,
        pid: i32,
        application: String,
    },
    /// The server's own words. `code` is its SQLSTATE.
    #[error("{text} (SQLSTATE {code})")]
    Server { code: String, text: String },
    #[error("login failed: {0}")]
    Login(String),
    #[error("tls: {0}")]
    Tls(String),
    #[error("connection: {0}")]
    Io(String),
    #[error("no answer within {seconds} s while {during}")]
    Timeout { during: &'static str, seconds: u64 },
    #[error("the connection was closed")]
    Closed,
    #[error(
        "a message of {bytes} bytes is over the limit of {limit_bytes}; raise the source's message limit"
    )]
    MessageTooLarge { bytes: usize, limit_bytes: usize },
    #[error("a message from the server can't be read: {0}")]
    Decode(#[from] walcast_pgoutput::DecodeError),
    #[error("unexpected answer from the server: {0}")]
    Protocol(String),
    #[error("stopped")]
    Stopped,
}

impl SourceError {
    /// Whether to try again.
    pub fn retry(&self) -> Retry {
        match self {
            SourceError::Finding(finding) => finding.retry(),
            SourceError::Server { code, .. } => retry_of_code(code),
            SourceError::SlotInUse { .. }
            | SourceError::Io(_)
            | SourceError::Timeout { .. }
            | SourceError::Protocol(_)
            | SourceError::Closed => Retry::Soon,
            SourceError::Url(_)
            | SourceError::SlotName
            | SourceError::Login(_)
            | SourceError::Tls(_)
            | SourceError::MessageTooLarge { .. }
            | SourceError::Decode(_)
            | SourceError::Stopped => Retry::Operator,
        }
    }

    /// The server's SQLSTATE, where it gave one.
    pub fn code(&self) -> Option<&str> {
        match self {
            SourceError::Server { code, .. } => Some(code),
            _ => None,
        }
    }

    /// A stable name for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            SourceError::Url(_) | SourceError::SlotName => "configuration",
            SourceError::Finding(finding) => finding.code,
            SourceError::SlotInUse { .. } => "slot_in_use",
            SourceError::Server { .. } => "server",
            SourceError::Login(_) => "login",
            SourceError::Tls(_) => "tls",
            SourceError::Io(_) | SourceError::Closed => "connection",
            SourceError::Timeout { .. } => "timeout",
            SourceError::MessageTooLarge { .. } => "message_too_large",
            SourceError::Decode(_) | SourceError::Protocol(_) => "protocol",
            SourceError::Stopped => "stopped",
        }
    }

    /// Splits pgwire's `text (SQLSTATE 57P01)`.
    pub(crate) fn from_server_text(text: &str) -> SourceError {
        let split = text
            .strip_suffix(')')
            .and_then(|rest| rest.rsplit_once(" (SQLSTATE "))
            .filter(|(_, code)| code.len() == 5);
        match split {
            Some((text, code)) => SourceError::Server {
                code: code.into(),
                text: text.into(),
            },
            None => SourceError::Protocol(text.into()),
        }
    }
}

/// The SQLSTATE classes of the manual's appendix A.
fn retry_of_code(code: &str) -> Retry {
    match code {
        // admin shutdown, crash shutdown, cannot connect now (starting, recovering)
        "57P01" | "57P02" | "57P03" => Retry::Soon,
        // cancelled by a user or a timeout; slot in use; serialization and deadlock
        "57014" | "55006" | "40001" | "40P01" => Retry::Soon,
        // an internal error of the server is as likely a passing one (a slot just invalidated is found
        // out by the next check)
        "XX000" => Retry::Soon,
        // unsupported startup parameter and the like: the same next time
        "08P01" => Retry::Operator,
        _ if code.starts_with("53") || code.starts_with("08") || code.starts_with("58") => {
            Retry::Soon
        }
        _ => Retry::Operator,
    }
}

impl From<tokio_postgres::Error> for SourceError {
    fn from(error: tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        if let Some(server) = error.as_db_error() {
            return SourceError::Server {
                code: server.code().code().into(),
                text: server.message().into(), // never the detail: it may quote a row
            };
        }
        if error.is_closed() {
            return SourceError::Closed;
        }
        let text = error.to_string();
        if let Some(io) = error
            .source()
            .and_then(|source| source.downcast_ref::<std::io::Error>())
        {
            let text = format!("{text}: {io}");
            return match io.kind() {
                // what rustls says of a certificate that it doesn't accept
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::InvalidInput => {
                    SourceError::Tls(text)
                }
                _ => SourceError::Io(text),
            };
        }
        let reason = error.source().map(|source| format!(": {source}"));
        let text = text + &reason.unwrap_or_default();
        // tokio-postgres keeps its kinds to itself, their texts are stable
        if text.starts_with("authentication error") || text.starts_with("invalid configuration") {
            SourceError::Login(text)
        } else if text.contains("TLS") {
            SourceError::Tls(text)
        } else {
            SourceError::Protocol(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (code, retry) in [
            ("28P01", Retry::Operator),
            ("28000", Retry::Operator),
            ("3D000", Retry::Operator),
            ("42501", Retry::Operator),
            ("42704", Retry::Operator),
            ("55000", Retry::Operator),
            ("08P01", Retry::Operator),
            ("57P01", Retry::Soon),
            ("57P02", Retry::Soon),
            ("57P03", Retry::Soon),
            ("55006", Retry::Soon),
            ("53300", Retry::Soon),
            ("53400", Retry::Soon),
            ("08006", Retry::Soon),
            ("58P01", Retry::Soon),
            ("XX000", Retry::Soon),
        ] {
            let error = SourceError::from_server_text(&format!("words (SQLSTATE {code})"));
            assert_eq!(error.code(), Some(code));
            assert_eq!(error.retry(), retry, "{code}");
            assert_eq!(error.to_string(), format!("words (SQLSTATE {code})"));
        }
    }

    #[test]
    fn the_code_is_the_last_one_in_the_text() {
        let error = SourceError::from_server_text("a (SQLSTATE 11111) b (SQLSTATE 57P01)");
        assert_eq!(error.code(), Some("57P01"));
        for odd in [
            "",
            "no code",
            "(SQLSTATE 57P01)",
            "a (SQLSTATE 57P0)",
            "a (SQLSTATE 57P01",
        ] {
            let error = SourceError::from_server_text(odd);
            assert_eq!(error.code(), None, "{odd}");
            assert_eq!(error.retry(), Retry::Soon);
        }
    }
}
