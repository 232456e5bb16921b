//! libFuzzer's way into the target `handshake_first`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::handshake_first(data));
