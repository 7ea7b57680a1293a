//! What tests and benches stand on: a private Postgres, a WebSocket client, the real binary as a
//! process, a faulty network. For development only; the product never depends on it.
//!
//! Invariants:
//! - Nothing outlives the test process, even a killed one: no server, no folder.
//! - Every wait has a deadline.

mod account;
mod cluster;
mod eventually;
mod postgres;
mod proxy;
mod socket;
mod walcast;

pub use cluster::StopMode;
pub use eventually::eventually;
pub use postgres::Postgres;
pub use proxy::{Proxy, Weather};
pub use socket::Socket;
pub use tokio_tungstenite::tungstenite::Message;
pub use walcast::Walcast;
