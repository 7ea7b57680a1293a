//! Who may read and write channels, against a real Postgres: every answer is compared with what a row
//! that is really inserted, or really looked for, says as the same role.

mod poison;
mod policies;
mod replay;
mod rig;
