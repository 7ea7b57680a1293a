//! The seam between what happens and how it is said.

use walcast_change::{Change, ColumnSet, Epoch, Position, Row};
use walcast_hub::{Closing, SubscriptionId, View};

use crate::phoenix::{Phoenix, Version};
use crate::{Command, Native, Refusal, Subscribe};

/// Who writes frames of a format (`Spec::format`).
pub fn codec_of(format: u8) -> &'static dyn Codec {
    match format {
        2 | 4 => &Phoenix(Version::V1),
        3 | 5 => &Phoenix(Version::V2),
        _ => &Native,
    }
}

/// One dialect. Writers append one message's payload to `out`.
pub trait Codec: Send + Sync {
    /// Reads one message of a client.
    fn decode(&self, message: &[u8]) -> Result<Command, Refusal>;

    /// Writes a change as the subscriptions of one group are to see it.
    fn delivery(&self, delivery: &Delivery<'_>, out: &mut Vec<u8>);

    fn acknowledgement(&self, acknowledgement: &Acknowledgement<'_>, out: &mut Vec<u8>);

    /// Writes rows of a snapshot.
    fn snapshot(&self, snapshot: &SnapshotRows<'_>, out: &mut Vec<u8>);

    fn refusal(&self, refusal: &Refusal, out: &mut Vec<u8>);

    fn notice(&self, notice: &Notice<'_>, out: &mut Vec<u8>);

    /// The WebSocket close code and reason for the end of a connection.
    fn closing(&self, closing: Closing) -> (u16, &'static str);
}

/// One change for one group of subscriptions.
#[derive(Debug)]
pub struct Delivery<'a> {
    pub change: &'a Change,
    pub view: &'a View,
    pub epoch: Epoch,
    pub channel: &'a str,
    /// What the subscription's spec says for the dialect.
    pub tag: u32,
    /// As the subscription asked for them: [`Subscribe::format`].
    pub format: u8,
}

/// Some of the rows that a subscriber may see, read before its changes begin.
#[derive(Debug)]
pub struct SnapshotRows<'a> {
    pub channel: &'a str,
    pub id: SubscriptionId,
    pub rows: &'a [Row],
    /// [`Delivery::format`]
    pub format: u8,
    /// What the subscriber may see of them.
    pub columns: &'a ColumnSet,
    /// How many have been sent, these included.
    pub sent: u64,
}

/// A command was carried out.
#[derive(Debug)]
pub enum Acknowledgement<'a> {
    /// The subscription is live: every row committed from now on is delivered. `position` is the
    /// last change that was published before it began.
    Subscribed {
        id: SubscriptionId,
        subscribe: &'a Subscribe,
        position: Position,
    },
    Unsubscribed {
        channel: Option<&'a str>,
        id: Option<SubscriptionId>,
    },
    TokenAccepted,
    Pong,
}

/// What the server says of itself.
#[derive(Debug)]
pub enum Notice<'a> {
    /// The token ends at this time, in seconds since 1970; send a new one before.
    TokenExpiring { expires_at: i64 },
    /// The token has expired and the connection goes on as this role.
    Downgraded { role: &'a str },
    /// Changes were lost between Postgres and the server: read the table again.
    Gap { reason: &'a str },
    /// All that was missed has been sent; from here on it is live.
    CaughtUp {
        channel: &'a str,
        id: SubscriptionId,
        position: Position,
    },
    /// All rows have been sent; from here on it is live.
    SnapshotComplete {
        channel: &'a str,
        id: SubscriptionId,
        rows: u64,
        position: Position,
    },
}
