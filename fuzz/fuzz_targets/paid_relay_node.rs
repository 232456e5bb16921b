//! libFuzzer's way into the target `paid_relay_node`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::paid_relay_node(data));
