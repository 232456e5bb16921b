//! libFuzzer's way into the target `setup`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::setup(data));
