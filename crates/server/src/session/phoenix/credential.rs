//! From what a client shows (a token or an API key) to who it is, and what it is told if it is
//! nobody.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use walcast_auth::{AuthError, Identity};
use walcast_protocol::phoenix::{Reason, Shutdown};

use super::api_key::Meaning;
use crate::shared::Shared;

/// Why a credential is not accepted, as Supabase's server tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    Missing,
    /// `role` or `exp`.
    MissingClaims,
    Expired {
        seconds: u64,
    },
    Malformed,
    Signature,
    /// No key to check it with.
    Signer {
        kid: Option<String>,
    },
}

/// Who shows this: a token, or one of the API keys of the settings.
pub(crate) async fn identify(shared: &Shared, shown: &str) -> Result<Identity, TokenError> {
    let settings = &shared.settings.phoenix;
    let shown = shown.trim();
    let token = match settings.api_keys.meaning(shown) {
        Some(Meaning::Role(role)) => return Ok(Identity::anonymous(role)),
        Some(Meaning::Token(token)) => token,
        None => shown,
    };
    let verified = shared.verifier.verify_fresh(token).await;
    let identity = verified.map_err(|error| {
        shared.metrics.token_refused(error.code());
        refused(error, token)
    })?;
    let has_role = || claims(token).is_some_and(|claims| claims.get("role").is_some());
    if identity.expires_at.is_none() || (settings.role_required && !has_role()) {
        return Err(TokenError::MissingClaims);
    }
    Ok(identity)
}

/// Since when an identity that has expired is nobody any more.
pub(super) fn expired(identity: &Identity) -> TokenError {
    TokenError::Expired {
        seconds: seconds_since(identity.expires_at.unwrap_or_default()),
    }
}

fn refused(error: AuthError, token: &str) -> TokenError {
    match error {
        AuthError::Missing => TokenError::Missing,
        AuthError::NoExpiry | AuthError::Role => TokenError::MissingClaims,
        AuthError::Expired => {
            // The signature was found good before the time was looked at.
            let claims = claims(token).unwrap_or_default();
            let expiry = claims.get("exp").and_then(Value::as_f64).unwrap_or(0.0);
            TokenError::Expired {
                seconds: seconds_since(expiry as i64),
            }
        }
        AuthError::Signature => TokenError::Signature,
        AuthError::UnknownKey | AuthError::KeysUnavailable | AuthError::Algorithm => {
            let kid =
                part(token, 0).and_then(|header| Some(header.get("kid")?.as_str()?.to_owned()));
            TokenError::Signer { kid }
        }
        _ => TokenError::Malformed,
    }
}

fn seconds_since(time: i64) -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    now.as_secs().saturating_sub(time.max(0) as u64)
}

fn claims(token: &str) -> Option<Value> {
    part(token, 1)
}

fn part(token: &str, nth: usize) -> Option<Value> {
    let part = token.split('.').nth(nth)?;
    let json = URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()?;
    serde_json::from_slice(&json).ok()
}

impl TokenError {
    /// At the handshake, over HTTP.
    pub(crate) fn at_handshake(&self) -> String {
        match self {
            TokenError::Missing => "API key is missing".to_owned(),
            TokenError::MissingClaims => "Fields `role` and `exp` are required in JWT".to_owned(),
            TokenError::Expired { .. } => "Token has expired".to_owned(),
            TokenError::Malformed => "The token provided is not a valid JWT".to_owned(),
            TokenError::Signature => "Failed to validate JWT signature".to_owned(),
            TokenError::Signer { .. } => {
                let text = self.at_join().to_string();
                text.trim_start_matches("JwtSignerError: ").to_owned()
            }
        }
    }

    pub(super) fn at_join(&self) -> Reason {
        match self.clone() {
            TokenError::Missing | TokenError::Malformed => Reason::TokenMalformed,
            TokenError::MissingClaims => Reason::MissingClaims,
            TokenError::Expired { seconds } => Reason::TokenExpired { seconds },
            TokenError::Signature => Reason::TokenSignature,
            TokenError::Signer { kid: None } => Reason::TokenSigner,
            TokenError::Signer { kid: Some(kid) } => Reason::TokenSignerOf { kid },
        }
    }

    /// Of a channel that is joined.
    pub(super) fn at_refresh(&self) -> Shutdown {
        match *self {
            TokenError::Missing | TokenError::Malformed => Shutdown::TokenMalformed,
            TokenError::MissingClaims => Shutdown::MissingClaims,
            TokenError::Expired { seconds } => Shutdown::TokenExpired { seconds },
            TokenError::Signature => Shutdown::TokenSignature,
            TokenError::Signer { .. } => Shutdown::TokenSigner,
        }
    }
}
