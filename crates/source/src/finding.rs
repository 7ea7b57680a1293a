//! What a check found, and what to do about it.

use std::fmt;

use crate::{Retry, SourceError};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Good to know.
    Info,
    /// Works, but will hurt.
    Warning,
    /// There is no stream until it is mended, or the application's own statements fail.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}

/// One result of [`examine`](crate::examine). `what` and `remedy` are single lines without row
/// values; `code` is stable, for scripts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub code: &'static str,
    pub what: String,
    pub remedy: String,
}

impl Finding {
    pub(crate) fn error(
        code: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Finding::new(Severity::Error, code, what, remedy)
    }

    pub(crate) fn warning(
        code: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Finding::new(Severity::Warning, code, what, remedy)
    }

    pub(crate) fn info(
        code: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Finding::new(Severity::Info, code, what, remedy)
    }

    fn new(
        severity: Severity,
        code: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Finding {
            severity,
            code,
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// Whether it may pass by itself.
    pub(crate) fn retry(&self) -> Retry {
        match self.code {
            // a server that is being promoted; slots that another process gives back
            "server_in_recovery" | "slots_exhausted" => Retry::Soon,
            _ => Retry::Operator,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} [{}]", self.severity, self.what, self.code)?;
        if self.remedy.is_empty() {
            return Ok(());
        }
        write!(f, "; {}", self.remedy)
    }
}

impl From<Finding> for SourceError {
    fn from(finding: Finding) -> Self {
        SourceError::Finding(Box::new(finding))
    }
}
