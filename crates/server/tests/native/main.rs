//! The real binary over a real Postgres, spoken to in the native protocol.

mod catalogue;
mod channels;
mod endings;
mod faults;
mod hostile;
mod limits;
mod messages;
mod numbers;
mod postgres_tls;
mod refusals;
mod resume;
mod resume_apart;
mod sight;
mod snapshot;
mod snapshot_tokens;
mod stage;
mod tls;
mod tokens;
