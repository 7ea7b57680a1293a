//! The server: `walcast`'s own crate, where all others meet.
//!
//! Owns: the settings, the command line, HTTP and sockets, the metrics, and the assembly of the path
//! from the stream to the outboxes ([`serve`] starts it, `pipeline` is it).
//! Refuses to know: bytes of pgoutput, words of a dialect, SQL on a subscriber's behalf.

mod arrival;
mod checks;
mod describe;
pub mod doctor;
pub mod explain;
mod http;
mod journal;
mod keep;
mod lane;
mod listener;
pub mod logs;
mod messages;
mod metrics;
pub mod migrate;
mod order;
mod pace;
mod page;
mod parting;
mod patience;
mod pipeline;
mod plan;
mod pooler;
mod progress;
mod publisher;
mod ready;
mod recent;
mod replay;
mod replayer;
mod seldom;
pub mod serve;
mod session;
pub mod settings;
mod shared;
mod sight;
mod snapshot;
mod socket;
mod sockets;
mod stream;
pub mod token;
mod voice;
mod walk;
mod walker;

/// The version and, where it is known, the commit that it was built from.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
