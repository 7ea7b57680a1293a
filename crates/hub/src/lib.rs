//! Who subscribed to what, and what waits to be written to each of them.
//!
//! Owns: table subscriptions and their filters ([`Audience`]), what a change is to each of them
//! ([`View`]), the bounded queue of every connection ([`Outbox`]), and the limits on connections.
//! Refuses to know: dialects (a frame is bytes here), sockets, SQL.
//!
//! Invariants:
//! - An [`Audience`] has one owner, the pipeline: a subscription begins and ends between two
//!   batches, never inside one, so its acknowledgement stands at an exact place in the stream.
//! - Nothing is published without a verdict: a [`View`] is made from what row-level security
//!   answered, and no answer means no view.
//! - A push never waits. A full outbox is closed with a reason; it never loses one frame silently.

mod audience;
mod filter;
mod limits;
mod outbox;
mod pattern;
mod rate;
mod subscription;
mod value;
mod view;

pub use audience::{Audience, AudienceError, Group, Movement, Spec};
pub use filter::{Filter, FilterError, Operator};
pub use limits::{ConnectionLimits, Connections, LimitError, Ticket};
pub use outbox::{Closing, Outbox, Pending, Pushed};
pub use rate::RateLimit;
pub use subscription::{ConnId, Events, SubscriptionId, Target};
pub use view::{Seen, View};
