//! The errors that clients are told.

use walcast_change::Position;

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
    /// What came after the position is not kept any more, or nothing is kept.
    CursorTooOld,
    /// The position belongs to another life of the stream.
    EpochChanged,
    /// The rows could not be read.
    SnapshotFailed,
    /// There are more rows than a snapshot may have.
    SnapshotTooLarge,
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
            Code::CursorTooOld => "CURSOR_TOO_OLD",
            Code::EpochChanged => "EPOCH_CHANGED",
            Code::SnapshotFailed => "SNAPSHOT_FAILED",
            Code::SnapshotTooLarge => "SNAPSHOT_TOO_LARGE",
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
    /// The oldest position that can still be gone on from.
    pub oldest: Option<Position>,
    /// What the client called the message that is refused.
    pub reference: Option<Box<Reference>>,
}

/// What a client calls one of its messages, to be repeated in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `ref`: a string or a number.
    Ref(serde_json::Value),
    /// `messageId`, as the Fluxbase SDK has it.
    MessageId(serde_json::Value),
}

impl Reference {
    /// Adds the field that it came in.
    pub(crate) fn put_into(&self, object: &mut serde_json::Value) {
        match self {
            Reference::Ref(value) => object["ref"] = value.clone(),
            Reference::MessageId(value) => object["messageId"] = value.clone(),
        }
    }
}

impl Refusal {
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        Refusal {
            code,
            message: message.into(),
            channel: None,
            oldest: None,
            reference: None,
        }
    }

    pub fn on(self, channel: impl Into<String>) -> Refusal {
        Refusal {
            channel: Some(channel.into()),
            ..self
        }
    }

    pub fn about(self, reference: Option<Reference>) -> Refusal {
        let reference = reference.map(Box::new);
        Refusal { reference, ..self }
    }
}
