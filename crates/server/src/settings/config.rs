//! What one setting asks of another, and the settings as the other crates take them.

use std::path::{Path, PathBuf};

use walcast_auth::{AuthConfig, JwksConfig, KeyConfig};

use super::command_line::Command;
use super::error::{Problem, SettingsError};
use super::kind::{ExpiredTokenAction, Secret};
use super::table::Config;
use crate::session::phoenix::{ApiKeys, PhoenixSettings};

impl Config {
    /// Where row-level security is checked.
    pub fn rls_url(&self) -> Option<&Secret> {
        self.rls_database_url
            .as_ref()
            .or(self.database_url.as_ref())
    }

    /// The database's address. `Settings::config` has made sure of it for every command that needs one.
    pub fn database(&self) -> Result<&Secret, SettingsError> {
        self.database_url
            .as_ref()
            .ok_or_else(|| SettingsError::Problems(vec![no_database()]))
    }

    /// How tokens are checked; reads the files that hold public keys.
    pub fn auth(&self) -> Result<AuthConfig, SettingsError> {
        let authority_pem = read_pem("jwks_ca_file", self.jwks_ca_file.as_deref())?;
        let has_jwks = self.jwks_url.is_some() || self.jwks_file.is_some();
        let jwks = has_jwks.then(|| JwksConfig {
            url: self.jwks_url.clone(),
            file: self.jwks_file.clone(),
            authority_pem,
            refresh_interval: self.jwks_refresh_interval,
            ..JwksConfig::default()
        });
        let text = |secret: &Secret| secret.expose().to_owned();
        Ok(AuthConfig {
            keys: KeyConfig {
                secret: self.jwt_secret.as_ref().map(text),
                previous_secret: self.jwt_previous_secret.as_ref().map(text),
                public_keys_pem: read_pem(
                    "jwt_public_key_file",
                    self.jwt_public_key_file.as_deref(),
                )?,
                jwks,
            },
            audiences: self.jwt_audience.clone(),
            issuers: self.jwt_issuer.clone(),
            role_claim: self.jwt_role_claim.clone(),
            default_role: self.jwt_default_role.clone(),
            allowed_roles: self.allowed_roles.clone(),
            anonymous_role: self.anonymous.then(|| self.anonymous_role.clone()),
            require_expiry: self.jwt_require_exp,
            leeway: self.jwt_leeway,
            token_bytes_max: self.jwt_bytes_max,
        })
    }

    /// What holds for Supabase's clients.
    pub(crate) fn phoenix(&self) -> Result<PhoenixSettings, SettingsError> {
        let keys = self.api_keys.as_ref().map_or("", Secret::expose);
        let items: Vec<String> = super::kind::items(keys).map(str::to_owned).collect();
        let api_keys = ApiKeys::read(&items, &self.allowed_roles).map_err(|nth| {
            let text = format!(
                "item {nth} of api_keys must be KEY=ROLE, with one of allowed_roles, or KEY=JWT"
            );
            SettingsError::Problems(vec![Problem::new(text)])
        })?;
        Ok(PhoenixSettings {
            api_keys,
            role_required: self.jwt_role_claim == "role",
            private_only: self.supabase_private_only,
            close_for_good: self.supabase_close_for_good,
            // A broadcast of the largest size must fit, even if something else waits.
            outbox_bytes_max: self.outbox_bytes_max.max(2 * self.broadcast_bytes_max),
            joins_per_second_max: self.supabase_joins_per_second_max,
            messages_per_second_max: self.supabase_messages_per_second_max,
            presence_calls_max: self.supabase_presence_calls_max,
            presence_calls_window: self.supabase_presence_calls_window,
            bindings_max: self.supabase_bindings_per_connection_max,
            http_messages_per_second_max: self.http_broadcasts_per_second_max,
            body_bytes_max: self.supabase_message_bytes_max,
        })
    }

