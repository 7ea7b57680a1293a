#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| walcast_fuzz::change_json::run(data));
