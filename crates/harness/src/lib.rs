//! What tests and benches stand on: a private Postgres, a WebSocket client, the real binary as a
//! process, a faulty network; and for the fault suite a load that notes down what it commits
//! ([`Ledger`]), clients that note down what they hear ([`Recorder`]) and who compares the two
//! ([`Oracle`]). For development only; the product never depends on it.
//!
//! Invariants:
//! - Nothing outlives the test process, even a killed one: no server, no folder.
//! - Every wait has a deadline.

mod account;
mod book;
mod cluster;
mod dice;
mod eventually;
mod ledger;
mod log_folder;
mod oracle;
mod postgres;
mod proxy;
mod recorder;
mod socket;
mod subscriber;
mod transcript;
mod walcast;
mod witness;

pub use book::{
    Book, EVERYBODY, Entry, Face, Kind, Outcome, Rows, Sight, Transaction, View, apply, body, user,
};
pub use cluster::{StopMode, free_port};
pub use dice::Dice;
pub use eventually::eventually;
pub use ledger::{Ledger, Load, SCHEMA, Writer};
pub use oracle::{Oracle, Verdict};
pub use postgres::Postgres;
pub use proxy::{Proxy, Weather};
pub use recorder::{Beginning, Heed, Recorder, Recording};
pub use socket::{Socket, narrow};
pub use subscriber::{Desk, Role, Subscriber};
pub use tokio_tungstenite::tungstenite::Message;
pub use transcript::{Connection, Received, Segment, Transcript};
pub use walcast::Walcast;
pub use witness::Witness;
