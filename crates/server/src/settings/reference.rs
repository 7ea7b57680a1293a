use super::environment::variable;
use super::table::{Setting, TABLE};

/// The list of all settings as Markdown: what stands between the markers of `proto-docs/settings.md`.
pub fn reference() -> String {
    let mut text = String::new();
    let mut group = "";
    for setting in TABLE {
        if setting.group != group {
            group = setting.group;
            text.push_str(&format!("\n## {group}\n"));
        }
        text.push_str(&entry(setting));
    }
    text
}

fn entry(setting: &Setting) -> String {
    let default = match setting.default {
        None => "not set".to_owned(),
        Some("") => "empty".to_owned(),
        Some(_) if setting.kind.is_secret() => "set".to_owned(),
        Some(text) => format!("`{}`", setting.kind.literal(text)),
    };
    let file = setting
        .file_name()
        .map(|name| format!(" Also from a file: `{name}`."))
        .unwrap_or_default();
    format!(
        "\n### `{name}`\n\n{doc}{file}\n\n- Value: {words}\n- Default: {default}\n- Flag: `--{flag}`, variable: `{variable}`\n",
        name = setting.name,
        doc = setting.doc(),
        words = setting.kind.words,
        flag = setting.name.replace('_', "-"),
        variable = variable(setting.name),
    )
}
