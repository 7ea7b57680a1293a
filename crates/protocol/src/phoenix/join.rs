//! What a client joins with.

use std::fmt;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::binding::{BINDINGS_MAX, settle};
use super::json::{array, is_object, object, present, string};
use super::{Binding, Token};

/// The payload of `phx_join`. Parts that are malformed have their defaults: a join is never
/// refused for its shape.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Join {
    pub broadcast: BroadcastConfig,
    pub presence: PresenceConfig,
    pub changes: ChangesConfig,
    pub private: bool,
    /// `user_token`, else `access_token`; without one, the socket's stays in force.
    pub token: Option<Token>,
    /// Without `config`, as clients joined years ago: the topic names the table, events are called
    /// INSERT, UPDATE and DELETE and have no ids.
    pub legacy: bool,
    /// For the log, under `InvalidJoinPayload`.
    pub malformed: Vec<Malformed>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BroadcastConfig {
    /// Broadcasts are answered.
    pub ack: bool,
    /// The sender hears its own.
    pub own: bool,
    /// Only private channels may ask for it; `Err` is what
    /// [`Reason::ReplayParams`](super::Reason::ReplayParams) answers.
    pub replay: Option<Result<Replay, ()>>,
    /// A `system` message is wanted once messages from the database will arrive.
    pub replication_ready: bool,
}

/// Messages that were stored, to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// Those of this time and later, in milliseconds since 1970.
    pub since_ms: i64,
    /// The newest so many: 1 to 25.
    pub limit: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresenceConfig {
    /// Never empty. Without one the server makes a unique one.
    pub key: Option<String>,
    /// The state is wanted after the join.
    pub enabled: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesConfig {
    /// In the order of the request, which is that of the answer.
    pub bindings: Vec<Binding>,
    /// The client asks that the answer waits until the bindings are live, and how long, in
    /// milliseconds.
    pub wait: bool,
    pub timeout_ms: Option<u64>,
}

/// A part of a join that is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// As in `config.broadcast.ack`.
    pub path: &'static str,
    pub expected: &'static str,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}", self.path, self.expected)
    }
}

const REPLAY_LIMIT_MAX: u8 = 25;

#[derive(Default, Deserialize)]
#[serde(default)]
struct Payload<'a> {
    #[serde(borrow, deserialize_with = "present")]
    config: Option<&'a RawValue>,
    #[serde(borrow)]
    access_token: Option<&'a RawValue>,
    #[serde(borrow)]
    user_token: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config<'a> {
    #[serde(borrow)]
    broadcast: Option<&'a RawValue>,
    #[serde(borrow)]
    presence: Option<&'a RawValue>,
    #[serde(borrow)]
    postgres_changes: Option<&'a RawValue>,
    #[serde(borrow)]
    postgres_changes_options: Option<&'a RawValue>,
    #[serde(borrow)]
    private: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Broadcast<'a> {
    #[serde(borrow)]
    ack: Option<&'a RawValue>,
    #[serde(borrow, rename = "self")]
    own: Option<&'a RawValue>,
    #[serde(borrow)]
    replay: Option<&'a RawValue>,
    #[serde(borrow)]
    replication_ready: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReplayFields<'a> {
    #[serde(borrow)]
    since: Option<&'a RawValue>,
    #[serde(borrow)]
    limit: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Presence<'a> {
    #[serde(borrow)]
    key: Option<&'a RawValue>,
    #[serde(borrow)]
    enabled: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Options<'a> {
    #[serde(borrow)]
    wait: Option<&'a RawValue>,
    #[serde(borrow)]
    timeout: Option<&'a RawValue>,
}

impl Join {
    pub(super) fn read(topic: &str, payload: &str) -> Join {
        let mut reader = Reader::default();
        let whole = object::<Payload<'_>>(payload);
        let no_map = whole.is_none();
        let payload = whole.unwrap_or_default();
        let config: Config<'_> = reader.map("config", payload.config);
        let user_token = reader.text("user_token", payload.user_token);
        let access_token = reader.text("access_token", payload.access_token);
        let legacy = payload.config.is_none() && !no_map;
        let changes = match legacy {
            true => ChangesConfig {
                bindings: vec![Binding::of_topic(
                    topic.strip_prefix("realtime:").unwrap_or(topic),
                )],
                ..ChangesConfig::default()
            },
            false => reader.changes(&config),
        };
        Join {
            broadcast: reader.broadcast(config.broadcast),
            presence: reader.presence(config.presence),
            changes,
            private: reader.boolean("config.private", config.private),
            token: user_token.or(access_token).and_then(Token::new),
            legacy,
            malformed: match no_map {
                true => vec![Malformed {
                    path: "payload",
                    expected: "a map",
                }],
                false => reader.malformed,
            },
        }
    }
}

