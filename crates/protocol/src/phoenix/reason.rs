//! Why something is refused.

/// Prints what stands in `reason`, word for word as Supabase's server says it: clients show it to
/// their users, and some compare it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The topic is `realtime:` alone.
    #[error("TopicNameRequired: You must provide a topic name")]
    TopicNameRequired,
    /// The topic has another prefix, or is not joined.
    #[error("unmatched topic")]
    UnmatchedTopic,
    #[error("InvalidJWTToken: Fields `role` and `exp` are required in JWT")]
    MissingClaims,
    #[error("InvalidJWTToken: Token has expired {seconds} seconds ago")]
    TokenExpired { seconds: u64 },
    #[error("InvalidJWTToken: Token expiration time is invalid")]
    TokenExpirationInvalid,
    #[error("MalformedJWT: The token provided is not a valid JWT")]
    TokenMalformed,
    #[error("JwtSignatureError: Failed to validate JWT signature")]
    TokenSignature,
    #[error(
        "JwtSignerError: Failed to generate JWT signer, check your JWT secret or JWKS configuration"
    )]
    TokenSigner,
    #[error(
        "JwtSignerError: Failed to generate JWT signer for key ID (kid) {kid:?}, check your JWT secret or JWKS configuration"
    )]
    TokenSignerOf { kid: String },
    /// `topic` is without `realtime:`.
    #[error("Unauthorized: You do not have permissions to read from this Channel topic: {topic}")]
    Unauthorized { topic: String },
    #[error("PrivateOnly: This project only allows private channels")]
    PrivateOnly,
    #[error("ChannelRateLimitReached: Too many channels")]
    TooManyChannels,
    #[error("ConnectionRateLimitReached: Too many connected users")]
    TooManyConnections,
    #[error("ClientJoinRateLimitReached: Too many joins per second")]
    TooManyJoins,
    #[error("IncreaseConnectionPool: Please increase your connection pool size")]
    PoolExhausted,
    #[error(
        "DatabaseLackOfConnections: Database can't accept more connections, Realtime won't connect"
    )]
    DatabaseFull,
    #[error(
        "DatabaseConnectionRateLimitReached: Too many database connections attempts per second"
    )]
    DatabaseConnectionRate,
    /// Policies could not be judged.
    #[error("Realtime was unable to connect to the project database")]
    UnableToSetPolicies,
    #[error("UnableToConnectToProject: Realtime was unable to connect to the project database")]
    DatabaseUnavailable,
    #[error("QueryCanceled: Query was cancelled, please try again")]
    QueryCanceled,
    #[error("MissingPartition: Realtime was unable to find the expected messages partition")]
    MissingPartition,
    #[error("InitializingProjectConnection: Realtime is initializing the project connection")]
    Initializing,
    #[error("RealtimeRestarting: Realtime is restarting, please standby")]
    Restarting,
    #[error("UnableToReplayMessages: Realtime was unable to replay messages")]
    Replay,
    #[error("UnableToReplayMessages: Replay params are not valid")]
    ReplayParams,
    #[error("UnableToReplayMessages: Replay is not allowed for public channels")]
    ReplayOnPublic,
    /// The bindings were not live in time, and the client asked for a join that waits.
    #[error("PostgresChangesSubscribeTimeout: the changes were not subscribed to in time")]
    ChangesTimeout,
    /// The bindings can't be subscribed to, and the client asked for a join that waits. `message`
    /// is that of the `system` message.
    #[error("RealtimeDisabledForConfiguration: {message}")]
    ChangesRefused { message: String },
    /// Anything else.
    #[error("Unknown Error on Channel")]
    Unknown,
    /// Of a track whose payload is no object.
    #[error("Presence track payload must be a map")]
    TrackNotMap,
    /// Of an acknowledged broadcast. Written as a bare string.
    #[error("payload_size_exceeded")]
    PayloadSizeExceeded,
    /// Of presence messages that are not permitted or not known. Written as `{}`.
    #[error("refused")]
    Unexplained,
}

impl Reason {
    /// The part before the colon, for the log: one of the codes of Supabase's list. The whole text
    /// where there is none.
    pub fn code(&self) -> String {
        let text = self.to_string();
        match text.split_once(": ") {
            Some((code, _)) => code.to_owned(),
            None => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes() {
        for (reason, code) in [
            (Reason::TooManyJoins, "ClientJoinRateLimitReached"),
            (Reason::UnmatchedTopic, "unmatched topic"),
            (Reason::ReplayParams, "UnableToReplayMessages"),
        ] {
            assert_eq!(reason.code(), code);
        }
        let kid = "a\"b".to_owned();
        assert!(
            Reason::TokenSignerOf { kid }
                .to_string()
                .contains(r#"(kid) "a\"b", check"#)
        );
    }
}
