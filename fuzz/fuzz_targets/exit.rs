//! libFuzzer's way into the target `exit`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::exit(data));
