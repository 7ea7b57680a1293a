//! Every setting, once.

use std::collections::BTreeMap;

use super::error::{Problem, SettingsError};
use super::kind::{
    Address, Count, DatabaseUrl, ExpiredTokenAction, FilePath, FolderOrNothing, HttpUrl,
    Identifier, Keys, Kind, KindInfo, Limit, LogFilter, LogFormat, LostSlotAction, Networks,
    Origins, Role, RoleOrNothing, Roles, SecretText, Size, Slot, SlotMode, Span, Switch, Texts,
};
use super::layer::Given;

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Setting {
    pub(crate) name: &'static str,
    pub(crate) group: &'static str,
    /// Lines as in the source, each with a space in front.
    doc: &'static str,
    pub(crate) default: Option<&'static str>,
    pub(crate) kind: KindInfo,
}

impl Setting {
    pub(crate) fn doc(&self) -> String {
        self.doc
            .lines()
            .map(str::trim)
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Secrets have a second name, for a file that holds the secret.
    pub(crate) fn file_name(&self) -> Option<String> {
        self.kind.is_secret().then(|| format!("{}_file", self.name))
    }
}

/// The setting of that name, and whether the name is that of a secret's file.
pub(crate) fn setting_named(name: &str) -> Option<(&'static Setting, bool)> {
    let plain = TABLE.iter().find(|setting| setting.name == name);
    let of_file = || {
        TABLE
            .iter()
            .find(|setting| setting.file_name().is_some_and(|file| file == name))
    };
    plain
        .map(|setting| (setting, false))
        .or_else(|| of_file().map(|setting| (setting, true)))
}

pub(crate) fn known_names() -> impl Iterator<Item = String> {
    TABLE
        .iter()
        .flat_map(|setting| [Some(setting.name.to_owned()), setting.file_name()])
        .flatten()
}

fn read_one<K: Kind>(
    name: &'static str,
    given: &BTreeMap<&'static str, Given>,
    problems: &mut Vec<Problem>,
) -> Option<K::Out> {
    let found = given.get(name)?;
    let value = K::parse(&found.text);
    if value.is_none() {
        let kind = KindInfo::of::<K>();
        let not = if kind.is_secret() {
            String::new()
        } else {
            format!(", not {:?}", found.text)
        };
        let why = K::reason(&found.text).map_or(String::new(), |reason| format!(": {reason}"));
        problems.push(Problem::at(
            &found.origin,
            format!("{name} must be {}{not}{why}", K::WORDS),
        ));
    }
    value
}

/// A setting with a default has a value; one without may have none.
macro_rules! field_type {
    ($kind:ident) => { Option<<$kind as Kind>::Out> };
    ($kind:ident $default:literal) => { <$kind as Kind>::Out };
}
macro_rules! field_value {
    ($value:expr, $kind:ident) => {
        Some($value)
    };
    ($value:expr, $kind:ident $default:literal) => {
        $value
    };
}
macro_rules! default_text {
    () => {
        None
    };
    ($default:literal) => {
        Some($default)
    };
}

macro_rules! settings {
    ($([$group:literal] $($(#[doc = $doc:literal])+ $name:ident: $kind:ident $(= $default:literal)?;)+)+) => {
        pub(crate) const TABLE: &[Setting] = &[$($(Setting {
            name: stringify!($name),
            group: $group,
            doc: concat!($($doc, "\n"),+),
            default: default_text!($($default)?),
            kind: KindInfo::of::<$kind>(),
        },)+)+];

        /// The settings as they are used. Made by [`super::Settings::config`].
        #[derive(Debug, Clone)]
        #[non_exhaustive]
        pub struct Config {
            $($($(#[doc = $doc])+ pub $name: field_type!($kind $($default)?),)+)+
        }

        impl Config {
            /// Each value by its kind's rule alone.
            pub(crate) fn read(given: &BTreeMap<&'static str, Given>) -> Result<Self, SettingsError> {
                let mut problems = Vec::new();
                $($(let $name = read_one::<$kind>(stringify!($name), given, &mut problems);)+)+
                let config = || Some(Self { $($($name: field_value!($name, $kind $($default)?)?,)+)+ });
                SettingsError::unless_empty(problems)?;
                Ok(config().expect("every default is valid, and what was given has been read"))
            }
        }
    };
}

settings! {
    ["Database"]
    /// The database to stream from; the login needs REPLICATION. Also read from `DATABASE_URL`.
    database_url: DatabaseUrl;
    /// The login that checks row-level security: a member of the application's roles and nothing else
    /// (no superuser, no BYPASSRLS, no REPLICATION). Without it `database_url` is used, which `walcast doctor`
    /// will tell you to change.
    rls_database_url: DatabaseUrl;
    /// The publication that names the tables to stream.
    publication: Identifier = "realtime";
    /// The logical replication slot; two servers of one database need two.
    slot_name: Slot = "walcast";
    /// `durable` keeps what happens while walcast is away (and holds back WAL as long); `temporary` leaves nothing
    /// behind and loses it.
    slot_mode: SlotMode = "durable";
    /// What to do with a slot that Postgres has invalidated: `recreate` it and tell clients of the gap, or `wait`
    /// for an operator.
    lost_slot_action: LostSlotAction = "recreate";
    /// Applies pending migrations before serving. Off: `walcast migrate` does it.
    migrate_on_start: Switch = "true";
    /// How much WAL the slot may hold back before it is worth a warning at half of it. Without it:
    /// `max_slot_wal_keep_size` of Postgres.
    wal_budget: Size;
    /// The largest single change that is read; a larger one stops the stream for an operator to decide.
    change_bytes_max: Size = "64MiB";
    /// The most changes that are checked and delivered together.
    batch_changes_max: Count = "1024";
    /// The most bytes of changes that are checked and delivered together.
    batch_bytes_max: Size = "4MiB";

    ["Change log"]
    /// Where changes are kept for clients that come back; made if it is not there. Postgres is told to forget a change
    /// only once it is on this disk. `off`: nothing is kept, so there are no snapshots, a client that comes back has to
    /// read its tables again, and what was on its way when walcast crashed is lost.
    log_dir: FolderOrNothing = "walcast-log";
    /// How long changes are kept.
    log_age_max: Span = "10m";
    /// How much the kept changes may take on disk; the oldest go first.
    log_bytes_max: Size = "1GiB";

    ["Snapshots"]
    /// Snapshots that are read at the same time, each on a connection of its own; others wait.
    snapshots_max: Count = "4";
    /// The most rows that one snapshot may have.
    snapshot_rows_max: Count = "1000000";
    /// The most that the values of one snapshot may take.
    snapshot_bytes_max: Size = "1GiB";
    /// The longest that one snapshot may take, with the time that it waits and that its client takes to read it.
    snapshot_timeout: Span = "5m";

    ["Row-level security"]
    /// The longest that one check may take in Postgres; then its rows count as not visible.
    rls_statement_timeout: Span = "2s";
    /// Connections that check in parallel.
    rls_connections: Count = "2";

    ["Messages"]
    /// How long messages that SQL has sent to channels stay in `realtime.messages`, where private channels replay
    /// them from.
    messages_retention: Span = "72h";

    ["Network"]
    /// Where to listen. From other machines: `0.0.0.0:8080` or `[::]:8080`.
    listen: Address = "127.0.0.1:8080";
    /// Certificate chain as PEM; with `tls_key` the port speaks TLS only.
    tls_cert: FilePath;
    /// The certificate's private key as PEM.
    tls_key: FilePath;
    /// Which web pages may connect, by the browser's `Origin`. Any by default: a connection is worth what its token
    /// is worth, no cookie is ever read. Name your pages when `anonymous` is on in a private network: else any page that
    /// somebody inside looks at can connect. Programs that send no `Origin` are not affected.
    allowed_origins: Origins = "*";
    /// Proxies whose `X-Forwarded-For` is believed, for the limit per address. None by default: anybody could write
    /// that header.
    trusted_proxies: Networks = "";
    /// Serves the page at `/`.
    page: Switch = "true";
    /// A JSON file with users and tokens that the page offers for trying out. Everybody who can read the page can
    /// use them.
    sample_users_file: FilePath;

    ["Tokens"]
    /// Secret of HS256, HS384 and HS512 tokens, at least 32 bytes.
    jwt_secret: SecretText;
    /// The secret before the last rotation, accepted until you remove it.
    jwt_previous_secret: SecretText;
    /// Public keys as PEM, one or more, for RS, PS, ES and EdDSA tokens.
    jwt_public_key_file: FilePath;
    /// Where the issuer publishes its keys (`…/.well-known/jwks.json`).
    jwks_url: HttpUrl;
    /// PEM certificates to trust for `jwks_url` instead of the public authorities.
    jwks_ca_file: FilePath;
    /// A JWK set in a file, read again at every `jwks_refresh_interval`.
    jwks_file: FilePath;
    /// How often the JWK set is read again. A token with an unknown key asks for it at once, at most every 30 seconds.
    jwks_refresh_interval: Span = "10m";
    /// Accepted audiences; if any is given, `aud` must name one.
    jwt_audience: Texts = "";
    /// Accepted issuers; if any is given, `iss` must be one.
    jwt_issuer: Texts = "";
    /// The claim with the role, or a path such as `app_metadata.role`.
    jwt_role_claim: Identifier = "role";
    /// The role of a token without that claim. Empty: such a token is refused.
    jwt_default_role: RoleOrNothing = "authenticated";
    /// Refuses tokens without `exp`.
    jwt_require_exp: Switch = "true";
    /// How far the clocks of issuer and server may differ.
    jwt_leeway: Span = "30s";
    /// The longest token.
    jwt_bytes_max: Size = "8KiB";
    /// The roles that a token may name.
    allowed_roles: Roles = "anon,authenticated,service_role";
    /// Lets in who has no token, as `anonymous_role`. Off by default: who may see something is to be decided, not
    /// to be forgotten.
    anonymous: Switch = "false";
    /// The role without a token.
    anonymous_role: Role = "anon";
    /// When a token's time is over: `close` the connection, or `downgrade` it to anonymous (needs `anonymous`).
    expired_token_action: ExpiredTokenAction = "close";
    /// How long before that the client is warned.
    token_expiry_warning: Span = "60s";

    ["Limits"]
    /// Open connections in all. At most 16 KiB each when idle: 10,000 fit into a machine with 512 MiB, and into
    /// the open files that systemd and Docker allow.
    connections_max: Limit = "10000";
    /// Open connections of one user (`sub`).
    connections_per_user_max: Limit = "10";
    /// Open connections from one address. An office or a mobile network may share one.
    connections_per_address_max: Limit = "100";
    /// Subscriptions of one connection.
    subscriptions_per_connection_max: Count = "100";
    /// Messages that a client may send per minute.
    messages_per_minute_max: Limit = "100";
    /// The longest message that a client may send.
    message_bytes_max: Size = "64KiB";
    /// What may wait for a slow client; beyond it the connection is closed with a code that says so. As much again may
    /// wait for the moment in which its subscriptions, having been caught up, become live.
    outbox_bytes_max: Size = "1MiB";

    ["Channels"]
    /// Topics of broadcast and presence that have members, in all.
    topics_max: Limit = "1000000";
    /// Broadcast and presence channels that one connection may join.
    channels_per_connection_max: Limit = "100";
    /// Members of one topic.
    members_per_topic_max: Limit = "0";
    /// The longest name of a topic.
    topic_bytes_max: Size = "255B";
    /// The longest name of a broadcast's event.
    event_bytes_max: Size = "255B";
    /// The longest payload of a broadcast. Over a socket, `message_bytes_max` or `supabase_message_bytes_max` counts as
    /// well.
    broadcast_bytes_max: Size = "3000KiB";
    /// The longest key of a presence.
    presence_key_bytes_max: Size = "255B";
    /// What one connection may say of itself in a presence channel.
    presence_meta_bytes_max: Size = "16KiB";
    /// Keys that are present in one topic.
    presence_keys_per_topic_max: Limit = "10000";
    /// Connections that are present in one topic.
    presence_metas_per_topic_max: Limit = "10000";
    /// All that is present in one topic. Who joins gets it in one piece: keep it below `outbox_bytes_max`.
    presence_bytes_per_topic_max: Size = "512KiB";

    ["Supabase"]
    /// What the API keys `sb_publishable_…` and `sb_secret_…` of Supabase's clients stand for: `KEY=ROLE`, with one of
    /// `allowed_roles`, or `KEY=JWT`; several with commas between. A JWT as key needs no setting.
    api_keys: Keys;
    /// Only private channels may be joined.
    supabase_private_only: Switch = "false";
    /// Ends channels as Supabase's server does: with `phx_close`, after which clients never come back by themselves.
    /// Otherwise they do where joining again helps: after an expired token, a limit, a database that was away.
    supabase_close_for_good: Switch = "false";
    /// The longest frame that a client may send in this protocol, and the longest body of a broadcast over HTTP.
    supabase_message_bytes_max: Size = "5MiB";
    /// Channels that one connection may join per second, on average over ten.
    supabase_joins_per_second_max: Limit = "100";
    /// Messages that one connection may send per second, on average over ten.
    supabase_messages_per_second_max: Limit = "100";
    /// How often one connection may change its presence in a channel in each `supabase_presence_calls_window`.
    supabase_presence_calls_max: Limit = "5";
    /// See `supabase_presence_calls_max`.
    supabase_presence_calls_window: Span = "30s";
    /// The `postgres_changes` of all channels of one connection.
    supabase_bindings_per_connection_max: Limit = "1000";
    /// Broadcasts over HTTP from one address per second, on average over ten.
    http_broadcasts_per_second_max: Limit = "1000";

    ["Times"]
    /// A connection from which nothing came for so long, not even a pong, is closed.
    idle_timeout: Span = "120s";
    /// How often a silent client is pinged.
    ping_interval: Span = "30s";
    /// The longest that one write to a client may stand still.
    write_timeout: Span = "10s";
    /// The longest that a client may take to send its request (and for TLS).
    handshake_timeout: Span = "10s";
    /// How long a shutdown waits for connections to end.
    shutdown_timeout: Span = "30s";

    ["Logs"]
    /// `text` for people, `json` for machines.
    log_format: LogFormat = "text";
    /// `error`, `warn`, `info`, `debug` or `trace`, also for single parts: `info,walcast_rls=debug`.
    log_level: LogFilter = "info";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_valid() {
        let given = super::super::layer::resolve(&[], &mut Vec::new());
        assert!(Config::read(&given).is_ok());
    }

    #[test]
    fn names_are_different() {
        let mut names: Vec<String> = known_names().collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
