//! libFuzzer's way into the target `seen_log`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::seen_log(data));
