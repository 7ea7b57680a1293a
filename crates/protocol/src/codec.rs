//! The seam between what happens and how it is said.

use walcast_change::{Change, Cursor};
use walcast_hub::{Closing, SubscriptionId, View};

use crate::{Command, Refusal, Subscribe};

/// One dialect. Writers append one message's payload to `out`.
pub trait Codec: Send + Sync {
    /// Reads one message of a client.
    fn decode(&self, message: &[u8]) -> Result<Command, Refusal>;

    /// Writes a change as the subscriptions of one group are to see it.
    fn delivery(&self, delivery: &Delivery<'_>, out: &mut Vec<u8>);

    fn acknowledgement(&self, acknowledgement: &Acknowledgement<'_>, out: &mut Vec<u8>);

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
    pub channel: &'a str,
    /// The style that the subscription asked for: [`Subscribe::format`].
    pub format: u8,
}

/// A command was carried out.
#[derive(Debug)]
pub enum Acknowledgement<'a> {
    /// The subscription is live: every row committed from now on is delivered. `cursor` is the
    /// last change that was published before it began.
    Subscribed {
        id: SubscriptionId,
        subscribe: &'a Subscribe,
        cursor: Cursor,
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
}
