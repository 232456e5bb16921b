//! libFuzzer's way into the target `client_node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::client_node(data));
