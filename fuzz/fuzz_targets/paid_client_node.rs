//! libFuzzer's way into the target `paid_client_node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::paid_client_node(data));
