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

/// The error of these settings, with the folder's path as `DIR`.
fn error(name: &str, file: &str, args: &[&str], env: &[(&str, &str)]) -> String {
    let folder = Folder::new(
        name,
        &[
            ("walcast.toml", file),
            ("short", "hunter2\n"),
            ("empty", "\n"),
        ],
    );
    let dir = folder.0.display().to_string();
    let args: Vec<String> = args.iter().map(|arg| arg.replace("DIR", &dir)).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let text = match config(&folder, &args, env) {
        Ok(_) => "no error".to_owned(),
        Err(error) => error.to_string(),
    };
    assert!(!text.contains("hunter2"), "a secret in: {text}");
    text.replace(&dir, "DIR")
}

/// Everything a server needs.
const GOOD: &[(&str, &str)] = &[("DATABASE_URL", DATABASE), ("WALCAST_JWT_SECRET", SECRET)];

const ONLY_DATABASE: &[(&str, &str)] = &[("DATABASE_URL", DATABASE)];

#[test]
fn mistakes_in_the_file_name_their_line() {
    let cases: &[(&str, &str)] = &[
        (
            "lissten = \"x\"",
            "DIR/walcast.toml, line 1: there is no setting \"lissten\", did you mean listen?",
        ),
        (
            "\n# c\nport = 80",
            "DIR/walcast.toml, line 3: there is no setting \"port\"",
        ),
        (
            "[jwt]\nsecret = \"x\"",
            "DIR/walcast.toml, line 1: there are no sections in this file: write the settings of [jwt] by their full names",
        ),
        (
            "jwt_secret = \"hunter2\n",
            "DIR/walcast.toml, line 1: not valid TOML: invalid basic string, expected `\"`",
        ),
        (
            "page = true\npage = false",
            "DIR/walcast.toml, line 2: not valid TOML: duplicate key",
        ),
        (
            "connections_max = \"100\"",
            "DIR/walcast.toml, line 1: connections_max must be a whole number (0 means no limit), without quotes",
        ),
        (
            "connections_max = -1",
            "DIR/walcast.toml, line 1: connections_max must be a whole number (0 means no limit), not \"-1\"",
        ),
        (
            "connections_max = 1.5",
            "DIR/walcast.toml, line 1: connections_max must be a whole number (0 means no limit), without quotes",
        ),
        (
            "connections_max = 99999999999999999999",
            "DIR/walcast.toml, line 1: connections_max must be a whole number (0 means no limit), not \"99999999999999999999\"",
        ),
        (
            "subscriptions_per_connection_max = 0",
            "DIR/walcast.toml, line 1: subscriptions_per_connection_max must be a whole number from 1, not \"0\"",
        ),
        (
            "idle_timeout = 120",
            "DIR/walcast.toml, line 1: idle_timeout must be a duration such as 500ms, 30s, 5m or 1h, in quotes",
        ),
        (
            "idle_timeout = \"120\"",
            "DIR/walcast.toml, line 1: idle_timeout must be a duration such as 500ms, 30s, 5m or 1h, not \"120\"",
        ),
        (
            "message_bytes_max = \"64KB\"",
            "DIR/walcast.toml, line 1: message_bytes_max must be a size such as 512B, 64KiB or 1MiB, not \"64KB\"",
        ),
        (
            "anonymous = \"yes\"",
            "DIR/walcast.toml, line 1: anonymous must be true or false, without quotes",
        ),
        (
            "allowed_roles = \"anon\"",
            "DIR/walcast.toml, line 1: allowed_roles must be a list of roles' names (not none, not pg_…, at most 63 bytes), each in quotes, in brackets",
        ),
        (
            "allowed_roles = [\"pg_monitor\"]",
            "DIR/walcast.toml, line 1: allowed_roles must be a list of roles' names (not none, not pg_…, at most 63 bytes), not \"pg_monitor\"",
        ),
        (
            "listen = \"8080\"",
            "DIR/walcast.toml, line 1: listen must be an address and a port such as 127.0.0.1:8080 or [::]:8080, not \"8080\"",
        ),
        (
            "slot_name = \"Wal-cast\"",
            "DIR/walcast.toml, line 1: slot_name must be a slot's name of a-z, 0-9 and _, at most 63, not \"Wal-cast\"",
        ),
        (
            "slot_mode = \"none\"",
            "DIR/walcast.toml, line 1: slot_mode must be durable or temporary, not \"none\"",
        ),
        (
            "allowed_origins = [\"https://a.example/\"]",
            "DIR/walcast.toml, line 1: allowed_origins must be a list of origins such as https://app.example.com, or *, not \"https://a.example/\"",
        ),
        (
            "trusted_proxies = [\"10.0.0.0/40\"]",
            "DIR/walcast.toml, line 1: trusted_proxies must be a list of networks such as 10.0.0.0/8 or fd00::/8, not \"10.0.0.0/40\"",
        ),
        (
            "jwks_url = \"ftp://x\"",
            "DIR/walcast.toml, line 1: jwks_url must be an address that starts with https:// or http://, not \"ftp://x\"",
        ),
        (
            "log_level = \"info,=,\"",
            "DIR/walcast.toml, line 1: log_level must be a log filter such as info or info,walcast_rls=debug, not \"info,=,\"",
        ),
        (
            "jwt_previous_secret = \"hunter2\"",
            "DIR/walcast.toml, line 1: jwt_previous_secret must be a secret of at least 32 bytes (make one with `openssl rand -base64 48`)",
        ),
        (
            "rls_database_url = \"mysql://u:hunter2@h/d\"",
            "DIR/walcast.toml, line 1: rls_database_url must be a database's address such as postgres://user:password@host/database",
        ),
        (
            "slot_mode = \"x\"\nlog_format = \"y\"",
            "DIR/walcast.toml, line 1: slot_mode must be durable or temporary, not \"x\"\nDIR/walcast.toml, line 2: log_format must be text or json, not \"y\"",
        ),
    ];
    for (n, (file, expected)) in cases.iter().enumerate() {
        assert_eq!(
            error(&format!("file-{n}"), file, &[], GOOD),
            *expected,
            "{file}"
        );
    }
}

