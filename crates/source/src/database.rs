//! A database's address as users write it, and SQL connections to it.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, Host, SslMode, SslNegotiation};
use tokio_postgres::{Client, NoTls};

use crate::SourceError;
use crate::tls::{self, ShownName, TlsMode, TlsSettings};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A parsed `postgres://…` URL or `key=value` string, with one or several hosts.
///
/// All that tokio-postgres understands, and `sslmode=verify-ca|verify-full`, `sslrootcert`,
/// `sslcert`, `sslkey` (PEM files) as libpq has them. The replication connection can do neither
/// `channel_binding=require` nor `sslnegotiation=direct`: refused here, not ignored.
#[derive(Clone)]
pub struct Database {
    config: tokio_postgres::Config,
    tls: TlsSettings,
}

impl Database {
    /// Reads `text`. Errors never quote it.
    pub fn parse(text: &str) -> Result<Database, SourceError> {
        let (text, options) = take_tls_options(text)?;
        let mut config: tokio_postgres::Config = text
            .parse()
            .map_err(|error| SourceError::Url(reason_of(&error)))?;
        let mode = options.mode(config.get_ssl_mode())?;
        let tls = TlsSettings {
            mode,
            root: options.root,
            client: match (options.certificate, options.key) {
                (Some(certificate), Some(key)) => Some((certificate, key)),
                (None, None) => None,
                _ => return Err(refuse("sslcert and sslkey belong together")),
            },
        };
        if config.get_channel_binding() == ChannelBinding::Require {
            return Err(refuse(
                "channel_binding=require is not supported: the replication connection has none; take channel_binding=prefer, and sslmode=verify-full to know who answers",
            ));
        }
        if config.get_ssl_negotiation() != SslNegotiation::Postgres {
            return Err(refuse(
                "sslnegotiation=direct is not supported: take sslnegotiation=postgres",
            ));
        }
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(refuse("it names no host"));
        }
        if config.get_user().is_none_or(str::is_empty) {
            return Err(refuse("it names no user"));
        }
        config.ssl_mode(match mode {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            _ => SslMode::Require,
        });
        Ok(Database { config, tls })
    }

    /// The `attempt`th host of the list, round and round.
    pub(crate) fn target(&self, attempt: u32) -> Target {
        let hosts = self.config.get_hosts();
        let addresses = self.config.get_hostaddrs();
        let index = attempt as usize % hosts.len().max(addresses.len()).max(1);
        let name = match hosts.get(index) {
            Some(Host::Tcp(name)) => name.clone(),
            #[cfg(unix)]
            Some(Host::Unix(folder)) => folder.display().to_string(),
            None => String::new(),
        };
        let address = addresses.get(index).map(ToString::to_string);
        let ports = self.config.get_ports();
        let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
        let host = address.unwrap_or_else(|| name.clone());
        let is_socket = host.starts_with('/');
        Target {
            server_name: if name.is_empty() { host.clone() } else { name },
            host,
            port,
            user: self.user().into(),
            password: self
                .config
                .get_password()
                .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
                .unwrap_or_default(),
            database: self.name().into(),
            options: self.config.get_options().map(Into::into),
            connect_timeout: self.config.get_connect_timeout().copied(),
            session: self.config.get_target_session_attrs(),
            shown_name: ShownName::default(),
            tls: if is_socket {
                TlsSettings::default() // as libpq: no TLS on a Unix socket
            } else {
                self.tls.clone()
            },
        }
    }

    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    /// The database's name; by default the user's.
    pub fn name(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }

    /// A SQL connection to the first host that answers; a task of the current runtime drives it and
    /// ends with the client.
    pub async fn connect(&self, application_name: &str) -> Result<Client, SourceError> {
        Ok(self.reach(application_name).await?.1)
    }

    /// The first host that answers, and a SQL connection to it.
    pub(crate) async fn reach(
        &self,
        application_name: &str,
    ) -> Result<(Target, Client), SourceError> {
        let hosts = self
            .config
            .get_hosts()
            .len()
            .max(self.config.get_hostaddrs().len());
        let mut last = refuse("it names no host");
        for attempt in 0..u32::try_from(hosts).unwrap_or(u32::MAX) {
            let target = self.target(attempt);
            match target.connect(application_name).await {
                Ok(client) => return Ok((target, client)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("hosts", &self.config.get_hosts())
            .field("user", &self.user())
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// [`Database::parse`] and [`Database::connect`] in one.
pub async fn connect_sql(url: &str, application_name: &str) -> Result<Client, SourceError> {
    Database::parse(url)?.connect(application_name).await
}

/// One server of the list: what both kinds of connection are made from.
#[derive(Clone)]
pub(crate) struct Target {
    /// A name, an address, or the folder of a Unix socket.
    pub(crate) host: String,
    /// What its certificate has to say.
    pub(crate) server_name: String,
    pub(crate) port: u16,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
    pub(crate) options: Option<String>,
    pub(crate) tls: TlsSettings,
    pub(crate) shown_name: ShownName,
    connect_timeout: Option<Duration>,
    session: tokio_postgres::config::TargetSessionAttrs,
}

impl Target {
    pub(crate) async fn connect(&self, application_name: &str) -> Result<Client, SourceError> {
        let timeout = self.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        let config = self.config(application_name, timeout);
        let connecting = async {
            if self.tls.mode == TlsMode::Disable {
                let (client, connection) = config.connect(NoTls).await?;
                drive(connection);
                return Ok(client);
            }
            let connector = tokio_postgres_rustls::MakeRustlsConnect::new(tls::client(
                &self.tls,
                &self.shown_name,
            )?);
            let (client, connection) = config.connect(connector).await?;
            drive(connection);
            Ok(client)
        };
        tokio::time::timeout(timeout, connecting)
            .await
            .unwrap_or(Err(SourceError::Timeout {
                during: "connecting",
                seconds: timeout.as_secs(),
            }))
    }

    fn config(&self, application_name: &str, timeout: Duration) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config
            .host(&self.server_name)
            .port(self.port)
            .user(&self.user)
            .dbname(&self.database)
            .application_name(application_name)
            .connect_timeout(timeout)
            .target_session_attrs(self.session)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(25))
            .ssl_mode(match self.tls.mode {
                TlsMode::Disable => SslMode::Disable,
                TlsMode::Prefer => SslMode::Prefer,
                _ => SslMode::Require,
            });
        if let (Ok(address), true) = (self.host.parse(), self.host != self.server_name) {
            config.hostaddr(address);
        }
        if !self.password.is_empty() {
            config.password(&self.password);
        }
        if let Some(options) = &self.options {
            config.options(options);
        }
        config
    }
}

fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            let error = SourceError::from(error);
            tracing::debug!(%error, "sql connection ended"); // its client tells the caller
        }
    });
}

