//! What is fuzzed: one module per parser of outside bytes.
//!
//! A target is a plain function over bytes that panics where a promise of its parser is broken, and
//! a list of seeds. Two drivers run it: libFuzzer (`fuzz_targets/`) and [`mutate`] (`bin/soak.rs`),
//! which needs nothing but a stable compiler.

pub mod change_json;
pub mod log_block;
pub mod mutate;
pub mod pgoutput_decode;
pub mod phoenix_decode;
pub mod websocket_decode;
pub mod websocket_oracle;

/// One fuzzed parser.
pub struct Target {
    /// Also the name of its folder under `corpus/` and of its file under `fuzz_targets/`.
    pub name: &'static str,
    /// Panics if a promise is broken.
    pub run: fn(&[u8]),
    /// Valid inputs, one per kind: written to the corpus by `soak --write-seeds`.
    pub seeds: fn() -> Vec<(&'static str, Vec<u8>)>,
}

pub const TARGETS: &[Target] = &[
    Target {
        name: "change_json",
        run: change_json::run,
        seeds: change_json::seeds,
    },
    Target {
        name: "log_block",
        run: log_block::run,
        seeds: log_block::seeds,
    },
    Target {
        name: "pgoutput_decode",
        run: pgoutput_decode::run,
        seeds: pgoutput_decode::seeds,
    },
    Target {
        name: "phoenix_decode",
        run: phoenix_decode::run,
        seeds: phoenix_decode::seeds,
    },
    Target {
        name: "websocket_decode",
        run: websocket_decode::run,
        seeds: websocket_decode::seeds,
    },
    Target {
        name: "websocket_oracle",
        run: websocket_oracle::run,
        seeds: websocket_oracle::seeds,
    },
];
