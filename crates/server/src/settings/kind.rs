//! What a setting's value may look like: one type per kind, each with its words for an error and for the docs.
//!
//! The kinds are `pub` because the fields of the public `Config` are spelled through them; the module is private.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::mask::mask_password;
use super::network::Network;

/// A kind of value. `parse` decides; `WORDS` complete the sentence "must be …".
pub trait Kind {
    type Out;
    const WORDS: &'static str;
    /// What stands for the value in `--help`.
    const NAME: &'static str = "VALUE";
    /// The TOML type a file must use.
    const TOML: Toml = Toml::String;
    const CONCEAL: Conceal = Conceal::Nothing;
    fn parse(text: &str) -> Option<Self::Out>;
    /// More about what is wrong with a text that `parse` refuses, without quoting it.
    fn reason(_text: &str) -> Option<String> {
        None
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Toml {
    String,
    Integer,
    Boolean,
    /// Of strings.
    Array,
}

/// What must not be shown of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conceal {
    Nothing,
    Everything,
    /// The password of a database address.
    Password,
}

/// A [`Kind`] as a value, for the table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KindInfo {
    pub(crate) words: &'static str,
    pub(crate) name: &'static str,
    pub(crate) toml: Toml,
    pub(crate) conceal: Conceal,
}

impl KindInfo {
    pub(crate) const fn of<K: Kind>() -> Self {
        Self {
            words: K::WORDS,
            name: K::NAME,
            toml: K::TOML,
            conceal: K::CONCEAL,
        }
    }

    /// Secrets may be given in a file of their own.
    pub(crate) fn is_secret(&self) -> bool {
        self.conceal != Conceal::Nothing
    }

    /// The value as it may be shown.
    pub(crate) fn masked(&self, text: &str) -> String {
        match self.conceal {
            Conceal::Nothing => text.to_owned(),
            Conceal::Everything => "***".to_owned(),
            Conceal::Password => mask_password(text),
        }
    }

    /// The value as it may be shown, in TOML.
    pub(crate) fn literal(&self, text: &str) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        match self.toml {
            Toml::Integer | Toml::Boolean => text.to_owned(),
            Toml::String => quoted(&self.masked(text)),
            Toml::Array => format!(
                "[{}]",
                items(text).map(quoted).collect::<Vec<_>>().join(", ")
            ),
        }
    }
}

/// A text that is not to be printed; `Debug` shows that there is one.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A kind that is a type, words and a rule, and what differs from the usual.
macro_rules! kind {
    ($name:ident -> $out:ty, $words:literal, $parse:expr $(, $constant:ident: $type:ty = $value:expr)*) => {
        pub struct $name;
        impl Kind for $name {
            type Out = $out;
            const WORDS: &'static str = $words;
            $(const $constant: $type = $value;)*
            fn parse(text: &str) -> Option<$out> {
                let parse: fn(&str) -> Option<$out> = $parse;
                parse(text)
            }
        }
    };
}

kind!(Texts -> Vec<String>, "a list of texts", |text| Some(items(text).map(str::to_owned).collect()),
    TOML: Toml = Toml::Array,
    NAME: &'static str = "A,B"
);
kind!(Switch -> bool, "true or false", |text| text.parse().ok(), TOML: Toml = Toml::Boolean,
    NAME: &'static str = "true|false"
);
kind!(Count -> usize, "a whole number from 1", |text| whole(text).filter(|n| *n > 0),
    TOML: Toml = Toml::Integer,
    NAME: &'static str = "NUMBER"
);
kind!(Limit -> usize, "a whole number (0 means no limit)", whole, TOML: Toml = Toml::Integer,
    NAME: &'static str = "NUMBER"
);
kind!(Span -> Duration, "a duration such as 500ms, 30s, 5m or 1h", duration,
    NAME: &'static str = "DURATION"
);
kind!(Size -> usize, "a size such as 512B, 64KiB or 1MiB", size,
    NAME: &'static str = "SIZE"
);
kind!(FilePath -> PathBuf, "a file's path", |text| (!text.is_empty()).then(|| text.into()),
    NAME: &'static str = "FILE"
);
kind!(FolderOrNothing -> Option<PathBuf>, "a folder's path, or off (./off is a folder)",
    |text| match text {
        "" => None,
        "off" => Some(None),
        path => Some(Some(path.into())),
    },
    NAME: &'static str = "FOLDER"
);
kind!(Address -> SocketAddr, "an address and a port such as 127.0.0.1:8080 or [::]:8080",
    |text| text.parse().ok(),
    NAME: &'static str = "ADDRESS:PORT"
);
kind!(HttpUrl -> String, "an address that starts with https:// or http://", http_url,
    NAME: &'static str = "URL"
);
/// What whoever connects will read, and no other reader's idea of it.
pub struct DatabaseUrl;

