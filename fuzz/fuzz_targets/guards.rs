//! libFuzzer's way into the target `guards`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::guards(data));
