use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use super::error::Problem;
use super::table::{Setting, TABLE};

/// What one source gives: a setting's name, or a secret's name and `_file`, to its value.
pub(crate) type Layer = BTreeMap<String, Given>;

/// A value as text (lists joined by commas), and where it was found.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) text: String,
    pub(crate) origin: Origin,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    File {
        path: PathBuf,
        line: usize,
    },
    Variable(String),
    Flag(String),
    /// A file that holds nothing but a secret, named by another place.
    SecretFile {
        path: PathBuf,
        named_by: Box<Origin>,
    },
}

/// The settings' values: of each the one from the first layer that has it, else its default.
pub(crate) fn resolve(
    layers: &[Layer],
    problems: &mut Vec<Problem>,
) -> BTreeMap<&'static str, Given> {
    let mut given = BTreeMap::new();
    for setting in TABLE {
        match resolve_one(setting, layers) {
            Ok(Some(found)) => {
                given.insert(setting.name, found);
            }
            Ok(None) => {}
            Err(problem) => problems.push(problem),
        }
    }
    given
}

fn resolve_one(setting: &Setting, layers: &[Layer]) -> Result<Option<Given>, Problem> {
    let name = setting.name;
    let file_name = setting.file_name();
    for layer in layers {
        let in_file = file_name
            .as_ref()
            .and_then(|file_name| layer.get(file_name));
        match (layer.get(name), in_file) {
            (Some(_), Some(other)) => {
                return Err(Problem::at(
                    &other.origin,
                    format!("{name} and {name}_file are both given: keep one"),
                ));
            }
            (Some(given), None) => return Ok(Some(given.clone())),
            (None, Some(given)) => return read_secret(name, given).map(Some),
            (None, None) => {}
        }
    }
    let default = |text: &str| Given {
        text: text.to_owned(),
        origin: Origin::Default,
    };
    Ok(setting.default.map(default))
}

/// The content of the file that holds a secret, without the line's end that editors add.
fn read_secret(name: &str, given: &Given) -> Result<Given, Problem> {
    let path = PathBuf::from(&given.text);
    let refuse = |reason: String| {
        Problem::at(
            &given.origin,
            format!("{name}_file: cannot read {}: {reason}", path.display()),
        )
    };
    let text = std::fs::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
    let text = text.trim_end_matches(['\r', '\n']).to_owned();
    if text.is_empty() {
        return Err(refuse("it is empty".into()));
    }
    let origin = Origin::SecretFile {
        path,
        named_by: Box::new(given.origin.clone()),
    };
    Ok(Given { text, origin })
}

/// The known name that is most like `name`, if any is near enough to be a slip of the finger.
pub(crate) fn did_you_mean<'a>(
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let nearest = known
        .map(|candidate| (distance(name, candidate), candidate))
        .min()?;
    let is_near = nearest.0 <= 3.min(name.chars().count() / 3);
    is_near.then_some(nearest.1)
}

/// Levenshtein's distance, on names of bounded length.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(100).enumerate() {
        let mut next = vec![i + 1];
        for ((y, above), diagonal) in b.iter().zip(row.iter().skip(1)).zip(&row) {
            let left = next.last().copied().unwrap_or_default();
            next.push(
                (diagonal + usize::from(x != *y))
                    .min(above + 1)
                    .min(left + 1),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}, line {line}", path.display()),
            Self::Variable(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::SecretFile { path, named_by } => {
                write!(f, "{}, named by {named_by}", path.display())
            }
        }
    }
}

impl fmt::Debug for Given {
    /// Without the text: it may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Given")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let known = ["database_url", "jwt_secret", "listen"];
        let cases = [
            ("databse_url", Some("database_url")),
            ("jwt_secert", Some("jwt_secret")),
            ("lissten", Some("listen")),
            ("port", None),
            ("", None),
            ("x", None),
        ];
        for (name, expected) in cases {
            assert_eq!(did_you_mean(name, known.into_iter()), expected, "{name}");
        }
    }
}
