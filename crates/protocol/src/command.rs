//! What a client asks for, whatever its dialect.

use walcast_change::{Numbers, Position};
use walcast_hub::{Events, Filter, Target};

use crate::{ChannelCommand, Code, Refusal};

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    Subscribe(Subscribe),
    /// Ends the subscription named by its id, else all of the channel, else all of them.
    Unsubscribe {
        channel: Option<String>,
        subscription: Option<u64>,
    },
    /// A new token for this connection.
    AccessToken {
        token: String,
    },
    /// About a broadcast or presence channel.
    Channel(ChannelCommand),
    /// To be answered.
    Ping,
    /// Not to be answered; it only shows that the client lives.
    Heartbeat,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// As the client wrote it.
    pub channel: String,
    pub target: Target,
    pub events: Events,
    pub filter: Option<Filter>,
    /// Which of the dialect's styles its events are written in.
    pub style: u8,
    /// How `int8` and `numeric` stand in them; `None`: as the connection asked, else as numbers.
    pub numbers: Option<Numbers>,
    pub start: Start,
}

/// Where a subscription begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what is committed from now on.
    #[default]
    Now,
    /// With what came after this, as far as it is still there.
    Since(Position),
    /// With the rows that are there now.
    Snapshot,
}

/// The longest channel name, in bytes: two quoted names of 63 characters fit.
const CHANNEL_BYTES_MAX: usize = 640;

/// The tables that `table:schema.table`, `table:table` (schema `public`) or `table:schema.*` mean.
/// A name that holds dots or quotes is written in double quotes, as in SQL; names are taken as
/// they are, without folding to lower case.
pub fn parse_channel(channel: &str) -> Result<Target, Refusal> {
    if channel.len() > CHANNEL_BYTES_MAX {
        let text = format!("the channel name is longer than {CHANNEL_BYTES_MAX} bytes");
        return Err(Refusal::new(Code::InvalidChannel, text));
    }
    let refuse = |text: &str| Refusal::new(Code::InvalidChannel, text).on(channel);
    let Some((kind, name)) = channel.split_once(':') else {
        return Err(refuse(FORMS));
    };
    match kind {
        "table" => {}
        "broadcast" | "presence" => {
            return Err(refuse("a broadcast or presence channel has no table"));
        }
        _ => return Err(refuse(FORMS)),
    }
    let mut parts = names(name).ok_or_else(|| refuse(FORMS))?.into_iter();
    match (parts.next(), parts.next(), parts.next()) {
        (Some(Name::Is(table)), None, None) => Ok(target("public", Some(table))),
        (Some(Name::Is(schema)), Some(Name::Is(table)), None) => Ok(target(&schema, Some(table))),
        (Some(Name::Is(schema)), Some(Name::Any), None) => Ok(target(&schema, None)),
        _ => Err(refuse(FORMS)),
    }
}

const FORMS: &str = "unknown channel form; use table:schema.table, table:table, table:schema.*, broadcast:topic or presence:topic";

fn target(schema: &str, table: Option<String>) -> Target {
    Target {
        schema: schema.into(),
        table: table.map(Into::into),
    }
}

enum Name {
    Any,
    Is(String),
}

/// The parts of `a.b`, each plain, quoted or `*`; `None` if it is malformed.
fn names(text: &str) -> Option<Vec<Name>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = name(rest)?;
        parts.push(name);
        match after.strip_prefix('.') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

fn name(text: &str) -> Option<(Name, &str)> {
    let Some(mut rest) = text.strip_prefix('"') else {
        let end = text.find('.').unwrap_or(text.len());
        let (plain, after) = text.split_at(end);
        let well_formed =
            !plain.is_empty() && !plain.contains(|c: char| c == '"' || c.is_control());
        let name = if plain == "*" {
            Name::Any
        } else {
            Name::Is(plain.to_owned())
        };
        return well_formed.then_some((name, after));
    };
    let mut name = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        name.push_str(part);
        match after.strip_prefix('"') {
            Some(more) => {
                name.push('"');
                rest = more;
            }
            None if name.is_empty() || name.contains('\0') => return None,
            None => return Some((Name::Is(name), after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels() {
        for (channel, schema, table) in [
            ("table:public.users", "public", Some("users")),
            ("table:users", "public", Some("users")),
            ("table:app.*", "app", None),
            ("table:Üsers", "public", Some("Üsers")),
            ("table:\"My Schema\".\"a.b\"", "My Schema", Some("a.b")),
            ("table:\"q\"\"q\"", "public", Some("q\"q")),
            ("table:\"*\"", "public", Some("*")),
        ] {
            let expected = target(schema, table.map(str::to_owned));
            assert_eq!(parse_channel(channel), Ok(expected), "{channel}");
        }
    }

    #[test]
    fn bad_channels() {
        let long = format!("table:{}", "x".repeat(CHANNEL_BYTES_MAX));
        for channel in [
            "",
            "users",
            "table",
            "table:",
            "table:.",
            "table:a.",
            "table:.b",
            "table:a.b.c",
            "table:*",
            "table:*.a",
            "table:\"a",
            "table:\"a\"b",
            "table:\"\"",
            "table:a\"b",
            "table:a\nb",
            "nope:x",
            "broadcast:x",
            "presence:x",
            "TABLE:x",
            "table:\"a\0\"",
            &long,
        ] {
            let refusal = parse_channel(channel).expect_err(channel);
            assert_eq!(refusal.code, Code::InvalidChannel, "{channel}");
        }
    }
}
