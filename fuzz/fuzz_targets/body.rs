//! libFuzzer's way into the target `body`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::body(data));
