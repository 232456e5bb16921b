//! libFuzzer's way into the target `reader`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::reader(data));
