//! Verdicts against a real Postgres: each is compared with what a direct SELECT as the role finds.

mod access;
mod apart;
mod cases;
mod columns;
mod explain;
mod fresh;
mod groups;
mod key;
mod literal;
mod migrations;
mod open;
mod order;
mod poison;
mod race;
mod rig;
mod roles;
mod search_path;
mod sweep;
mod told;
mod usage;
