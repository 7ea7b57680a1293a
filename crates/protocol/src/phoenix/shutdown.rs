//! The end of a channel that the client did not ask for.

/// Why a joined channel ends. Told in a `system` message, which prints it, before the frame that
/// ends the channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Shutdown {
    #[error("Token has expired {seconds} seconds ago")]
    TokenExpired { seconds: u64 },
    #[error("Fields `role` and `exp` are required in JWT")]
    MissingClaims,
    #[error("The token provided is not a valid JWT")]
    TokenMalformed,
    /// Theirs is `signature_error`, the inside of their program.
    #[error("Failed to validate JWT signature")]
    TokenSignature,
    #[error("Failed to generate JWT signer, check your JWT secret or JWKS configuration")]
    TokenSigner,
    /// `topic` is without `realtime:`.
    #[error("You do not have permissions to read from this Channel topic: {topic}")]
    Unauthorized { topic: String },
    #[error("You no longer have permission to read from this Channel topic: {topic}")]
    PermissionRevoked { topic: String },
    #[error("Too many messages per second")]
    TooManyMessages,
    #[error("Too many presence messages per second")]
    TooManyPresenceMessages,
    #[error("Client presence rate limit exceeded")]
    ClientPresenceRate,
    #[error("Track message size exceeded")]
    TrackTooLarge,
    #[error("Realtime was unable to connect to the project database")]
    DatabaseUnavailable,
    #[error("Query was cancelled, please try again")]
    QueryCanceled,
    #[error("Replication connection was not established in time")]
    ReplicationNotReady,
}

/// Which frame ends a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// `phx_close`: the client takes the channel away for ever.
    Close,
    /// `phx_error`: the client joins again by itself, after 1, 2, 5, then 10 s.
    Error,
}

impl Shutdown {
    /// The frame by which clients do what helps them: join again where a later join may succeed
    /// without anybody's doing (a token that the client renews by itself, a rate, a database that
    /// comes back), else not. Supabase's server always closes.
    pub fn ending(&self) -> Ending {
        match self {
            Shutdown::TokenExpired { .. }
            | Shutdown::TooManyMessages
            | Shutdown::TooManyPresenceMessages
            | Shutdown::ClientPresenceRate
            | Shutdown::DatabaseUnavailable
            | Shutdown::QueryCanceled
            | Shutdown::ReplicationNotReady => Ending::Error,
            Shutdown::MissingClaims
            | Shutdown::TokenMalformed
            | Shutdown::TokenSignature
            | Shutdown::TokenSigner
            | Shutdown::Unauthorized { .. }
            | Shutdown::PermissionRevoked { .. }
            | Shutdown::TrackTooLarge => Ending::Close,
        }
    }
}
