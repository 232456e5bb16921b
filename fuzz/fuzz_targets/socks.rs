//! libFuzzer's way into the target `socks`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::socks(data));
