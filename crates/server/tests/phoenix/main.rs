//! The real binary over a real Postgres, spoken to in Supabase's protocol with frames made by hand.

mod broadcasts;
mod changes;
mod endings;
mod handshake;
mod joins;
mod limits;
mod phone;
mod presence;
mod private;
mod rest;
#[path = "../native/stage.rs"]
#[expect(dead_code, reason = "the native tests use more of it")]
mod stage;
