mod mistakes;

use std::path::PathBuf;

use super::kind::{Conceal, Toml};
use super::table::TABLE;
use super::*;

const SECRET: &str = "hunter2 hunter2 hunter2 hunter2 hunter2";
const DATABASE: &str = "postgres://u:hunter2@db/app";

/// A folder with these files, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, files: &[(&str, &str)]) -> Folder {
        let path =
            std::env::temp_dir().join(format!("walcast-settings-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        for (file, text) in files {
            std::fs::write(path.join(file), text).expect("a file");
        }
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn load(
    folder: &Folder,
    args: &[&str],
    env: &[(&str, &str)],
) -> Result<(Command, Settings), SettingsError> {
    let args = std::iter::once("walcast")
        .chain(args.iter().copied())
        .map(OsString::from);
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Settings::load_from(args, env, &folder.0)
}

fn config(folder: &Folder, args: &[&str], env: &[(&str, &str)]) -> Result<Config, SettingsError> {
    let (command, settings) = load(folder, args, env)?;
    settings.config(&command)
}

/// Everything a server needs.
const GOOD: &[(&str, &str)] = &[("DATABASE_URL", DATABASE), ("WALCAST_JWT_SECRET", SECRET)];

#[test]
fn flags_win_over_variables_and_variables_over_the_file() {
    let folder = Folder::new(
        "order",
        &[
            (
                "walcast.toml",
                "slot_name = \"of_file\"\npublication = \"of_file\"\npage = false\njwt_secret_file = \"nowhere\"\n",
            ),
            ("other.toml", "slot_name = \"other\""),
        ],
    );
    let env = [
        GOOD,
        &[
            ("WALCAST_SLOT_NAME", "of_env"),
            ("WALCAST_LISTEN", ""),
            ("WALCAST_DATABASE_URL", "postgres://u@won/app"),
        ],
    ]
    .concat();
    let of_env = config(&folder, &[], &env).expect("good");
    assert_eq!(
        (
            of_env.slot_name.as_str(),
            of_env.publication.as_str(),
            of_env.page
        ),
        ("of_env", "of_file", false)
    );
    assert_eq!(
        of_env.listen.to_string(),
        "127.0.0.1:8080",
        "an empty variable is none"
    );
    assert_eq!(
        of_env.database().expect("given").expose(),
        "postgres://u@won/app",
        "the alias loses"
    );
    assert_eq!(
        of_env.rls_url().expect("the same").expose(),
        "postgres://u@won/app"
    );

    let of_flag = config(
        &folder,
        &[
            "--slot-name",
            "before",
            "serve",
            "--slot-name=after",
            "--page",
        ],
        &env,
    )
    .expect("good");
    assert_eq!((of_flag.slot_name.as_str(), of_flag.page), ("after", true));

    let other = folder.0.join("other.toml").display().to_string();
    for (args, env) in [
        (vec!["serve", "--config", &other], GOOD.to_vec()),
        (
            vec![],
            [GOOD, &[("WALCAST_CONFIG", other.as_str())]].concat(),
        ),
    ] {
        let config = config(&folder, &args, &env).expect("good");
        assert_eq!(
            (config.slot_name.as_str(), config.publication.as_str()),
            ("other", "realtime")
        );
    }
}

#[test]
fn lists_and_secrets_from_every_place() {
    let folder = Folder::new(
        "lists",
        &[
            (
                "walcast.toml",
                "allowed_roles = [\"a\", \"b c\"]\njwt_default_role = \"a\"\ntrusted_proxies = []",
            ),
            ("secret", &format!("{SECRET}\r\n")),
        ],
    );
    let secret = folder.0.join("secret").display().to_string();
    let env = [
        ("DATABASE_URL", DATABASE),
        ("WALCAST_JWT_SECRET_FILE", secret.as_str()),
        ("WALCAST_JWT_AUDIENCE", "x, y,"),
    ];
    let config = config(
        &folder,
        &[
            "--allowed-origins",
            "https://a.example,http://b",
            "--allowed-origins",
            "http://c",
        ],
        &env,
    )
    .expect("good");
    assert_eq!(config.allowed_roles, ["a", "b c"]);
    assert_eq!(config.jwt_audience, ["x", "y"]);
    assert_eq!(
        config.allowed_origins,
        ["https://a.example", "http://b", "http://c"]
    );
    assert!(config.trusted_proxies.is_empty());
    assert_eq!(config.jwt_secret.as_ref().map(Secret::expose), Some(SECRET));
    let auth = config.auth().expect("good");
    assert_eq!(
        (auth.keys.secret.as_deref(), auth.anonymous_role),
        (Some(SECRET), None)
    );
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn what_check_config_prints_is_a_settings_file_without_secrets() {
    let folder = Folder::new("describe", &[("walcast.toml", "anonymous = true\n")]);
    let (command, settings) =
        load(&folder, &["check-config", "--ping-interval", "10s"], GOOD).expect("good");
    assert_eq!(command, Command::CheckConfig);
    let text = settings.describe();
    assert!(
        !text.contains("hunter2") && !format!("{settings:?}").contains("hunter2"),
        "{text}"
    );
    let path = folder.0.join("walcast.toml");
    let lines = [
        "database_url = \"postgres://u:***@db/app\" # environment variable DATABASE_URL".to_owned(),
        "jwt_secret = \"***\" # environment variable WALCAST_JWT_SECRET".to_owned(),
        "ping_interval = \"10s\" # flag --ping-interval".to_owned(),
        format!("anonymous = true # {}, line 1", path.display()),
        "allowed_roles = [\"anon\", \"authenticated\", \"service_role\"] # default".to_owned(),
        "connections_max = 10000 # default".to_owned(),
        "# jwks_url is not set".to_owned(),
    ];
    for line in lines {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    assert_eq!(text.lines().count(), TABLE.len());
    let again = Folder::new(
        "again",
        &[("walcast.toml", &text.replace("jwt_secret = \"***\"", ""))],
    );
    config(&again, &[], &[("WALCAST_JWT_SECRET", SECRET)]).expect("its own output is a good file");
    assert!(settings.is_default("listen") && !settings.is_default("anonymous"));
}

/// Every key with a value of every wrong type: name and line in the error, nothing of the value.
#[test]
fn wrong_types_are_named_for_every_setting() {
    let values = [
        ("\"hunter2-x\"", Toml::String),
        ("7", Toml::Integer),
        ("true", Toml::Boolean),
        ("[\"hunter2-x\"]", Toml::Array),
    ];
    let folder = Folder::new("types", &[]);
    for setting in TABLE {
        let others = values.iter().filter(|(_, toml)| *toml != setting.kind.toml);
        let odd = ["1.5", "1979-05-27", "{ a = 1 }", "[1]", "[[\"hunter2-x\"]]"];
        for value in others.map(|(value, _)| *value).chain(odd) {
            let file = format!("# a comment\n\n{} = {value}\n", setting.name);
            std::fs::write(folder.0.join("walcast.toml"), file).expect("a file");
            let error = config(&folder, &[], &[])
                .expect_err(setting.name)
                .to_string();
            let expected = format!("walcast.toml, line 3: {} must be ", setting.name);
            assert!(
                error.contains(&expected) && !error.contains("hunter2"),
                "{} = {value}: {error}",
                setting.name
            );
        }
        if setting.kind.conceal == Conceal::Everything {
            assert!(!setting.kind.literal("hunter2").contains("hunter2"));
        }
    }
}

#[test]
fn every_command_has_its_arguments_and_its_help() {
    let folder = Folder::new("commands", &[]);
    let role = |role: &str| Some(role.to_owned());
    let explain = |role| Command::ExplainRls {
        table: "app.todos".into(),
        role,
    };
    let cases: Vec<(&[&str], Command)> = vec![
        (&[], Command::Serve),
        (&["serve"], Command::Serve),
        (&["migrate"], Command::Migrate),
        (&["check-config"], Command::CheckConfig),
        (&["doctor"], Command::Doctor),
        (&["explain-rls", "app.todos"], explain(None)),
        (
            &["explain-rls", "app.todos", "--role", "anon"],
            explain(role("anon")),
        ),
    ];
    for (args, expected) in cases {
        assert_eq!(load(&folder, args, &[]).expect("good").0, expected);
    }
    let bad: &[(&[&str], &str)] = &[
        (&["--help"], "[env: WALCAST_DATABASE_URL]"),
        (&["migrate", "--help"], "--database-url-file"),
        (&["--version"], "walcast 0"),
        (&["serv"], "unrecognized subcommand 'serv'"),
        (
            &["--jwt-secrets=hunter2"],
            "unexpected argument '--jwt-secrets' found",
        ),
        (&["explain-rls"], "<TABLE>"),
        (&["--listen"], "a value is required"),
        (&["--slot-name", "--page"], "a value is required"),
    ];
    for (args, expected) in bad {
        let text = load(&folder, args, &[]).expect_err(expected).to_string();
        assert!(
            text.contains(expected) && !text.contains("hunter2"),
            "{args:?}: {text}"
        );
    }
    let help = load(&folder, &["--help"], &[])
        .expect_err("help")
        .to_string();
    for setting in TABLE {
        assert!(
            help.contains(&format!("--{}", setting.name.replace('_', "-"))),
            "{}",
            setting.name
        );
    }
    let help = load(&folder, &["token", "--help"], &[])
        .expect_err("help")
        .to_string();
    assert!(
        help.contains("--expires-in")
            && help.contains("--jwt-secret")
            && !help.contains("--listen")
    );
}

/// `UPDATE_DOCS=1 cargo test -p walcast-server settings` writes the page anew.
#[test]
fn the_page_about_settings_lists_them_all() {
    const START: &str = "<!-- from here on made from the table of settings -->\n";
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto-docs/settings.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let (introduction, list) = page.split_once(START).expect("the marker");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, format!("{introduction}{START}{}", reference())).expect("the page");
        return;
    }
    assert_eq!(
        list,
        reference(),
        "run UPDATE_DOCS=1 cargo test -p walcast-server settings"
    );
    for setting in TABLE {
        assert!(list.contains(&format!("### `{}`", setting.name)));
    }
}
