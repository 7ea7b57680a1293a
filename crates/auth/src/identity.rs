use std::sync::Arc;

use crate::key::KeyId;

/// Who a connection acts as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The Postgres role; never empty, `none` or `pg_…`.
    pub role: Arc<str>,
    /// The claim `sub`.
    pub subject: Option<Arc<str>>,
    /// The token's payload as compact JSON with every number as it was written, with `role` set to the role above:
    /// the value for `request.jwt.claims`.
    pub claims: Arc<str>,
    /// The claim `exp` in Unix seconds, without the leeway.
    pub expires_at: Option<i64>,
    /// The key that vouched for it; none for an anonymous visitor.
    pub(crate) key: Option<KeyId>,
}

impl Identity {
    /// A visitor without a token, acting as `role`.
    pub fn anonymous(role: &str) -> Self {
        let mut claims = String::from("{\"role\":");
        crate::claims::push_json_string(&mut claims, role);
        claims.push('}');
        Self {
            role: role.into(),
            subject: None,
            claims: claims.into(),
            expires_at: None,
            key: None,
        }
    }

    pub fn is_anonymous(&self) -> bool {
        self.key.is_none()
    }
}
