//! Who subscribed to what, and what waits to be written to each of them.
//!
//! Owns: table subscriptions and their filters ([`Audience`]), what a change is to each of them
//! ([`View`]), broadcast and presence ([`Channels`]), the bounded queue of every connection
//! ([`Outbox`]), and the limits on connections, channels and rates.
//! Refuses to know: dialects (a frame is bytes here), sockets, SQL.
//!
//! Invariants:
//! - An [`Audience`] has one owner, the pipeline: a subscription begins and ends between two
//!   batches, never inside one, so its acknowledgement stands at an exact place in the stream.
//! - Nothing is published without a verdict: a [`View`] is made from what row-level security
//!   answered, and no answer means no view.
//! - [`Channels`] are shared by all sessions: everybody in a topic sees one order, and being in it
//!   ends with the [`Membership`], however that ends.
//! - A push never waits. A full outbox is closed with a reason; it never loses one frame silently.

mod audience;
mod channel_limits;
mod channels;
mod filter;
mod gate;
mod limits;
mod listing;
mod message;
mod outbox;
mod pattern;
mod presence;
mod rate;
mod standing;
mod subscription;
mod topic;
mod value;
mod view;
mod viewers;

pub use audience::{Audience, AudienceError, Group, Member, Movement, Spec, Withdrawn};
pub use channel_limits::{ChannelError, ChannelLimits};
pub use channels::{Channels, Membership, Namespace};
pub use filter::{Filter, FilterError};
pub use gate::{Gate, Opened, Skip};
pub use limits::{ConnectionLimits, Connections, LimitError, Ticket};
pub use message::{Body, Class, Message, Voice};
pub use outbox::{Closing, Outbox, Pending, Pushed};
pub use presence::{Diff, Dot, KeyDiff, Meta, Roster};
pub use rate::{RateExceeded, RateLimit};
pub use standing::Standing;
pub use subscription::{ConnId, Events, SubscriptionId, Target};
pub use topic::{Arrival, Hears, Joining, MemberId, Published, Tracked};
pub use view::{Seen, View};
