//! The crate against Postgres itself, against reference encoders, and against hand-made streams.

mod any_bytes;
mod catalogue;
mod decoder;
mod differences;
mod every_type;
mod literals;
mod postgres_text;
mod random;
mod random_rows;
mod real_changes;
mod same_json;
mod stream;
