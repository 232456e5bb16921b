//! libFuzzer's way into the target `request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::request(data));
