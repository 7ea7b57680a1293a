//! The errors that clients are told.

/// An error's kind, as it stands in `code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Invalid or missing token.
    Unauthorized,
    /// Insufficient permissions.
    Forbidden,
    /// The channel's name has no known form.
    InvalidChannel,
    /// Could not subscribe, or the subscription ended.
    SubscriptionFailed,
    /// Too many connections, subscriptions or messages.
    RateLimited,
    /// The message is not of the protocol.
    InvalidMessage,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Unauthorized => "UNAUTHORIZED",
            Code::Forbidden => "FORBIDDEN",
            Code::InvalidChannel => "INVALID_CHANNEL",
            Code::SubscriptionFailed => "SUBSCRIPTION_FAILED",
            Code::RateLimited => "RATE_LIMITED",
            Code::InvalidMessage => "INVALID_MESSAGE",
        }
    }
}

/// Why a command is not carried out, in words for the client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub code: Code,
    pub message: String,
    /// The channel that the command named.
    pub channel: Option<String>,
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
            channel: None,
        }
    }

    pub fn on(self, channel: impl Into<String>) -> Refusal {
        Refusal {
            channel: Some(channel.into()),
            ..self
        }
    }
}
