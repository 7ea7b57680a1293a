//! The fault suite: what a client receives is compared with what was committed, while process,
//! network, database and slot are hurt. `make faults` runs it in full and prints the counts;
//! `cargo test --test faults` runs a short form.
//!
//! Each scenario has a Postgres of its own. Its seed is printed; `WALCAST_FAULTS_SEED` repeats it.

mod clock;
mod crowd;
mod decoding;
mod failover;
mod network;
mod postgres;
mod process;
mod report;
mod rights;
mod secrets;
mod shapes;
mod slot;
mod snapshots;
mod stage;
mod traps;
