//! libFuzzer's way into the target `reply`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::reply(data));
