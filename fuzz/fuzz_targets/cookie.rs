//! libFuzzer's way into the target `cookie`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::cookie(data));
