use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// How tokens are checked. `AuthConfig::default()` accepts nothing: keys have to be added.
#[derive(Debug, Clone)]
pub struct AuthConfig {
    pub keys: KeyConfig,
    /// Accepted audiences. Empty: `aud` is not looked at. Otherwise the token must name one of them.
    pub audiences: Vec<String>,
    /// Accepted issuers. Empty: `iss` is not looked at. Otherwise the token must name one of them.
    pub issuers: Vec<String>,
    /// Where the role is: a claim's name, or a dotted path such as `app_metadata.role`.
    pub role_claim: String,
    /// The role of a token without that claim; `None`: such a token is refused.
    pub default_role: Option<String>,
    /// The roles that a token may name.
    pub allowed_roles: Vec<String>,
    /// The role without a token; `None`: a token is required.
    pub anonymous_role: Option<String>,
    /// Whether a token without `exp` is refused.
    pub require_expiry: bool,
    /// How far the clocks of issuer and server may differ, for `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// The longest token in bytes.
    pub token_bytes_max: usize,
}

/// Where the keys come from; any number of sources at once.
#[derive(Clone, Default)]
pub struct KeyConfig {
    /// HMAC secret (HS256, HS384, HS512), at least 32 bytes.
    pub secret: Option<String>,
    /// The secret before the last rotation, still accepted.
    pub previous_secret: Option<String>,
    /// Public keys as PEM (`BEGIN PUBLIC KEY` or `BEGIN RSA PUBLIC KEY`), one or more.
    pub public_keys_pem: Option<String>,
    pub jwks: Option<JwksConfig>,
}

/// A JWK set that may change while the server runs.
#[derive(Debug, Clone)]
pub struct JwksConfig {
    pub url: Option<String>,
    pub file: Option<PathBuf>,
    /// PEM certificates to trust for `url` instead of the public authorities.
    pub authority_pem: Option<String>,
    /// How often the set is read again.
    pub refresh_interval: Duration,
    /// The least time between two reads that unknown key ids ask for.
    pub unknown_key_interval: Duration,
    /// The longest time that one request may take.
    pub timeout: Duration,
}

impl Default for AuthConfig {
    fn default() -> Self {
        let names = |list: &[&str]| list.iter().map(|n| (*n).to_owned()).collect();
        Self {
            keys: KeyConfig::default(),
            audiences: Vec::new(),
            issuers: Vec::new(),
            role_claim: "role".into(),
            default_role: Some("authenticated".into()),
            allowed_roles: names(&["anon", "authenticated", "service_role"]),
            anonymous_role: None,
            require_expiry: true,
            leeway: Duration::from_secs(30),
            token_bytes_max: crate::verifier::TOKEN_BYTES_MAX,
        }
    }
}

impl Default for JwksConfig {
    fn default() -> Self {
        Self {
            url: None,
            file: None,
            authority_pem: None,
            refresh_interval: Duration::from_secs(600),
            unknown_key_interval: Duration::from_secs(30),
            timeout: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for KeyConfig {
    /// Says which sources there are, not what is in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyConfig")
            .field("secret", &self.secret.is_some())
            .field("previous_secret", &self.previous_secret.is_some())
            .field("public_keys_pem", &self.public_keys_pem.is_some())
            .field("jwks", &self.jwks)
            .finish()
    }
}
