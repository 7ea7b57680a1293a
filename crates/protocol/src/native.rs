//! The native protocol: JSON messages with a `type`. Documented in `proto-docs/native.md`.

mod broadcast;
mod channel;
mod event;
mod incoming;
mod presence;
mod style;
mod words;

pub use channel::{Broadcast, Channel, ChannelAcknowledgement, ChannelCommand, ChannelKind, Join};
pub use style::{UnknownNumbers, parse_numbers};

use walcast_change::Numbers;
use walcast_hub::Closing;

use crate::{Acknowledgement, Codec, Command, Delivery, Notice, Refusal, SnapshotRows, Start};

/// `{"type":"broadcast","channel":…,"payload":{change}}`.
const BROADCAST: u8 = 0;
/// `{"type":"postgres_changes",…}`, for clients that subscribe with a `config` object.
const POSTGRES_CHANGES: u8 = 1;

/// The native dialect.
#[derive(Clone, Copy, Debug, Default)]
pub struct Native;

impl Codec for Native {
    fn decode(&self, message: &[u8]) -> Result<Command, Refusal> {
        incoming::decode(message)
    }

    fn delivery(&self, delivery: &Delivery<'_>, out: &mut Vec<u8>) {
        event::write(delivery, out);
    }

    fn acknowledgement(&self, acknowledgement: &Acknowledgement<'_>, out: &mut Vec<u8>) {
        let value = match acknowledgement {
            Acknowledgement::Subscribed {
                id,
                subscribe,
                position,
            } => {
                let mut value = serde_json::json!({
                    "type": "ack",
                    "channel": subscribe.channel,
                    "status": "subscribed",
                    "subscription_id": id.to_string(),
                    "cursor": position.to_string(),
                    "payload": {
                        "subscribed": true,
                        "subscription_id": id.to_string(),
                        "schema": &*subscribe.target.schema,
                        "table": subscribe.target.table.as_deref().unwrap_or("*"),
                    },
                });
                match subscribe.start {
                    Start::Now => {}
                    Start::Since(_) => value["recovered"] = true.into(),
                    Start::Snapshot => value["snapshot"] = true.into(),
                }
                if subscribe.numbers == Some(Numbers::String) {
                    value["numbers"] = "string".into();
                }
                value
            }
            Acknowledgement::Unsubscribed { channel, id } => serde_json::json!({
                "type": "ack",
                "channel": channel,
                "status": "unsubscribed",
                "payload": {
                    "unsubscribed": true,
                    "subscription_id": id.map(|id| id.to_string()),
                },
            }),
            Acknowledgement::TokenAccepted => serde_json::json!({
                "type": "ack",
                "status": "updated",
                "payload": { "type": "access_token", "updated": true },
            }),
            Acknowledgement::Pong => serde_json::json!({ "type": "pong" }),
        };
        write_value(&value, out);
    }

    fn refusal(&self, refusal: &Refusal, out: &mut Vec<u8>) {
        let mut value = serde_json::json!({
            "type": "error",
            "code": refusal.code.as_str(),
            "message": refusal.message,
            "error": refusal.message,
        });
        if let Some(channel) = &refusal.channel {
            value["channel"] = channel.as_str().into();
        }
        if let Some(oldest) = &refusal.oldest {
            value["oldest"] = oldest.to_string().into();
        }
        if let Some(reference) = &refusal.reference {
            reference.put_into(&mut value);
        }
        write_value(&value, out);
    }

    fn snapshot(&self, snapshot: &SnapshotRows<'_>, out: &mut Vec<u8>) {
        event::write_snapshot(snapshot, out);
    }

    fn notice(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        let value = match notice {
            Notice::TokenExpiring { expires_at } => serde_json::json!({
                "type": "system", "event": "token_expiring", "expires_at": expires_at,
                "message": "the token expires soon; send a new one with access_token",
            }),
            Notice::Downgraded { role } => serde_json::json!({
                "type": "system", "event": "token_expired", "role": role,
                "message": "the token has expired; the connection goes on without it",
            }),
            Notice::Gap { reason } => serde_json::json!({
                "type": "system", "event": "gap", "reason": reason,
                "message": "changes were lost; read the tables again",
            }),
            Notice::CaughtUp {
                channel,
                id,
                position,
            } => serde_json::json!({
                "type": "system", "event": "caught_up", "channel": channel,
                "subscription_id": id.to_string(), "cursor": position.to_string(),
            }),
            Notice::SnapshotComplete {
                channel,
                id,
                rows,
                position,
            } => serde_json::json!({
                "type": "system", "event": "snapshot_complete", "channel": channel,
                "subscription_id": id.to_string(), "count": rows, "cursor": position.to_string(),
            }),
        };
        write_value(&value, out);
    }

    fn closing(&self, closing: Closing) -> (u16, &'static str) {
        match closing {
            Closing::Slow => (
                4008,
                "connection too slow; reconnect and go on from your last cursor",
            ),
            Closing::Shutdown => (1001, "server stops; reconnect"),
            Closing::Expired => (4001, "token refused or expired; reconnect with a new one"),
            Closing::Idle => (4002, "nothing heard for too long; send ping messages"),
            Closing::Unauthenticated => (4001, "no token in time"),
            Closing::Full => (4029, "too many connections"),
            Closing::Done => (1000, ""),
        }
    }
}

fn write_value(value: &serde_json::Value, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a value made of texts and numbers can be written");
}

#[cfg(test)]
mod tests;