    pub(crate) fn check(&self, command: &Command) -> Result<(), SettingsError> {
        let mut problems = Vec::new();
        if self.database_url.is_none() && !matches!(command, Command::Token(_)) {
            problems.push(no_database());
        }
        match command {
            Command::Serve | Command::CheckConfig => self.check_serving(&mut problems),
            Command::Token(_) if self.jwt_secret.is_none() => problems.push(Problem::new(
                "jwt_secret is not set, and a token is made with it: give WALCAST_JWT_SECRET or jwt_secret_file",
            )),
            _ => {}
        }
        SettingsError::unless_empty(problems)
    }

    fn check_serving(&self, problems: &mut Vec<Problem>) {
        let mut require = |is_good: bool, text: &str| {
            if !is_good {
                problems.push(Problem::new(text));
            }
        };
        require(
            self.anonymous || self.can_verify(),
            "there is no way to verify tokens: set jwt_secret, jwt_public_key_file, jwks_url or jwks_file, or anonymous = true to let in everybody as anonymous_role",
        );
        require(
            self.jwt_previous_secret.is_none() || self.jwt_secret.is_some(),
            "jwt_previous_secret is set without jwt_secret: the current secret is missing",
        );
        require(
            self.tls_key.is_none() || self.tls_cert.is_some(),
            "tls_key is set without tls_cert: give both, or none for plain HTTP",
        );
        require(
            self.tls_cert.is_none() || self.tls_key.is_some(),
            "tls_cert is set without tls_key: give both, or none for plain HTTP",
        );
        require(
            self.jwks_ca_file.is_none() || self.jwks_url.is_some(),
            "jwks_ca_file is set without jwks_url, the only one it is used for",
        );
        require(
            self.expired_token_action != ExpiredTokenAction::Downgrade || self.anonymous,
            "expired_token_action = \"downgrade\" makes visitors anonymous: set anonymous = true as well, or use \"close\"",
        );
        require(
            self.idle_timeout > self.ping_interval,
            "idle_timeout must be longer than ping_interval: otherwise every silent client is closed before it could answer a ping",
        );
        require(
            self.outbox_bytes_max >= 16 * 1024,
            "outbox_bytes_max must be at least 16KiB: an ordinary message would close its connection",
        );
        require(
            self.message_bytes_max <= 16 * 1024 * 1024,
            "message_bytes_max must be at most 16MiB: it is the memory that every client may ask for",
        );
        require(
            self.supabase_message_bytes_max <= 16 * 1024 * 1024,
            "supabase_message_bytes_max must be at most 16MiB: it is the memory that every client may ask for",
        );
        if let Err(SettingsError::Problems(found)) = self.phoenix() {
            for problem in found {
                require(false, &problem.to_string());
            }
        }
        let is_default_allowed = self
            .jwt_default_role
            .as_ref()
            .is_none_or(|role| self.allowed_roles.contains(role));
        require(
            is_default_allowed || !self.can_verify(),
            "jwt_default_role is not among allowed_roles: add it there, or set jwt_default_role = \"\" to refuse tokens without a role",
        );
    }

    fn can_verify(&self) -> bool {
        let of_secret = self.jwt_secret.is_some();
        let of_file = self.jwt_public_key_file.is_some() || self.jwks_file.is_some();
        of_secret || of_file || self.jwks_url.is_some()
    }
}

fn no_database() -> Problem {
    Problem::new(
        "database_url is not set: give --database-url, WALCAST_DATABASE_URL, DATABASE_URL or database_url in walcast.toml, such as postgres://walcast@localhost/app",
    )
}

fn read_pem(name: &str, path: Option<&Path>) -> Result<Option<String>, SettingsError> {
    let refuse = |path: &PathBuf, error: std::io::Error| {
        SettingsError::Problems(vec![Problem::at(
            name,
            format!("cannot read {}: {error}", path.display()),
        )])
    };
    path.map(|path| std::fs::read_to_string(path).map_err(|error| refuse(&path.to_owned(), error)))
        .transpose()
}
