//! libFuzzer's way into the target `descriptor`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::descriptor(data));
