//! A client's message → [`Command`].

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use walcast_hub::{Events, Filter, Target};

use super::{BROADCAST, POSTGRES_CHANGES, parse_numbers, words};
use crate::{Code, Command, Refusal, Start, Subscribe, parse_channel};

#[derive(Deserialize)]
pub(super) struct Incoming<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    pub(super) channel: Option<String>,
    pub(super) event: Option<String>,
    events: Option<Vec<String>>,
    schema: Option<String>,
    table: Option<String>,
    filter: Option<String>,
    pub(super) config: Option<Config>,
    token: Option<String>,
    subscription_id: Option<IdText>,
    since: Option<String>,
    #[serde(default)]
    snapshot: bool,
    numbers: Option<String>,
    /// As it stands; what is in it is the business of those who get it.
    #[serde(borrow)]
    pub(super) payload: Option<&'a RawValue>,
    pub(super) encoding: Option<String>,
    pub(super) key: Option<String>,
    #[serde(borrow)]
    pub(super) state: Option<&'a RawValue>,
    #[serde(rename = "ref")]
    pub(super) reference: Option<Label>,
    #[serde(rename = "messageId")]
    pub(super) message_id: Option<Label>,
}

/// How the Fluxbase SDK names a table, or what a channel is to be like.
#[derive(Default, Deserialize)]
pub(super) struct Config {
    event: Option<String>,
    schema: Option<String>,
    pub(super) table: Option<String>,
    filter: Option<String>,
    #[serde(default, rename = "self")]
    pub(super) own: bool,
    #[serde(default)]
    pub(super) ack: bool,
    #[serde(default)]
    pub(super) private: bool,
    pub(super) key: Option<String>,
}

/// What a client calls its message.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Label {
    Text(String),
    Number(serde_json::Number),
}

/// We give ids as strings; a number is as good.
#[derive(Deserialize)]
#[serde(untagged)]
enum IdText {
    Text(String),
    Number(u64),
}

pub(super) fn decode(message: &[u8]) -> Result<Command, Refusal> {
    let incoming: Incoming<'_> = serde_json::from_slice(message).map_err(malformed)?;
    match &*incoming.kind {
        "subscribe" => match words::channel_of(&incoming) {
            Some(channel) => words::join(incoming, channel).map(Command::Channel),
            None => subscribe(incoming).map(Command::Subscribe),
        },
        "unsubscribe" => unsubscribe(incoming),
        "ping" => Ok(Command::Ping),
        "heartbeat" => Ok(Command::Heartbeat),
        "access_token" => match incoming.token {
            Some(token) => Ok(Command::AccessToken { token }),
            None => Err(invalid("token is required for access_token")),
        },
        "broadcast" => words::broadcast(incoming).map(Command::Channel),
        "presence" => words::presence(incoming).map(Command::Channel),
        _ => Err(invalid(
            "unknown message type (use subscribe, unsubscribe, broadcast, presence, access_token, ping or heartbeat)",
        )),
    }
}

fn subscribe(incoming: Incoming<'_>) -> Result<Subscribe, Refusal> {
    let start = start(&incoming)?;
    let channel = incoming.channel.unwrap_or_default();
    let (style, named) = match incoming.config {
        Some(config) => (POSTGRES_CHANGES, config),
        None => {
            let Incoming {
                event,
                schema,
                table,
                filter,
                ..
            } = incoming;
            (
                BROADCAST,
                Config {
                    event,
                    schema,
                    table,
                    filter,
                    ..Config::default()
                },
            )
        }
    };
    let target = match named.table {
        Some(table) => Target {
            schema: named.schema.as_deref().unwrap_or("public").into(),
            table: (table != "*").then(|| table.into()),
        },
        None => parse_channel(&channel)?,
    };
    if target.schema.len() > NAME_BYTES_MAX
        || target
            .table
            .as_ref()
            .is_some_and(|table| table.len() > NAME_BYTES_MAX)
        || channel.len() > CHANNEL_BYTES_MAX
    {
        return Err(Refusal::new(
            Code::InvalidChannel,
            "the channel or table name is too long",
        ));
    }
    let failed = |text: String| Refusal::new(Code::SubscriptionFailed, text).on(&*channel);
    let events = events(named.event, incoming.events).map_err(|text| failed(text.to_owned()))?;
    let numbers = incoming.numbers.as_deref().map(parse_numbers).transpose();
    let numbers = numbers.map_err(|error| failed(error.to_string()))?;
    let filter = named.filter.filter(|text| !text.is_empty());
    let filter = filter.map(|text| Filter::parse(&text)).transpose();
    let filter = filter.map_err(|error| failed(error.to_string()))?;
    if filter.is_some() && target.table.is_none() {
        return Err(failed(
            "a filter needs one table; schema.* has none".to_owned(),
        ));
    }
    Ok(Subscribe {
        channel,
        target,
        events,
        filter,
        style,
        numbers,
        start,
    })
}

fn start(incoming: &Incoming<'_>) -> Result<Start, Refusal> {
    let failed = |text: String| {
        let channel = incoming.channel.clone().unwrap_or_default();
        Refusal::new(Code::SubscriptionFailed, text).on(channel)
    };
    match (&incoming.since, incoming.snapshot) {
        (None, false) => Ok(Start::Now),
        (None, true) => Ok(Start::Snapshot),
        (Some(since), false) => match since.parse() {
            Ok(position) => Ok(Start::Since(position)),
            Err(error) => Err(failed(format!("since: {error}"))),
        },
        (Some(_), true) => Err(failed(
            "since and snapshot exclude each other: a snapshot begins anew".to_owned(),
        )),
    }
}

/// A name of 63 characters takes at most this many bytes.
const NAME_BYTES_MAX: usize = 252;
pub(super) const CHANNEL_BYTES_MAX: usize = 640;

fn events(one: Option<String>, many: Option<Vec<String>>) -> Result<Events, &'static str> {
    const UNKNOWN: &str = "unknown event (use *, INSERT, UPDATE, DELETE or TRUNCATE)";
    let names = one.into_iter().chain(many.into_iter().flatten());
    let mut events = Events::NONE;
    for name in names {
        events = events.union(Events::parse(&name).ok_or(UNKNOWN)?);
    }
    Ok(if events == Events::NONE {
        Events::ALL
    } else {
        events
    })
}

fn unsubscribe(incoming: Incoming<'_>) -> Result<Command, Refusal> {
    let subscription = match incoming.subscription_id {
        None => None,
        Some(IdText::Number(id)) => Some(id),
        Some(IdText::Text(text)) => Some(
            text.parse()
                .map_err(|_| invalid("subscription_id is not one of this server"))?,
        ),
    };
    Ok(Command::Unsubscribe {
        channel: incoming.channel,
        subscription,
    })
}

/// serde's text can quote the input; a client's own bytes are no secret from it, but the position
/// is all it needs.
pub(super) fn malformed(error: serde_json::Error) -> Refusal {
    use serde_json::error::Category;
    let column = error.column();
    match error.classify() {
        Category::Data => invalid(&format!(
            "the message is no object with a string `type`, or a field has the wrong type (near byte {column})"
        )),
        _ => invalid(&format!(
            "the message is no valid JSON (near byte {column})"
        )),
    }
}

pub(super) fn invalid(text: &str) -> Refusal {
    Refusal::new(Code::InvalidMessage, text)
}
