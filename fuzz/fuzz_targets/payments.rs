//! libFuzzer's way into the target `payments`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::payments(data));
