//! libFuzzer's way into the target `relay_node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::relay_node(data));
