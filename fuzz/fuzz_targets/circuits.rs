//! libFuzzer's way into the target `circuits`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chive_fuzz::circuits(data));
