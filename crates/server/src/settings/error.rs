use std::fmt;

/// Why the program cannot start with these settings.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The command line was not understood, or asked for help or the version: `exit()` prints it and chooses the
    /// exit code.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// Everything that is wrong, each with its place and its remedy; never with a secret.
    #[error("{}", lines(.0))]
    Problems(Vec<Problem>),
}

impl SettingsError {
    pub(crate) fn unless_empty(problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            Ok(())
        } else {
            Err(Self::Problems(problems))
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem(String);

impl Problem {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Something about one place: a file's line, a variable, a flag.
    pub(crate) fn at(place: impl fmt::Display, text: impl fmt::Display) -> Self {
        Self(format!("{place}: {text}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems
        .iter()
        .map(Problem::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}
