use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches};

use super::environment::variable;
use super::error::SettingsError;
use super::kind::{Toml, duration};
use super::layer::{Given, Layer, Origin};
use super::table::{Setting, TABLE};

/// What the program is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    Serve,
    Migrate,
    CheckConfig,
    Doctor,
    ExplainRls { table: String, role: Option<String> },
    Token(TokenRequest),
}

/// The token that `walcast token` is to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRequest {
    pub role: String,
    pub subject: Option<String>,
    /// Name and value; the value is JSON, or else a plain text.
    pub claims: Vec<(String, String)>,
    pub expires_in: Duration,
}

pub(crate) struct Line {
    pub(crate) command: Command,
    pub(crate) config: Option<PathBuf>,
    pub(crate) layer: Layer,
}

/// The command's name, its one-line description, and the groups of settings that matter to it (none: all).
const COMMANDS: &[(&str, &str, &[&str])] = &[
    (
        "serve",
        "Streams changes to clients (what happens without a command)",
        &[],
    ),
    (
        "migrate",
        "Applies pending migrations and ends",
        &["Database", "Logs"],
    ),
    (
        "check-config",
        "Prints the effective settings, secrets masked, and where each came from",
        &[],
    ),
    (
        "doctor",
        "Checks the database: grants, wal_level, publication, slot, replica identities; each finding with its remedy",
        &["Database", "Row-level security", "Logs"],
    ),
    (
        "explain-rls",
        "Tells how row-level security of a table is decided, and why so",
        &["Database", "Row-level security", "Logs"],
    ),
    (
        "token",
        "Makes a JWT with jwt_secret, for trying out",
        &["Tokens"],
    ),
];

pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Line, SettingsError> {
    let matches = program().try_get_matches_from(args)?;
    let levels: Vec<&ArgMatches> = match matches.subcommand() {
        Some((_, inner)) => vec![&matches, inner],
        None => vec![&matches],
    };
    let config = levels
        .iter()
        .rev()
        .find_map(|level| level.get_one::<PathBuf>("config"))
        .cloned();
    let mut layer = Layer::new();
    for level in levels {
        read_settings(level, &mut layer);
    }
    Ok(Line {
        command: command(&matches),
        config,
        layer,
    })
}

fn read_settings(matches: &ArgMatches, layer: &mut Layer) {
    for setting in TABLE {
        for name in [Some(setting.name.to_owned()), setting.file_name()]
            .into_iter()
            .flatten()
        {
            if let Some(values) = matches.get_many::<String>(&name) {
                let text = values.cloned().collect::<Vec<_>>().join(",");
                let origin = Origin::Flag(format!("--{}", flag(&name)));
                layer.insert(name, Given { text, origin });
            }
        }
    }
}

fn command(matches: &ArgMatches) -> Command {
    match matches.subcommand() {
        Some(("migrate", _)) => Command::Migrate,
        Some(("check-config", _)) => Command::CheckConfig,
        Some(("doctor", _)) => Command::Doctor,
        Some(("explain-rls", inner)) => Command::ExplainRls {
            table: inner
                .get_one::<String>("table")
                .cloned()
                .unwrap_or_default(),
            role: inner.get_one::<String>("role").cloned(),
        },
        Some(("token", inner)) => Command::Token(TokenRequest {
            role: inner.get_one::<String>("role").cloned().unwrap_or_default(),
            subject: inner.get_one::<String>("sub").cloned(),
            claims: inner
                .get_many("claim")
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
            expires_in: inner.get_one("expires-in").copied().unwrap_or_default(),
        }),
        _ => Command::Serve,
    }
}

fn program() -> clap::Command {
    let version = concat!(env!("CARGO_PKG_VERSION"), " (", env!("WALCAST_BUILD"), ")");
    let program = clap::Command::new("walcast")
        .version(version)
        .about("Streams changes of a Postgres database to clients over WebSockets, each seeing what row-level security lets it see")
        .after_help("Every setting is also a key of walcast.toml and a WALCAST_… variable; flags win over variables, variables over the file.")
        .disable_help_subcommand(true)
        .max_term_width(110)
        .next_line_help(true)
        .args(settings(&[]));
    COMMANDS
        .iter()
        .fold(program, |program, (name, about, groups)| {
            let command = clap::Command::new(*name)
                .about(*about)
                .args(settings(groups));
            program.subcommand(match *name {
                "explain-rls" => command.args(explain_args()),
                "token" => command.args(token_args()),
                _ => command,
            })
        })
}

/// The flags of all settings; those of other groups work but are not shown.
fn settings(groups: &[&str]) -> Vec<Arg> {
    let config = Arg::new("config")
        .long("config")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("The settings' file [default: ./walcast.toml if there is one] [env: WALCAST_CONFIG]");
    let flags = TABLE.iter().flat_map(|setting| {
        let is_shown = groups.is_empty() || groups.contains(&setting.group);
        let of_file = setting.file_name().map(|name| file_flag(setting, name));
        [Some(setting_flag(setting)), of_file]
            .into_iter()
            .flatten()
            .map(move |arg| arg.hide(!is_shown))
    });
    std::iter::once(config).chain(flags).collect()
}

fn setting_flag(setting: &Setting) -> Arg {
    let default = setting.default.filter(|text| !text.is_empty());
    let default = default
        .map(|text| format!(" [default: {text}]"))
        .unwrap_or_default();
    let help = format!(
        "{}{default} [env: {}]",
        setting.doc(),
        variable(setting.name)
    );
    let arg = Arg::new(setting.name)
        .long(flag(setting.name))
        .help_heading(setting.group)
        .value_name(setting.kind.name)
        .help(help);
    match setting.kind.toml {
        // `--anonymous` is `--anonymous=true`.
        Toml::Boolean => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .action(ArgAction::Set),
        Toml::Array => arg.action(ArgAction::Append),
        Toml::Integer | Toml::String => arg,
    }
}

fn file_flag(setting: &Setting, name: String) -> Arg {
    Arg::new(name.clone())
        .long(flag(&name))
        .value_name("FILE")
        .help_heading(setting.group)
        .help(format!(
            "A file that holds {} [env: {}]",
            setting.name,
            variable(&name)
        ))
}

fn explain_args() -> Vec<Arg> {
    vec![
        Arg::new("table")
            .required(true)
            .value_name("TABLE")
            .help("The table: todos, or app.todos"),
        Arg::new("role")
            .long("role")
            .value_name("ROLE")
            .help("For this role only [default: all allowed roles]"),
    ]
}

fn token_args() -> Vec<Arg> {
    vec![
        Arg::new("role")
            .long("role")
            .value_name("ROLE")
            .default_value("authenticated")
            .help("The Postgres role"),
        Arg::new("sub")
            .long("sub")
            .value_name("ID")
            .help("The user's id, what auth.uid() returns"),
        Arg::new("claim")
            .long("claim")
            .value_name("NAME=JSON")
            .action(ArgAction::Append)
            .value_parser(name_and_value)
            .help("One more claim, may be repeated; a value that is not JSON is taken as a text"),
        Arg::new("expires-in")
            .long("expires-in")
            .value_name("DURATION")
            .default_value("1h")
            .value_parser(|text: &str| {
                duration(text).ok_or("must be a duration such as 30s, 5m or 1h")
            })
            .help("How long the token is good for"),
    ]
}

fn name_and_value(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("must be NAME=JSON")?;
    if name.is_empty() {
        return Err("must be NAME=JSON");
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn flag(name: &str) -> String {
    name.replace('_', "-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::program().debug_assert();
    }
}
