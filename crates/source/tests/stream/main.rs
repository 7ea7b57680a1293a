//! The source against a real Postgres: what it delivers, what it survives, what it refuses.

mod doctor;
mod faults;
mod fixture;
mod flow;
mod proxy;
mod refusals;
