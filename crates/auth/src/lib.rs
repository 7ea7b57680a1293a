//! Who is at the other end: a JWT in, an [`Identity`] (role, subject, claims) or an [`AuthError`] out.
//!
//! Owns the keys (HMAC secrets, PEM public keys, JWKS from a file or an address), their refresh, and every check of a
//! token. Refuses to know what a role may read (that is `rls`), how a token travelled (query string, header, message)
//! and what happens to a socket whose token ends.
//!
//! Invariants:
//! - The algorithm is the one our key was made for. A token's header only chooses among the algorithms that *our* key
//!   declares; `none` does not exist here, and a public key can never serve as an HMAC secret.
//! - `kid` is looked up in a map and used for nothing else. `jku`, `x5u`, `jwk` and `x5c` are never read; any `crit`
//!   is refused.
//! - A refused token costs at most one bounded signature check per key of its algorithm; all refused tokens together cost at
//!   most one request to the JWKS address per 30 seconds.
//! - No error carries any part of a token, a key or a secret.
//! - Anonymous access is off unless it was asked for.
//!
//! Sources: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7519 (JWT), RFC 8725 (JWT best current practices).

mod cache;
mod claims;
mod config;
mod error;
mod fetch;
mod identity;
mod jwks;
mod key;
mod key_set;
mod role;
mod sign;
mod token;
mod verifier;

pub use config::{AuthConfig, JwksConfig, KeyConfig};
pub use error::{AuthError, Retry, SetupError};
pub use identity::Identity;
pub use jwks::{JwksStatus, refresh_jwks};
pub use key::SECRET_BYTES_MIN;
pub use role::is_usable_role;
pub use sign::sign_hs256;
pub use verifier::{TOKEN_BYTES_MAX, Verifier};
