use super::{DATABASE, Folder, GOOD, SECRET, config};

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
            "DIR/walcast.toml, line 1: rls_database_url must be a database's address such as postgres://user:password@host/database: it begins with neither postgres:// nor postgresql://",
        ),
        (
            "rls_database_url = \"postgres://u:hunter2@h/d?sslmode=allow\"",
            "DIR/walcast.toml, line 1: rls_database_url must be a database's address such as postgres://user:password@host/database: sslmode=allow is not supported",
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
