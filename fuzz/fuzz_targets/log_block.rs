#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_fuzz::log_block::run(data));
