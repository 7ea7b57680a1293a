#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_fuzz::phoenix_decode::run(data));