#[test]
fn mistakes_elsewhere_name_their_place() {
    type Case = (
        &'static [&'static str],
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let cases: &[Case] = &[
        (
            &[],
            &[("WALCAST_JWT_SECERT", "hunter2")],
            "environment variable WALCAST_JWT_SECERT: there is no such setting, did you mean WALCAST_JWT_SECRET?",
        ),
        (
            &[],
            &[("WALCAST_PORT", "80")],
            "environment variable WALCAST_PORT: there is no such setting",
        ),
        (
            &[],
            &[("WALCAST_Listen", "x")],
            "environment variable WALCAST_Listen: there is no such setting, did you mean WALCAST_LISTEN?",
        ),
        (
            &[],
            &[("WALCAST_PAGE", "1")],
            "environment variable WALCAST_PAGE: page must be true or false, not \"1\"",
        ),
        (
            &["--idle-timeout", "0s"],
            &[],
            "flag --idle-timeout: idle_timeout must be a duration such as 500ms, 30s, 5m or 1h, not \"0s\"",
        ),
        (
            &["--anonymous=maybe"],
            &[],
            "flag --anonymous: anonymous must be true or false, not \"maybe\"",
        ),
        (
            &["--config", "DIR/no.toml"],
            &[],
            "DIR/no.toml: cannot read the settings: No such file or directory (os error 2)",
        ),
        (
            &["--jwt-secret-file", "DIR/none"],
            &[],
            "flag --jwt-secret-file: jwt_secret_file: cannot read DIR/none: No such file or directory (os error 2)",
        ),
        (
            &["--jwt-secret-file", "DIR/empty"],
            &[],
            "flag --jwt-secret-file: jwt_secret_file: cannot read DIR/empty: it is empty",
        ),
        (
            &["--jwt-secret-file", "DIR/short"],
            &[],
            "DIR/short, named by flag --jwt-secret-file: jwt_secret must be a secret of at least 32 bytes (make one with `openssl rand -base64 48`)",
        ),
        (
            &["--jwt-secret", "x", "--jwt-secret-file", "y"],
            &[],
            "flag --jwt-secret-file: jwt_secret and jwt_secret_file are both given: keep one",
        ),
    ];
    for (n, (args, env, expected)) in cases.iter().enumerate() {
        let env = [GOOD, env].concat();
        assert_eq!(error(&format!("place-{n}"), "", args, &env), *expected);
    }
}

