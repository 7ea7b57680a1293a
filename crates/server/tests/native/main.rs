//! The real binary over a real Postgres, spoken to in the native protocol.

mod channels;
mod faults;
mod hostile;
mod limits;
mod refusals;
mod sight;
mod stage;
mod tls;
mod tokens;
