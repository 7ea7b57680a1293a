//! What the operator decides.

use std::time::Duration;

use crate::Connector;

/// How rows are judged.
#[derive(Clone, Debug)]
pub struct CheckConfig {
    pub connector: Connector,
    /// Sessions that judge at the same time.
    pub connections: usize,
    /// The longest that one statement may take. One that takes longer is a denial.
    pub statement_timeout: Duration,
    pub lock_timeout: Duration,
    /// What functions that policies call find as `search_path`. `None`: the login's own default.
    pub search_path: Option<String>,
    /// The roles that may be judged for; `None`: those that the login is a member of.
    pub allowed_roles: Option<Vec<String>>,
    /// Roles with BYPASSRLS that are accepted. Others with it are refused.
    pub bypass_roles: Vec<String>,
    /// How old the knowledge may be that a table has no row-level security for a role. Where
    /// policies are asked, it is never old.
    pub staleness_max: Duration,
    /// Whether a session of its own asks ahead whether the rules still hold. Without it a batch does,
    /// when it is needed.
    pub asks_ahead: bool,
    /// How long an interrupted connection is tried again before its rows count as not visible.
    pub reconnect_for: Duration,
    /// How long a transaction that has committed is waited for until other sessions see it.
    pub visibility_wait: Duration,
}

impl CheckConfig {
    pub fn new(connector: Connector) -> CheckConfig {
        CheckConfig {
            connector,
            connections: 2,
            statement_timeout: Duration::from_secs(1),
            lock_timeout: Duration::from_millis(250),
            search_path: None,
            allowed_roles: None,
            bypass_roles: vec!["service_role".into()],
            staleness_max: Duration::from_secs(1),
            asks_ahead: true,
            reconnect_for: Duration::from_secs(30),
            visibility_wait: Duration::from_secs(5),
        }
    }

    pub(crate) fn accepts(&self, role: &str) -> bool {
        self.allowed_roles
            .as_ref()
            .is_none_or(|allowed| allowed.iter().any(|name| name == role))
    }

    pub(crate) fn accepts_bypass(&self, role: &str) -> bool {
        self.bypass_roles.iter().any(|name| name == role)
    }
}
