//! The real binary over a real Postgres, spoken to in the native protocol.

mod channels;
mod faults;
mod hostile;
mod limits;
mod messages;
mod postgres_tls;
mod numbers;
mod refusals;
mod resume;
mod resume_apart;
mod sight;
mod snapshot;
mod stage;
mod tls;
mod tokens;
