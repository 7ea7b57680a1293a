//! Tokens against the whole crate: forged, broken and good ones, every algorithm with a real key, and key sets that
//! change, vanish or answer nonsense.

mod algorithms;
mod attacks;
mod claims;
mod documentation;
mod https;
mod jwks;
mod tokens;
