//! The words of Supabase Realtime's protocol, versions 1.0.0 and 2.0.0: Phoenix channels with JSON
//! frames, and the binary frames of kinds 3 and 4. Documented in `proto-docs/supabase.md`.
//!
//! Readers make an [`Incoming`] of a client's frame and never fail a connection: what is malformed
//! is an error that says why, and a join with bad parts is a join with their defaults. Writers
//! append one whole frame to a `Vec<u8>`. Payloads are carried as the bytes they came in.

mod binding;
mod broadcast;
mod change;
mod codec;
mod event;
mod frame;
mod incoming;
mod join;
mod json;
mod presence;
mod push;
mod reason;
mod reference;
mod reply;
mod shutdown;
mod system;
mod token;
mod version;

pub use binding::{Binding, BindingError, Wanted};
pub use broadcast::{Body, Broadcast, write_broadcast};
pub use change::{PostgresChange, Style, write_change};
pub use codec::Phoenix;
pub use event::{Event, Payload, Sent};
pub use frame::Opcode;
pub use incoming::{FrameError, Incoming, decode_binary, decode_text};
pub use join::{BroadcastConfig, ChangesConfig, Join, Malformed, PresenceConfig, Replay};
pub use json::is_shallow;
pub use presence::{Meta, write_presence_diff, write_presence_state};
pub use push::{write_close, write_error, write_push};
pub use reason::Reason;
pub use reference::Ref;
pub use reply::{Address, Status, write_joined, write_ok, write_refused, write_reply};
pub use shutdown::{Ending, Shutdown};
pub use system::{Extension, System, write_disconnect, write_system};
pub use token::Token;
pub use version::{Version, VersionError};

#[cfg(test)]
mod tests;
