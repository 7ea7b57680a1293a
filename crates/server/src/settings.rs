//! What the operator wants: `walcast.toml`, overridden by `WALCAST_…` variables, overridden by flags.
//!
//! Every setting is declared once, in [`table`]; the fields of [`Config`], the keys of the file, the variables, the
//! flags, `--help`, `check-config` and the page `proto-docs/settings.md` all follow from that one line.
//!
//! Invariants: an unknown name anywhere is an error; no text made here (errors, `check-config`, `Debug`) contains a
//! secret; all mistakes are told at once.

mod command_line;
mod config;
mod environment;
mod error;
mod file;
mod kind;
mod layer;
mod mask;
mod network;
mod reference;
mod table;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

pub use command_line::{Command, TokenRequest};
pub use error::{Problem, SettingsError};
pub use kind::{ExpiredTokenAction, LogFormat, LostSlotAction, Secret, SlotMode};
pub use network::Network;
pub use reference::reference;
pub use table::Config;

use layer::{Given, Origin, resolve};

/// Every setting as it was given, and where. Turned into a [`Config`] by [`Settings::config`].
#[derive(Debug)]
pub struct Settings {
    given: BTreeMap<&'static str, Given>,
}

impl Settings {
    /// Reads the command line (`args` with the program's name first), the environment and the file.
    pub fn load(
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<(Command, Settings), SettingsError> {
        Self::load_from(args, std::env::vars_os(), Path::new("."))
    }

    /// As [`Self::load`], with the environment and the folder in which `walcast.toml` is looked for.
    pub fn load_from(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        folder: &Path,
    ) -> Result<(Command, Settings), SettingsError> {
        let line = command_line::read(args)?;
        let mut problems = Vec::new();
        let variables = environment::read(env, &mut problems);
        let path = line.config.or(variables.config);
        let file = file::read(path.as_deref(), folder, &mut problems);
        let given = resolve(&[line.layer, variables.layer, file], &mut problems);
        SettingsError::unless_empty(problems)?;
        Ok((line.command, Settings { given }))
    }

    /// The typed settings, checked for what `command` needs.
    pub fn config(&self, command: &Command) -> Result<Config, SettingsError> {
        let config = Config::read(&self.given)?;
        config.check(command)?;
        Ok(config)
    }

    /// The effective settings as a `walcast.toml`, secrets masked, each with where it came from.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for setting in table::TABLE {
            match self.given.get(setting.name) {
                Some(given) => {
                    let value = setting.kind.literal(&given.text);
                    text.push_str(&format!("{} = {value} # {}\n", setting.name, given.origin));
                }
                None => text.push_str(&format!("# {} is not set\n", setting.name)),
            }
        }
        text
    }

    /// Whether a setting was given by anybody, or is as it comes.
    pub fn is_default(&self, name: &str) -> bool {
        self.given
            .get(name)
            .is_none_or(|given| matches!(given.origin, Origin::Default))
    }
}

#[cfg(test)]
mod tests;
