//! `walcast doctor`: what is wrong or doubtful with the database, and what to do about it.

use walcast_source::{Finding, Severity, connect_sql, examine};

use crate::migrate::pending;
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
    let names: Vec<_> = pending
        .iter()
        .map(|one| format!("{:04}_{}", one.version, one.name))
        .collect();
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

/// Of the login that checks: superuser, BYPASSRLS, REPLICATION, inherits, owns a published table;
/// the allowed roles that it is not a member of, and those that do not exist.
const LOGIN: &str = "
    select r.rolsuper, r.rolbypassrls, r.rolreplication, r.rolinherit,
           exists (select from pg_catalog.pg_publication_tables p
                   join pg_catalog.pg_namespace n on n.nspname = p.schemaname
                   join pg_catalog.pg_class c on c.relnamespace = n.oid and c.relname = p.tablename
                   where p.pubname = $1 and c.relowner = r.oid),
           array(select a.name from pg_catalog.unnest($2::text[]) a (name)
                 join pg_catalog.pg_roles t on t.rolname = a.name
                 where not pg_catalog.pg_has_role(r.oid, t.oid, 'MEMBER')),
           array(select a.name from pg_catalog.unnest($2::text[]) a (name)
                 where not exists (select from pg_catalog.pg_roles t where t.rolname = a.name)),
           r.rolname::text
    from pg_catalog.pg_roles r where r.rolname = session_user";

/// What is doubtful about the login that checks row-level security. A function that a policy calls
/// can put the role back to that login: it must be worth nothing.
async fn checks(config: &Config) -> Result<Vec<Finding>, ServeError> {
    let Some(url) = config.rls_url() else {
        return Ok(Vec::new());
    };
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
    match client
        .query_one(LOGIN, &[&config.publication, &config.allowed_roles])
        .await
    {
        Ok(row) => Ok(judge_login(config, &row)),
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

fn judge_login(config: &Config, row: &tokio_postgres::Row) -> Vec<Finding> {
    let flag = |index: usize| row.try_get::<_, bool>(index).unwrap_or(false);
    let names = |index: usize| row.try_get::<_, Vec<String>>(index).unwrap_or_default();
    let login: String = row.try_get(7).unwrap_or_default();
    let mut findings = Vec::new();
    let too_much = [
        (flag(0), "is a superuser"),
        (flag(1), "bypasses row-level security"),
        (flag(2), "may replicate"),
        (flag(4), "owns published tables"),
        (
            flag(3),
            "inherits the rights of the roles it is a member of",
        ),
    ];
    let too_much: Vec<_> = too_much
        .iter()
        .filter(|(is_so, _)| *is_so)
        .map(|(_, words)| *words)
        .collect();
    if !too_much.is_empty() {
        findings.push(finding(
            Severity::Warning,
            "rls_login_powerful",
            format!("the login that checks policies, {login}, {}: a function that a policy calls can act as it", too_much.join(", ")),
            "set rls_database_url to a login of its own: CREATE ROLE walcast_rls LOGIN NOINHERIT PASSWORD '…'; \
             GRANT anon, authenticated, service_role TO walcast_rls; (proto-docs/sql.md)",
        ));
    }
    if !names(5).is_empty() && !flag(0) {
        let roles = names(5).join(", ");
        let remedy = format!("GRANT {roles} TO {login};");
        let what =
            format!("{login} is not a member of {roles}: nobody with these roles can subscribe");
        findings.push(finding(
            Severity::Error,
            "rls_login_not_member",
            what,
            &remedy,
        ));
    }
    if !names(6).is_empty() {
        let what = format!(
            "allowed_roles names roles that do not exist: {}",
            names(6).join(", ")
        );
        findings.push(finding(
            Severity::Warning,
            "role_missing",
            what,
            "run walcast migrate, or correct allowed_roles",
        ));
    }
    if config.rls_database_url.is_none() && too_much.is_empty() {
        let what = "database_url's login checks policies as well".to_owned();
        findings.push(finding(
            Severity::Info,
            "rls_login_shared",
            what,
            "set rls_database_url to a login of its own",
        ));
    }
    findings
}

fn finding(severity: Severity, code: &'static str, what: String, remedy: &str) -> Finding {
    Finding {
        severity,
        code,
        what,
        remedy: remedy.to_owned(),
    }
}
