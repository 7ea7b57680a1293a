//! `walcast doctor`: what is wrong or doubtful with the database, and what to do about it.

use walcast_source::{Finding, Severity, connect_sql, examine};

use crate::migrate::pending;
use crate::serve::{ServeError, check_config, source_config};
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
    findings.iter().any(|finding| finding.severity == Severity::Error)
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
    let names: Vec<_> = pending.iter().map(|one| format!("{:04}_{}", one.version, one.name)).collect();
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let (severity, remedy) = match config.migrate_on_start {
        true => (Severity::Info, "nothing: `walcast serve` applies them at its start"),
        false => (Severity::Error, "run `walcast migrate`"),
    };
    Ok(vec![Finding {
        severity,
        code: "migrations_pending",
        what: format!("migrations not applied yet: {}", names.join(", ")),
        remedy: remedy.to_owned(),
    }])
}

/// What is doubtful about the login that checks row-level security.
async fn checks(config: &Config) -> Result<Vec<Finding>, ServeError> {
    let doubts = walcast_rls::examine_login(&check_config(config)?).await;
    Ok(doubts
        .into_iter()
        .map(|doubt| Finding {
            severity: if doubt.is_fatal { Severity::Error } else { Severity::Warning },
            code: doubt.code,
            what: doubt.what,
            remedy: doubt.remedy,
        })
        .collect())
}