/// The options of libpq that tokio-postgres refuses to read.
#[derive(Default, Debug, PartialEq, Eq)]
struct TlsOptions {
    mode: Option<TlsMode>,
    root: Option<PathBuf>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
}

impl TlsOptions {
    /// Whether `key` was one of them.
    fn take(&mut self, key: &str, value: &str) -> Result<bool, SourceError> {
        match key {
            "sslmode" => {
                self.mode = match value {
                    "verify-ca" => Some(TlsMode::VerifyCa),
                    "verify-full" => Some(TlsMode::VerifyFull),
                    "allow" => return Err(refuse("sslmode=allow is not supported")),
                    _ => return Ok(false),
                }
            }
            "sslrootcert" => self.root = Some(value.into()),
            "sslcert" => self.certificate = Some(value.into()),
            "sslkey" => self.key = Some(value.into()),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn mode(&self, plain: SslMode) -> Result<TlsMode, SourceError> {
        match (self.mode, plain) {
            (Some(mode), _) => Ok(mode),
            (None, SslMode::Disable) => Ok(TlsMode::Disable),
            (None, SslMode::Prefer) => Ok(TlsMode::Prefer),
            // libpq: with a root certificate `require` checks the chain
            (None, SslMode::Require) if self.root.is_some() => Ok(TlsMode::VerifyCa),
            (None, SslMode::Require) => Ok(TlsMode::Require),
            _ => Err(refuse("unknown sslmode")),
        }
    }
}

/// Takes the TLS options out of `text`; the rest is for tokio-postgres.
fn take_tls_options(text: &str) -> Result<(String, TlsOptions), SourceError> {
    let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    if !is_url && !scheme.is_empty() && !scheme.contains(['=', ' ']) {
        return Err(refuse(
            "it begins with neither postgres:// nor postgresql://",
        ));
    }
    let mut options = TlsOptions::default();
    let rest = if is_url {
        take_from_url(text, &mut options)?
    } else {
        take_from_pairs(text, &mut options)?
    };
    Ok((rest, options))
}

fn take_from_url(text: &str, options: &mut TlsOptions) -> Result<String, SourceError> {
    let Some((head, query)) = text.split_once('?') else {
        return Ok(text.into());
    };
    let mut kept = Vec::new();
    for pair in query.split('&') {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = unescape(value).ok_or_else(|| refuse("a bad % escape"))?;
        if !options.take(key, &value)? {
            kept.push(pair);
        }
    }
    if kept.is_empty() {
        return Ok(head.into());
    }
    Ok(format!("{head}?{}", kept.join("&")))
}

fn take_from_pairs(text: &str, options: &mut TlsOptions) -> Result<String, SourceError> {
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| refuse("a key without ="))?;
        let after = after.trim_start();
        let (value, length) = pair_value(after).ok_or_else(|| refuse("an open quote"))?;
        let (raw, next) = after.split_at(length);
        if !options.take(key.trim(), &value)? {
            kept.push_str(&format!("{}={raw} ", key.trim()));
        }
        rest = next.trim_start();
    }
    Ok(kept)
}

