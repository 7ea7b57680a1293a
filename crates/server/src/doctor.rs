//! `walcast doctor`: what is wrong or doubtful with the database, and what to do about it.

mod login;

use walcast_source::{Finding, Severity, connect_sql, examine};

use crate::doctor::login::Login;
use crate::migrate::pending;
use crate::pooler;
use crate::serve::{ServeError, source_config};
use crate::settings::Config;

/// Examines everything that `serve` needs. The worst findings come first.
pub async fn doctor(config: &Config) -> Result<Vec<Finding>, ServeError> {
    let source = source_config(config)?;
    let mut findings = examine(&source).await;
    findings.extend(migrations(config).await?);
    findings.extend(checks(config).await?);
    findings.sort_by_key(|finding| std::cmp::Reverse(rank(finding.severity)));
    Ok(findings)
}

/// Whether `serve` would refuse to start.
pub fn has_errors(findings: &[Finding]) -> bool {
    findings
        .iter()
        .any(|finding| finding.severity == Severity::Error)
}

fn rank(severity: Severity) -> u8 {
    match severity {
        Severity::Error => 2,
        Severity::Warning => 1,
        Severity::Info => 0,
    }
}

async fn migrations(config: &Config) -> Result<Vec<Finding>, ServeError> {
    // Without a connection `examine` has said so already.
    let Ok(client) = connect_sql(config.database()?.expose(), "walcast doctor").await else {
        return Ok(Vec::new());
    };
    let pending = pending(&client).await?;
    let names: Vec<_> = pending.into_iter().map(|one| one.name).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let (severity, remedy) = match config.migrate_on_start {
        true => (
            Severity::Info,
            "nothing: `walcast serve` applies them at its start",
        ),
        false => (Severity::Error, "run `walcast migrate`"),
    };
    let what = format!("migrations not applied yet: {}", names.join(", "));
    Ok(vec![finding(severity, "migrations_pending", what, remedy)])
}

/// What is doubtful about the login that checks row-level security. A function that a policy calls
/// can put the role back to that login: it must be worth nothing.
async fn checks(config: &Config) -> Result<Vec<Finding>, ServeError> {
    let Some(url) = config.rls_url() else {
        return Ok(Vec::new());
    };
    if let Ok(true) = pooler::shares_sessions(url.expose()).await {
        let what = "the login that checks comes through a connection pooler that shares sessions";
        return Ok(vec![finding(
            Severity::Error,
            "rls_login_pooled",
            what.to_owned(),
            pooler::REMEDY,
        )]);
    }
    let client = match connect_sql(url.expose(), "walcast doctor").await {
        Ok(client) => client,
        Err(error) => {
            let what = format!("the login of rls_database_url can't connect: {error}");
            return Ok(vec![finding(
                Severity::Error,
                "rls_login",
                what,
                "check rls_database_url",
            )]);
        }
    };
    match Login::read(&client, &config.allowed_roles).await {
        Ok(login) => Ok(login.judge(config.rls_database_url.is_none())),
        Err(error) => {
            let code = error.code().map_or("connection lost", |code| code.code());
            let what = format!("the login that checks can't be examined ({code})");
            Ok(vec![finding(
                Severity::Warning,
                "rls_login",
                what,
                "run walcast doctor again",
            )])
        }
    }
}

fn finding(severity: Severity, code: &'static str, what: String, remedy: &str) -> Finding {
    Finding {
        severity,
        code,
        what,
        remedy: remedy.to_owned(),
    }
}
