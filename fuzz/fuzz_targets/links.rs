//! libFuzzer's way into the target `links`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::links(data));
