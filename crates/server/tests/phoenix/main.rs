//! The real binary over a real Postgres, spoken to in Supabase's protocol with frames made by hand.

mod changes;
mod handshake;
mod joins;
mod phone;
#[path = "../native/stage.rs"]
#[expect(dead_code, reason = "the native tests use more of it")]
mod stage;
