use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde::Deserialize;

use crate::error::AuthError;

/// A JWT in its three parts, header read, nothing verified.
pub(crate) struct Token<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) kid: Option<String>,
    /// `header.payload`, what the signature is about.
    pub(crate) message: &'a str,
    payload: &'a str,
    pub(crate) signature: &'a str,
}

/// The header's fields that mean anything to us. The others (`jwk`, `jku`, `x5u`, `x5c` …) are never looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    #[serde(default, deserialize_with = "is_present")]
    crit: bool,
}

impl<'a> Token<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, AuthError> {
        let (message, signature) = text.rsplit_once('.').ok_or(AuthError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(AuthError::Malformed)?;
        if payload.contains('.') {
            return Err(AuthError::Malformed);
        }
        let header = decode(header)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| AuthError::Malformed)?;
        if header.crit {
            return Err(AuthError::Critical);
        }
        let algorithm = header.alg.parse().map_err(|_| AuthError::Algorithm)?;
        Ok(Self {
            algorithm,
            kid: header.kid,
            message,
            payload,
            signature,
        })
    }

    /// The payload's text. To be read only after the signature was verified.
    pub(crate) fn payload(&self) -> Result<String, AuthError> {
        String::from_utf8(decode(self.payload)?).map_err(|_| AuthError::Malformed)
    }
}

fn decode(part: &str) -> Result<Vec<u8>, AuthError> {
    URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| AuthError::Malformed)
}

/// `crit` in whatever form is something we don't understand.
fn is_present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(value).map(|_| true)
}
