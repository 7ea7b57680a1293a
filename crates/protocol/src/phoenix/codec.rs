//! This dialect at the seam through which the pipeline writes.
//!
//! What is said to one client of its channels, joins and leaves above all, its session writes with
//! the functions of this module: it takes refs, which the seam does not know.

use walcast_change::Position;
use walcast_hub::Closing;

use super::{PostgresChange, Style, System, Version, write_change, write_system};
use crate::{Acknowledgement, Code, Codec, Command, Delivery, Notice, Refusal, SnapshotRows};

/// The formats 2 to 5: see [`Style`].
#[derive(Clone, Copy, Debug)]
pub struct Phoenix(pub Version);

/// The topic of what belongs to no channel; clients pass over messages on it.
const NO_CHANNEL: &str = "phoenix";

impl Codec for Phoenix {
    /// Messages of this dialect are read by [`decode_text`](super::decode_text).
    fn decode(&self, _message: &[u8]) -> Result<Command, Refusal> {
        let text = "messages of this protocol belong to channels";
        Err(Refusal::new(Code::InvalidMessage, text))
    }

    fn delivery(&self, delivery: &Delivery<'_>, out: &mut Vec<u8>) {
        let style = Style::of_format(delivery.format).unwrap_or(Style {
            version: self.0,
            legacy: false,
        });
        let change = PostgresChange {
            change: delivery.change,
            view: delivery.view,
            topic: delivery.channel,
            id: delivery.tag,
            position: Position {
                cursor: delivery.change.cursor,
                epoch: delivery.epoch,
            },
        };
        write_change(style, &change, out);
    }

    /// A session answers its client itself; this is what a client passes over.
    fn acknowledgement(&self, _acknowledgement: &Acknowledgement<'_>, out: &mut Vec<u8>) {
        self.say(NO_CHANNEL, &System::Subscribed, out);
    }

    /// Nobody can ask for one in this dialect.
    fn snapshot(&self, _snapshot: &SnapshotRows<'_>, out: &mut Vec<u8>) {
        self.say(NO_CHANNEL, &System::Subscribed, out);
    }

    fn refusal(&self, refusal: &Refusal, out: &mut Vec<u8>) {
        let reason = refusal.message.clone();
        let channel = refusal.channel.as_deref().unwrap_or(NO_CHANNEL);
        self.say(channel, &System::Retrying { reason }, out);
    }

    fn notice(&self, notice: &Notice<'_>, out: &mut Vec<u8>) {
        let (channel, reason) = match notice {
            Notice::CaughtUp { channel, .. } | Notice::SnapshotComplete { channel, .. } => {
                return self.say(channel, &System::Subscribed, out);
            }
            Notice::Gap { reason } => (
                NO_CHANNEL,
                format!("changes were lost ({reason}); read the tables again"),
            ),
            Notice::TokenExpiring { .. } => (NO_CHANNEL, "the token expires soon".to_owned()),
            Notice::Downgraded { .. } => (NO_CHANNEL, "the token has expired".to_owned()),
        };
        self.say(channel, &System::Retrying { reason }, out);
    }

    /// Clients connect again after every code.
    fn closing(&self, closing: Closing) -> (u16, &'static str) {
        match closing {
            Closing::Slow => (4008, "connection too slow"),
            Closing::Shutdown => (1012, "server stops"),
            Closing::Expired | Closing::Unauthenticated => (4001, "token refused or expired"),
            Closing::Idle => (4002, "no heartbeat"),
            Closing::Full => (4029, "too many connections"),
            Closing::Done => (1000, ""),
        }
    }
}

impl Phoenix {
    fn say(self, topic: &str, system: &System, out: &mut Vec<u8>) {
        write_system(self.0, None, topic, system, out);
    }
}
