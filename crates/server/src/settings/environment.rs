use std::ffi::OsString;
use std::path::PathBuf;

use super::error::Problem;
use super::layer::{Given, Layer, Origin, did_you_mean};
use super::table::{known_names, setting_named};

const PREFIX: &str = "WALCAST_";
/// What platforms set by themselves; the same as `WALCAST_DATABASE_URL`, which wins.
const ALIAS: &str = "DATABASE_URL";

/// The variables that are ours.
pub(crate) struct Variables {
    pub(crate) config: Option<PathBuf>,
    pub(crate) layer: Layer,
}

/// An empty variable counts as unset: `VAR=` is how compose files write "nothing".
pub(crate) fn read(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> Variables {
    let mut variables = Variables {
        config: None,
        layer: Layer::new(),
    };
    let mut alias = None;
    for (name, value) in env {
        let Ok(name) = name.into_string() else {
            continue;
        };
        if name != ALIAS && !name.starts_with(PREFIX) || value.is_empty() {
            continue;
        }
        let Ok(text) = value.into_string() else {
            problems.push(Problem::at(place(&name), "is not valid UTF-8"));
            continue;
        };
        let given = Given {
            text,
            origin: Origin::Variable(name.clone()),
        };
        match name.strip_prefix(PREFIX) {
            None => alias = Some(given),
            Some("CONFIG") => variables.config = Some(given.text.into()),
            Some(rest) => match key(rest) {
                Some(key) => {
                    variables.layer.insert(key, given);
                }
                None => problems.push(unknown(&name)),
            },
        }
    }
    let is_given = ["database_url", "database_url_file"]
        .iter()
        .any(|key| variables.layer.contains_key(*key));
    if let (Some(given), false) = (alias, is_given) {
        variables.layer.insert("database_url".into(), given);
    }
    variables
}

pub(crate) fn variable(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

fn place(name: &str) -> Origin {
    Origin::Variable(name.to_owned())
}

fn key(rest: &str) -> Option<String> {
    let key = rest.to_ascii_lowercase();
    (rest == rest.to_ascii_uppercase() && setting_named(&key).is_some()).then_some(key)
}

fn unknown(name: &str) -> Problem {
    let known: Vec<String> = known_names().collect();
    let key = name.trim_start_matches(PREFIX).to_ascii_lowercase();
    let near = did_you_mean(&key, known.iter().map(String::as_str));
    let hint = near
        .map(|near| format!(", did you mean {}?", variable(near)))
        .unwrap_or_default();
    Problem::at(place(name), format!("there is no such setting{hint}"))
}
