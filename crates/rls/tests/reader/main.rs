//! Readings against a real Postgres: what a SELECT as the role gives, and nothing left behind.

#[path = "../postgres/rig.rs"]
#[allow(dead_code, unused_imports)] // each of the tests that share it uses a part
mod rig;

mod bounds;
mod desk;
mod left;
mod printing;
mod rows;
mod seam;