#[test]
fn settings_that_contradict_each_other() {
    type Case = (
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let cases: &[Case] = &[
        (
            "",
            &[("WALCAST_JWT_SECRET", SECRET)],
            "database_url is not set: give --database-url, WALCAST_DATABASE_URL, DATABASE_URL or database_url in walcast.toml, such as postgres://walcast@localhost/app",
        ),
        (
            "",
            ONLY_DATABASE,
            "there is no way to verify tokens: set jwt_secret, jwt_public_key_file, jwks_url or jwks_file, or anonymous = true to let in everybody as anonymous_role",
        ),
        (
            "tls_cert = \"c\"",
            GOOD,
            "tls_cert is set without tls_key: give both, or none for plain HTTP",
        ),
        (
            "tls_key = \"k\"",
            GOOD,
            "tls_key is set without tls_cert: give both, or none for plain HTTP",
        ),
        (
            "jwks_ca_file = \"k\"",
            GOOD,
            "jwks_ca_file is set without jwks_url, the only one it is used for",
        ),
        (
            "expired_token_action = \"downgrade\"",
            GOOD,
            "expired_token_action = \"downgrade\" makes visitors anonymous: set anonymous = true as well, or use \"close\"",
        ),
        (
            "idle_timeout = \"30s\"",
            GOOD,
            "idle_timeout must be longer than ping_interval: otherwise every silent client is closed before it could answer a ping",
        ),
        (
            "outbox_bytes_max = \"1KiB\"",
            GOOD,
            "outbox_bytes_max must be at least 16KiB: an ordinary message would close its connection",
        ),
        (
            "message_bytes_max = \"1GiB\"",
            GOOD,
            "message_bytes_max must be at most 16MiB: it is the memory that every client may ask for",
        ),
        (
            "jwt_default_role = \"user\"",
            GOOD,
            "jwt_default_role is not among allowed_roles: add it there, or set jwt_default_role = \"\" to refuse tokens without a role",
        ),
        (
            "anonymous = true\njwt_previous_secret = \"hunter2 hunter2 hunter2 hunter2 hunter2\"",
            ONLY_DATABASE,
            "jwt_previous_secret is set without jwt_secret: the current secret is missing",
        ),
        ("anonymous = true", ONLY_DATABASE, "no error"),
        (
            "jwks_url = \"https://id.example.com/jwks\"",
            ONLY_DATABASE,
            "no error",
        ),
        ("jwt_default_role = \"\"", GOOD, "no error"),
    ];
    for (n, (file, env, expected)) in cases.iter().enumerate() {
        assert_eq!(
            error(&format!("cross-{n}"), file, &[], env),
            *expected,
            "{file}"
        );
    }
    assert_eq!(
        error("token", "", &["token"], &[]),
        "jwt_secret is not set, and a token is made with it: give WALCAST_JWT_SECRET or jwt_secret_file"
    );
    // Only a server needs to verify tokens.
    for command in ["migrate", "doctor"] {
        assert_eq!(error(command, "", &[command], ONLY_DATABASE), "no error");
    }
}

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
            ("WALCAST_DATABASE_URL", "postgres://won/app"),
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
        "postgres://won/app",
        "the alias loses"
    );
    assert_eq!(
        of_env.rls_url().expect("the same").expose(),
        "postgres://won/app"
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
