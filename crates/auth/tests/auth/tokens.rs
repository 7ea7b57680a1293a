use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use walcast_auth::{AuthConfig, KeyConfig, Verifier};

pub(crate) const SECRET: &str = "a secret of more than 32 bytes, for tests only";
pub(crate) const OTHER_SECRET: &str = "another secret of more than 32 bytes, for tests";
/// 2026-01-01T00:00:00Z, the time of every test with a clock.
pub(crate) const NOW: i64 = 1_767_225_600;
/// Good until an hour after `NOW`.
pub(crate) const CLAIMS: &str = r#"{"sub":"u1","role":"authenticated","exp":1767229200}"#;

pub(crate) fn fixture(name: &str) -> String {
    let path = format!("{}/tests/keys/{name}.pem", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(path).expect("a committed file")
}

pub(crate) fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn encoding_key(name: &str) -> EncodingKey {
    let pem = fixture(name);
    let key = match name {
        "p256" | "p384" => EncodingKey::from_ec_pem(pem.as_bytes()),
        "ed25519" => EncodingKey::from_ed_pem(pem.as_bytes()),
        _ => EncodingKey::from_rsa_pem(pem.as_bytes()),
    };
    key.expect("a committed key")
}

/// Signs any texts, valid or not, as header and payload.
pub(crate) fn sign(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", b64(header), b64(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm);
    format!("{message}.{}", signature.expect("a key of the right kind"))
}

/// An HS256 token with these texts, signed with `SECRET`.
pub(crate) fn hs256(header: &str, payload: &str) -> String {
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    sign(header, payload, &key, Algorithm::HS256)
}

pub(crate) fn with_claims(payload: &str) -> String {
    hs256(r#"{"alg":"HS256","typ":"JWT"}"#, payload)
}

pub(crate) fn config(keys: KeyConfig) -> AuthConfig {
    AuthConfig {
        keys,
        ..AuthConfig::default()
    }
}

/// Accepts `SECRET` and the public halves of the committed keys.
pub(crate) fn verifier() -> Verifier {
    let names = ["rsa.pub", "p256.pub", "p384.pub", "ed25519.pub"];
    let keys = KeyConfig {
        secret: Some(SECRET.into()),
        public_keys_pem: Some(names.map(fixture).concat()),
        ..KeyConfig::default()
    };
    Verifier::new(config(keys)).expect("good keys")
}