/// Reads what it can and notes what it can't.
#[derive(Default)]
struct Reader {
    malformed: Vec<Malformed>,
}

impl Reader {
    fn note(&mut self, path: &'static str, expected: &'static str) {
        // An array may hold any number of bad entries; one note says it.
        let note = Malformed { path, expected };
        if !self.malformed.contains(&note) {
            self.malformed.push(note);
        }
    }

    fn map<'a, T: Deserialize<'a> + Default>(
        &mut self,
        path: &'static str,
        raw: Option<&'a RawValue>,
    ) -> T {
        let Some(raw) = raw.filter(|raw| raw.get() != "null") else {
            return T::default();
        };
        object(raw.get()).unwrap_or_else(|| {
            self.note(path, "a map");
            T::default()
        })
    }

    /// `true`, `false`, or either as a string in any case.
    fn boolean(&mut self, path: &'static str, raw: Option<&RawValue>) -> bool {
        let Some(raw) = raw else { return false };
        let text = string(raw).unwrap_or_else(|| raw.get().to_owned());
        match text.to_ascii_lowercase().as_str() {
            "true" => true,
            "false" => false,
            _ => {
                self.note(path, "a boolean");
                false
            }
        }
    }

    fn text(&mut self, path: &'static str, raw: Option<&RawValue>) -> Option<String> {
        let text = string(raw?);
        if text.is_none() {
            self.note(path, "a string");
        }
        text
    }

    fn broadcast(&mut self, raw: Option<&RawValue>) -> BroadcastConfig {
        let fields: Broadcast<'_> = self.map("config.broadcast", raw);
        BroadcastConfig {
            ack: self.boolean("config.broadcast.ack", fields.ack),
            own: self.boolean("config.broadcast.self", fields.own),
            replay: fields.replay.map(|raw| self.replay(raw)),
            replication_ready: self.boolean(
                "config.broadcast.replication_ready",
                fields.replication_ready,
            ),
        }
    }

    fn replay(&mut self, raw: &RawValue) -> Result<Replay, ()> {
        let fields: ReplayFields<'_> = self.map("config.broadcast.replay", Some(raw));
        let since = fields.since.map(|since| serde_json::from_str(since.get()));
        let limit: Option<Result<i64, _>> =
            fields.limit.map(|limit| serde_json::from_str(limit.get()));
        if let Some(Err(_)) = since {
            self.note("config.broadcast.replay.since", "an integer");
        }
        if let Some(Err(_)) = limit {
            self.note("config.broadcast.replay.limit", "an integer");
        }
        let limit = limit
            .unwrap_or(Ok(REPLAY_LIMIT_MAX.into()))
            .map_err(|_| ())?;
        Ok(Replay {
            since_ms: since.ok_or(())?.map_err(|_| ())?,
            limit: limit.clamp(1, REPLAY_LIMIT_MAX.into()) as u8,
        })
    }

    fn presence(&mut self, raw: Option<&RawValue>) -> PresenceConfig {
        let fields: Presence<'_> = self.map("config.presence", raw);
        // Any type will do as a key; what is no string stands for its JSON.
        let key = fields
            .key
            .map(|key| string(key).unwrap_or_else(|| key.get().to_owned()));
        PresenceConfig {
            key: key.filter(|key| !key.is_empty()),
            enabled: self.boolean("config.presence.enabled", fields.enabled),
        }
    }

    fn changes(&mut self, config: &Config<'_>) -> ChangesConfig {
        let options: Options<'_> = self.map(
            "config.postgres_changes_options",
            config.postgres_changes_options,
        );
        let timeout = options
            .timeout
            .map(|timeout| serde_json::from_str::<Value>(timeout.get()));
        let timeout_ms = timeout.and_then(|timeout| timeout.ok()?.as_u64());
        if options.timeout.is_some() && timeout_ms.is_none() {
            self.note("config.postgres_changes_options.timeout", "milliseconds");
        }
        ChangesConfig {
            bindings: self.bindings(config.postgres_changes),
            wait: self.boolean("config.postgres_changes_options.wait", options.wait),
            timeout_ms,
        }
    }

    fn bindings(&mut self, raw: Option<&RawValue>) -> Vec<Binding> {
        const PATH: &str = "config.postgres_changes";
        let Some(raw) = raw else { return Vec::new() };
        let Some((entries, count)) = array(raw.get(), BINDINGS_MAX) else {
            self.note(PATH, "an array of maps");
            return Vec::new();
        };
        if count > entries.len() {
            self.note(PATH, "fewer entries");
        }
        let mut bindings = Vec::new();
        for entry in entries.into_iter().filter(|entry| entry.get() != "null") {
            match Binding::read(entry.get()).filter(|_| is_object(entry)) {
                Some(binding) => bindings.push(binding),
                None => self.note(PATH, "an array of maps"),
            }
        }
        settle(&mut bindings);
        bindings
    }
}
