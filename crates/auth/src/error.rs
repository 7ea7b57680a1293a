use std::path::PathBuf;

/// Why a token was refused. The text is short and may be shown to a stranger: it never contains any part of the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    #[error("a token is required")]
    Missing,
    #[error("the token is too long")]
    TooLong,
    #[error("the token is not a well-formed JWT")]
    Malformed,
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    #[error("the token asks for an extension that is not supported")]
    Critical,
    #[error("the token was signed with an unknown key")]
    UnknownKey,
    #[error("the keys to check the token are not available at the moment")]
    KeysUnavailable,
    #[error("the token's signature does not match")]
    Signature,
    #[error("the token's claims are not valid")]
    Claims,
    #[error("the token names a claim twice")]
    DuplicateClaim,
    #[error("the token has no expiry")]
    NoExpiry,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYetValid,
    #[error("the token is meant for another audience")]
    Audience,
    #[error("the token comes from another issuer")]
    Issuer,
    #[error("the token names no role that is accepted")]
    Role,
}

/// What a client may do about a refused token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The same token may be accepted later.
    Later,
    /// Only another token can help.
    WithNewToken,
}

impl AuthError {
    /// A stable machine code, also the value of the metrics label.
    pub fn code(self) -> &'static str {
        match self {
            Self::Missing => "token_missing",
            Self::TooLong => "token_too_long",
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::Critical => "token_critical_header",
            Self::UnknownKey => "token_unknown_key",
            Self::KeysUnavailable => "keys_unavailable",
            Self::Signature => "token_signature",
            Self::Claims => "token_claims",
            Self::DuplicateClaim => "token_duplicate_claim",
            Self::NoExpiry => "token_no_expiry",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Audience => "token_audience",
            Self::Issuer => "token_issuer",
            Self::Role => "token_role",
        }
    }

    /// Whether the same token may succeed later.
    pub fn retry(self) -> Retry {
        match self {
            Self::UnknownKey | Self::KeysUnavailable | Self::NotYetValid => Retry::Later,
            _ => Retry::WithNewToken,
        }
    }
}

/// A configuration that cannot work. Every text names what to do; none contains a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    #[error(
        "no key to check tokens with, and anonymous access is off: set jwt_secret, jwt_public_key_file, jwks_url or jwks_file, or anonymous = true"
    )]
    NoKeys,
    #[error(
        "{name} has {bytes} bytes, at least {min} are needed: make one with `openssl rand -base64 48`",
        min = crate::key::SECRET_BYTES_MIN
    )]
    ShortSecret { name: &'static str, bytes: usize },
    #[error("the public key file {reason}")]
    PublicKey { reason: &'static str },
    #[error("cannot read the JWKS file {}: {source}", path.display())]
    JwksFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("the JWKS file {} {reason}", path.display())]
    JwksContent { path: PathBuf, reason: String },
    #[error("jwks_url {reason}")]
    JwksUrl { reason: &'static str },
    #[error("the certificate authority file for jwks_url {reason}")]
    JwksAuthority { reason: &'static str },
    #[error(
        "{setting} names the role {role:?}, which is never accepted: not empty, not \"none\", not pg_…, at most 63 bytes"
    )]
    Role { setting: &'static str, role: String },
}
