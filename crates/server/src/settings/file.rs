use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::Problem;
use super::kind::Toml;
use super::layer::{Given, Layer, Origin, did_you_mean};
use super::table::{known_names, setting_named};

const FILE_NAME: &str = "walcast.toml";

/// Reads `path`, or `walcast.toml` in `folder` if there is one.
pub(crate) fn read(path: Option<&Path>, folder: &Path, problems: &mut Vec<Problem>) -> Layer {
    let usual = folder.join(FILE_NAME);
    let (path, is_wanted) = match path {
        Some(path) => (path, true),
        None => (usual.as_path(), false),
    };
    match std::fs::read_to_string(path) {
        Ok(text) => parse(&text, path, problems),
        Err(error) if !is_wanted && error.kind() == std::io::ErrorKind::NotFound => Layer::new(),
        Err(error) => {
            problems.push(Problem::at(
                path.display(),
                format!("cannot read the settings: {error}"),
            ));
            Layer::new()
        }
    }
}

fn parse(text: &str, path: &Path, problems: &mut Vec<Problem>) -> Layer {
    let origin = |offset: usize| Origin::File {
        path: path.to_owned(),
        line: line_of(text, offset),
    };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        // The error's own Display quotes the line, which may hold a secret.
        Err(error) => {
            let place = origin(error.span().map_or(0, |span| span.start));
            problems.push(Problem::at(
                place,
                format!("not valid TOML: {}", error.message()),
            ));
            return Layer::new();
        }
    };
    let mut layer = Layer::new();
    for (name, value) in &table {
        let origin = origin(name.span().start);
        match read_value(name.get_ref(), value) {
            Ok(text) => {
                layer.insert(name.get_ref().to_string(), Given { text, origin });
            }
            Err(reason) => problems.push(Problem::at(origin, reason)),
        }
    }
    layer
}

/// The value as text, if the name is known and the TOML type is the setting's.
fn read_value(name: &str, value: &Spanned<DeValue<'_>>) -> Result<String, String> {
    let Some((setting, is_file)) = setting_named(name) else {
        return Err(unknown(name, value.get_ref()));
    };
    let (toml, words) = if is_file {
        (Toml::String, "a file's path")
    } else {
        (setting.kind.toml, setting.kind.words)
    };
    let text = match (toml, value.get_ref()) {
        (Toml::String, DeValue::String(text)) => Some(text.to_string()),
        (Toml::Boolean, DeValue::Boolean(flag)) => Some(flag.to_string()),
        (Toml::Integer, DeValue::Integer(number)) if number.radix() == 10 => {
            Some(number.as_str().replace('_', ""))
        }
        (Toml::Array, DeValue::Array(items)) => {
            let texts: Option<Vec<&str>> =
                items.iter().map(|item| item.get_ref().as_str()).collect();
            // A comma inside an item would make two of it; no list's items may hold one.
            texts
                .filter(|texts| !texts.iter().any(|text| text.contains(',')))
                .map(|texts| texts.join(","))
        }
        _ => None,
    };
    text.ok_or_else(|| format!("{name} must be {words}{}", how_to_write(toml)))
}

fn how_to_write(toml: Toml) -> &'static str {
    match toml {
        Toml::String => ", in quotes",
        Toml::Integer => ", without quotes",
        Toml::Boolean => ", without quotes",
        Toml::Array => ", each in quotes, in brackets",
    }
}

fn unknown(name: &str, value: &DeValue<'_>) -> String {
    if value.is_table() {
        return format!(
            "there are no sections in this file: write the settings of [{name}] by their full names"
        );
    }
    let known: Vec<String> = known_names().collect();
    let near = did_you_mean(name, known.iter().map(String::as_str));
    let hint = near
        .map(|near| format!(", did you mean {near}?"))
        .unwrap_or_default();
    format!("there is no setting {name:?}{hint}")
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|b| *b == b'\n').count()
}
