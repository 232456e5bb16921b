//! libFuzzer's way into the target `flows`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::flows(data));
