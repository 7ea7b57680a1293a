//! Broadcast and presence channels: what a client asks of them, and what it is answered.

use bytes::Bytes;
use serde_json::json;
use walcast_hub::{ChannelError, Message};

use super::{Native, write_value};
use crate::{Code, Reference, Refusal};

/// A channel that is no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    pub kind: ChannelKind,
    /// As the client wrote it.
    pub name: String,
}

/// What a channel tells of its topic. Both kinds of one name are one topic of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ChannelKind {
    /// `broadcast:{topic}`
    Broadcast,
    /// `presence:{topic}`
    Presence,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ChannelCommand {
    Join(Join),
    Broadcast(Broadcast),
    /// Be present, or say something else.
    Track {
        channel: Channel,
        /// Instead of the key that was given when joining.
        key: Option<String>,
        /// A JSON object.
        state: Bytes,
        reference: Option<Reference>,
    },
    /// Be present no more.
    Untrack {
        channel: Channel,
        reference: Option<Reference>,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Join {
    pub channel: Channel,
    /// Which of the styles its events are written in: [`walcast_hub::Class::format`].
    pub format: u8,
    /// It wants to hear its own broadcasts.
    pub own: bool,
    /// It wants to be told that its broadcasts were taken.
    pub acknowledged: bool,
    /// Who may join is for row-level security to say.
    pub private: bool,
    /// Under which it will be present.
    pub key: Option<String>,
    pub reference: Option<Reference>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast {
    pub channel: Channel,
    pub message: Message,
    /// It wants to be told that this was taken, whatever it said when joining.
    pub reference: Option<Reference>,
}

/// A command was carried out.
#[derive(Clone, Copy, Debug)]
pub enum ChannelAcknowledgement<'a> {
    /// What is sent to the topic from now on is told. `key` is the one under which it will be
    /// present unless it names another.
    Joined {
        channel: &'a Channel,
        key: Option<&'a str>,
    },
    /// It is in the outboxes of all members.
    Sent(&'a Channel),
    /// It is present under this key; everybody has been told.
    Tracked(&'a Channel, &'a str),
    Untracked(&'a Channel),
}

impl Channel {
    /// `broadcast:{topic}` or `presence:{topic}`; `None` if it is neither.
    pub fn parse(name: &str) -> Option<Channel> {
        let kind = match name.split_once(':')?.0 {
            "broadcast" => ChannelKind::Broadcast,
            "presence" => ChannelKind::Presence,
            _ => return None,
        };
        let name = name.to_owned();
        Some(Channel { kind, name })
    }

    /// The topic of the hub.
    pub fn topic(&self) -> &str {
        let parts = self.name.split_once(':');
        parts.map_or(&*self.name, |(_, topic)| topic)
    }
}

impl Native {
    /// Appends one message: an answer, with the client's reference if it gave one.
    pub fn channel_acknowledgement(
        &self,
        acknowledgement: &ChannelAcknowledgement<'_>,
        reference: Option<&Reference>,
        out: &mut Vec<u8>,
    ) {
        let (channel, status, payload) = match *acknowledgement {
            ChannelAcknowledgement::Joined { channel, key } => {
                let mut payload = json!({ "subscribed": true, "channel": channel.name });
                if let Some(key) = key {
                    payload["key"] = key.into();
                }
                (channel, "subscribed", payload)
            }
            ChannelAcknowledgement::Sent(channel) => (channel, "ok", json!({ "status": "ok" })),
            ChannelAcknowledgement::Tracked(channel, key) => {
                (channel, "tracked", json!({ "key": key }))
            }
            ChannelAcknowledgement::Untracked(channel) => (channel, "untracked", json!({})),
        };
        let mut value = json!({
            "type": "ack", "channel": channel.name, "status": status, "payload": payload,
        });
        if let Some(reference) = reference {
            reference.put_into(&mut value);
            // The Fluxbase server has it here, its SDK looks for it there.
            if let Reference::MessageId(_) = reference {
                reference.put_into(&mut value["payload"]);
            }
        }
        write_value(&value, out);
    }
}

impl From<ChannelError> for Refusal {
    fn from(error: ChannelError) -> Refusal {
        let code = match error {
            ChannelError::Name => Code::InvalidChannel,
            ChannelError::Limit {
                name: "topic_bytes_max",
                ..
            } => Code::InvalidChannel,
            _ => Code::RateLimited,
        };
        Refusal::new(code, error.to_string())
    }
}
