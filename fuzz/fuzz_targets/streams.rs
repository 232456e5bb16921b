//! libFuzzer's way into the target `streams`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::streams(data));
