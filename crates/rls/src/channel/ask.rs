//! Who asks what about a channel, and the answers.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::lane::Failure;
use crate::{Refusal, Viewer};

/// Somebody who wants into a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelViewer {
    pub viewer: Viewer,
    /// What a policy finds in `request.headers`; an empty object if they are not given.
    pub headers: Option<Headers>,
}

impl ChannelViewer {
    pub fn new(viewer: Viewer) -> ChannelViewer {
        ChannelViewer {
            viewer,
            headers: None,
        }
    }

    /// `json`: an object of texts.
    pub fn with_headers(self, json: impl Into<Arc<str>>) -> ChannelViewer {
        ChannelViewer {
            headers: Some(Headers(json.into())),
            ..self
        }
    }

    pub(crate) fn headers(&self) -> &str {
        self.headers.as_ref().map_or("{}", |headers| &headers.0)
    }
}

/// Request headers, which may hold secrets: not in any `Debug` text.
#[derive(Clone, PartialEq, Eq)]
pub struct Headers(Arc<str>);

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Headers")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelAction {
    /// The policies for SELECT.
    Read,
    /// The policies for INSERT.
    Write,
}

/// One question: may a message like this be read, or written?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelAsk {
    pub topic: Arc<str>,
    pub action: ChannelAction,
    /// `broadcast`, `presence`.
    pub extension: Arc<str>,
    /// What more is known of the message, by the columns of `realtime.messages`: text is a text or
    /// what the column's type reads, `None` is NULL. Names that the table has not are left out.
    pub columns: Vec<(&'static str, Option<String>)>,
}

impl ChannelAsk {
    /// `topic` as the table has it: without `realtime:` or any other prefix of a protocol.
    pub fn new(
        topic: impl Into<Arc<str>>,
        action: ChannelAction,
        extension: impl Into<Arc<str>>,
    ) -> ChannelAsk {
        ChannelAsk {
            topic: topic.into(),
            action,
            extension: extension.into(),
            columns: Vec::new(),
        }
    }

    pub fn with(mut self, column: &'static str, value: Option<String>) -> ChannelAsk {
        self.columns.push((column, value));
        self
    }
}

pub(crate) type Answer = Result<(), ChannelRefusal>;

/// Why not. Both are a no; only the first is one that will stay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelRefusal {
    #[error("{0}")]
    Denied(#[from] ChannelDenial),
    #[error("{0}")]
    Failed(#[from] ChannelFailure),
}

/// Postgres was asked and said no, or would. For the log, not for the subscriber.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelDenial {
    #[error("the policies on realtime.messages do not allow it")]
    Policy,
    #[error("realtime.messages has no policy that could allow it to the role")]
    NoPolicy,
    #[error("the role has no USAGE on schema realtime")]
    Schema,
    #[error("the role has no SELECT or INSERT on realtime.messages")]
    Privilege,
    #[error(
        "there is no table realtime.messages with the columns of channels; run walcast migrate"
    )]
    Missing,
    #[error("role: {0}")]
    Role(Refusal),
    #[error("the topic is no text that Postgres can hold")]
    Topic,
}

/// It could not be found out: denied, and worth trying again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelFailure {
    /// Too many wait already, or it took too long to be one's turn.
    #[error("too many wait for their channels to be checked")]
    Busy,
    #[error("the policies on realtime.messages took too long")]
    Timeout,
    /// A policy raised an error.
    #[error("the policies on realtime.messages failed (SQLSTATE {code})")]
    Error { code: String },
    /// A policy changed the role or the claims that it runs with.
    #[error("the policies on realtime.messages changed who they run as")]
    Escaped,
    #[error("channels can't be checked at the moment: no session with the database")]
    Unavailable,
}

impl From<Failure> for ChannelFailure {
    fn from(failure: Failure) -> ChannelFailure {
        match failure {
            Failure::Sql(code) if code == SqlState::QUERY_CANCELED => ChannelFailure::Timeout,
            Failure::Sql(code) => ChannelFailure::Error {
                code: code.code().to_owned(),
            },
            Failure::Escaped => ChannelFailure::Escaped,
            Failure::Disconnected => ChannelFailure::Unavailable,
        }
    }
}

pub(crate) fn refused(refusal: Refusal) -> ChannelRefusal {
    ChannelRefusal::Denied(ChannelDenial::Role(refusal))
}