impl Kind for DatabaseUrl {
    type Out = Secret;
    const WORDS: &'static str =
        "a database's address such as postgres://user:password@host/database";
    const CONCEAL: Conceal = Conceal::Password;
    const NAME: &'static str = "URL";

    fn parse(text: &str) -> Option<Secret> {
        let is_good = walcast_source::Database::parse(text).is_ok();
        is_good.then(|| Secret::new(text))
    }

    fn reason(text: &str) -> Option<String> {
        match walcast_source::Database::parse(text) {
            Err(walcast_source::SourceError::Url(reason)) => Some(reason),
            _ => None,
        }
    }
}

kind!(SecretText -> Secret, "a secret of at least 32 bytes (make one with `openssl rand -base64 48`)",
    |text| (text.len() >= walcast_auth::SECRET_BYTES_MIN).then(|| Secret::new(text)),
    CONCEAL: Conceal = Conceal::Everything,
    NAME: &'static str = "SECRET"
);
kind!(Keys -> Secret, "a list such as sb_publishable_x=anon,sb_secret_y=service_role",
    |text| items(text).all(|item| item.contains('=')).then(|| Secret::new(text)),
    CONCEAL: Conceal = Conceal::Everything,
    NAME: &'static str = "KEY=ROLE,…"
);
kind!(Identifier -> String, "a name of 1 to 63 bytes", |text| {
    let is_good = !text.is_empty() && text.len() <= 63 && !text.contains('\0');
    is_good.then(|| text.to_owned())
});
kind!(Slot -> String, "a slot's name of a-z, 0-9 and _, at most 63", |text| {
    let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (!text.is_empty() && text.len() <= 63 && text.chars().all(is_good)).then(|| text.to_owned())
});
kind!(Role -> String, "a role's name (not none, not pg_…, at most 63 bytes)",
    |text| walcast_auth::is_usable_role(text).then(|| text.to_owned()));
kind!(RoleOrNothing -> Option<String>, "a role's name (not none, not pg_…, at most 63 bytes), or empty",
    |text| if text.is_empty() { Some(None) } else { Role::parse(text).map(Some) });
kind!(Roles -> Vec<String>, "a list of roles' names (not none, not pg_…, at most 63 bytes)",
    |text| items(text).map(Role::parse).collect(), TOML: Toml = Toml::Array,
    NAME: &'static str = "A,B"
);
kind!(Origins -> Vec<String>, "a list of origins such as https://app.example.com, or *",
    |text| items(text).map(origin).collect(), TOML: Toml = Toml::Array,
    NAME: &'static str = "A,B"
);
kind!(Networks -> Vec<Network>, "a list of networks such as 10.0.0.0/8 or fd00::/8",
    |text| items(text).map(Network::parse).collect(), TOML: Toml = Toml::Array,
    NAME: &'static str = "A,B"
);
kind!(LogFilter -> String, "a log filter such as info or info,walcast_rls=debug", |text| {
    let is_good = tracing_subscriber::EnvFilter::builder().parse(text).is_ok();
    (is_good && !text.is_empty()).then(|| text.to_owned())
});

