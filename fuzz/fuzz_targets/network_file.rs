//! libFuzzer's way into the target `network_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::network_file(data));