/// A value of the `key=value` form: itself, and its length as written.
fn pair_value(text: &str) -> Option<(String, usize)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut characters = text.char_indices().skip(usize::from(quoted));
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.push(characters.next()?.1),
            '\'' if quoted => return Some((value, at + 1)),
            space if space.is_whitespace() && !quoted => return Some((value, at)),
            other => value.push(other),
        }
    }
    (!quoted).then_some((value, text.len()))
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let (high, low) = (rest.next()?, rest.next()?);
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
    }
    String::from_utf8(bytes).ok()
}

fn refuse(reason: &str) -> SourceError {
    SourceError::Url(reason.into())
}

/// What tokio-postgres says is wrong, if that quotes no value.
fn reason_of(error: &tokio_postgres::Error) -> String {
    use std::error::Error as _;
    let reason = error.source().map(ToString::to_string).unwrap_or_default();
    let harmless = reason.starts_with("unknown option") || reason.starts_with("invalid value for");
    if harmless {
        reason
    } else {
        "expected postgres://user@host:port/database or host=… user=… dbname=…".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        match Database::parse(text) {
            Ok(database) => database.target(0),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    #[test]
    fn urls_and_pairs_mean_the_same() {
        for text in [
            "postgres://me:p%40ss@db.example:6000/app?sslmode=verify-full&sslrootcert=%2Fca.pem",
            "host=db.example port=6000 user=me password='p@ss' dbname=app sslmode=verify-full sslrootcert = '/ca.pem'",
        ] {
            let target = target(text);
            assert_eq!(
                (
                    target.host.as_str(),
                    target.port,
                    target.user.as_str(),
                    target.password.as_str(),
                    target.database.as_str()
                ),
                ("db.example", 6000, "me", "p@ss", "app")
            );
            assert_eq!(target.tls.mode, TlsMode::VerifyFull);
            assert_eq!(target.tls.root, Some("/ca.pem".into()));
        }
    }

    #[test]
    fn tls_modes() {
        for (text, mode) in [
            ("postgres://u@h", TlsMode::Prefer),
            ("postgres://u@h?sslmode=disable", TlsMode::Disable),
            ("postgres://u@h?sslmode=require", TlsMode::Require),
            (
                "postgres://u@h?sslmode=require&sslrootcert=a",
                TlsMode::VerifyCa,
            ),
            ("postgres://u@h?sslmode=verify-ca", TlsMode::VerifyCa),
            ("postgres://u@%2Frun?sslmode=require", TlsMode::Disable),
        ] {
            assert_eq!(target(text).tls.mode, mode, "{text}");
        }
    }

    #[test]
    fn hosts() {
        let database = Database::parse("host=a,b port=1,2 user=u").expect("valid");
        let hosts: Vec<_> = (0..3).map(|n| database.target(n)).collect();
        let hosts: Vec<_> = hosts.iter().map(|t| (t.host.as_str(), t.port)).collect();
        assert_eq!(hosts, [("a", 1), ("b", 2), ("a", 1)]);
        let by_address = target("host=db.example hostaddr=10.0.0.1 user=u");
        assert_eq!(
            (by_address.host.as_str(), by_address.server_name.as_str()),
            ("10.0.0.1", "db.example")
        );
        assert_eq!(target("postgres://u@%2Ftmp%2Fpg:7/x").host, "/tmp/pg");
        assert_eq!(target("postgres://u@h").database, "u");
    }

    #[test]
    fn refused_without_quoting_secrets() {
        for text in [
            "",
            "secret",
            "postgres://u:secret@h:nonsense/db",
            "postgres://u:secret@",
            "postgres://:secret@h",
            "host=h user=u password='secret",
            "host=h password=secret",
            "postgres://u:secret@h?channel_binding=require",
            "postgres://u:secret@h?sslnegotiation=direct",
            "postgres://u:secret@h?sslmode=allow",
            "postgres://u:secret@h?sslmode=sometimes",
            "postgres://u:secret@h?sslcert=a",
            "postgres://u:secret@h?sslrootcert=%zz",
            "postgres://u:secret@h?password_file=x",
        ] {
            match Database::parse(text) {
                Ok(_) => panic!("accepted {text}"),
                Err(error) => assert!(!error.to_string().contains("secret"), "{error}"),
            }
        }
        let database = Database::parse("postgres://u:secret@h").expect("valid");
        assert!(!format!("{database:?}").contains("secret"));
    }
}