/// An enum whose values have one word each.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident, $words:literal, $($(#[$variant_doc:meta])* $text:literal => $variant:ident,)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)+
        }
        impl Kind for $name {
            type Out = $name;
            const WORDS: &'static str = $words;
            fn parse(text: &str) -> Option<$name> {
                match text {
                    $($text => Some($name::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

choice! {
    /// How long the replication slot lives.
    SlotMode, "durable or temporary",
    /// Over restarts of both sides; holds back WAL while walcast is away.
    "durable" => Durable,
    /// As long as the connection; each reconnect is a gap.
    "temporary" => Temporary,
}
choice! {
    /// What to do with a slot that Postgres has invalidated.
    LostSlotAction, "recreate or wait",
    /// Drop it, create it anew and tell clients of the gap.
    "recreate" => Recreate,
    /// Wait, loudly, until an operator drops it.
    "wait" => Wait,
}
choice! {
    /// What happens to a connection when its token's time is over.
    ExpiredTokenAction, "close or downgrade",
    "close" => Close,
    /// Goes on as an anonymous visitor.
    "downgrade" => Downgrade,
}
choice! {
    /// How logs are written.
    LogFormat, "text or json",
    "text" => Text,
    "json" => Json,
}

/// The parts of a list between commas, without white space and empty ones.
pub(super) fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Digits only: `+5` and `1_000` would be two more ways to write the same.
fn whole(text: &str) -> Option<usize> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
}

/// A number and its unit; the unit must be there, and the result must not be zero.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*factor)
        .filter(|n| *n > 0)
}

/// At most 365 days: nothing here waits longer, and timers overflow far beyond.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let day = 86_400_000;
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", day),
    ];
    with_unit(text, &units)
        .filter(|ms| *ms <= 365 * day)
        .map(Duration::from_millis)
}

fn size(text: &str) -> Option<usize> {
    let units = [
        ("B", 1),
        ("KiB", 1 << 10),
        ("MiB", 1 << 20),
        ("GiB", 1 << 30),
    ];
    usize::try_from(with_unit(text, &units)?).ok()
}

fn http_url(text: &str) -> Option<String> {
    let uri: http::Uri = text.parse().ok()?;
    let is_web = matches!(uri.scheme_str(), Some("https" | "http"));
    let has_login = uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'));
    (is_web && !has_login).then(|| text.to_owned())
}

/// Scheme, host and port as a browser's `Origin` header has them: no path, not even a slash.
fn origin(text: &str) -> Option<String> {
    if text == "*" {
        return Some(text.to_owned());
    }
    let (scheme, host) = text.split_once("://")?;
    let is_good =
        !scheme.is_empty() && !host.is_empty() && !host.contains(['/', '?', '#', '@', ' ', '*']);
    is_good.then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_have_units() {
        let cases: &[(&str, Option<u64>)] = &[
            ("500ms", Some(500)),
            ("30s", Some(30_000)),
            ("30 s", Some(30_000)),
            ("5m", Some(300_000)),
            ("1h", Some(3_600_000)),
            ("365d", Some(31_536_000_000)),
            ("366d", None),
            ("30", None),
            ("0s", None),
            ("-1s", None),
            ("1.5s", None),
            ("s", None),
            ("", None),
            ("18446744073709551615h", None),
            ("99999999999999999999s", None),
            ("30S", None),
        ];
        for (text, expected) in cases {
            assert_eq!(
                duration(text),
                expected.map(Duration::from_millis),
                "{text}"
            );
        }
        let sizes = [
            ("512B", Some(512)),
            ("64KiB", Some(65_536)),
            ("1MiB", Some(1 << 20)),
            ("1MB", None),
            ("1024", None),
        ];
        for (text, expected) in sizes {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn origins_are_as_browsers_send_them() {
        let cases = [
            ("https://app.example.com", true),
            ("http://localhost:5173", true),
            ("capacitor://localhost", true),
            ("*", true),
            ("https://app.example.com/", false),
            ("app.example.com", false),
            ("https://*.example.com", false),
            ("https://", false),
            ("null", false),
        ];
        for (text, expected) in cases {
            assert_eq!(origin(text).is_some(), expected, "{text}");
        }
    }
}
