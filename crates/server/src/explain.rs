//! `walcast explain-rls`: how each role's policies on a table are judged, and why.

use crate::serve::check_config;
use crate::settings::Config;

/// The text for one table, of one role or of all allowed ones. `table`: `todos` or `app.todos`.
pub async fn explain(config: &Config, table: &str, role: Option<&str>) -> anyhow::Result<String> {
    let (schema, name) = table.split_once('.').unwrap_or(("public", table));
    let explained = walcast_rls::explain(&check_config(config)?, schema, name, role).await?;
    let allowed = |role: &str| config.allowed_roles.iter().any(|allowed| allowed == role);
    let texts = explained
        .iter()
        .filter(|explanation| role.is_some() || allowed(&explanation.role))
        .map(ToString::to_string);
    Ok(texts.collect::<Vec<_>>().join("\n"))
}
