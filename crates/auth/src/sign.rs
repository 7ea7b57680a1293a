use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};

use crate::error::SetupError;
use crate::key::SECRET_BYTES_MIN;

/// An HS256 token with this JSON text as its payload, for trying out. The payload is not checked.
pub fn sign_hs256(secret: &str, payload: &str) -> Result<String, SetupError> {
    let bytes = secret.len();
    if bytes < SECRET_BYTES_MIN {
        return Err(SetupError::ShortSecret {
            name: "jwt_secret",
            bytes,
        });
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload));
    let key = EncodingKey::from_secret(secret.as_bytes());
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256)
        .expect("an HMAC can be made of anything");
    Ok(format!("{message}.{signature}"))
}
