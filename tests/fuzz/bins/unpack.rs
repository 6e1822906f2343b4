//! The fuzz target of `checks::unpack`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| layerctl::checks::unpack::check(data));
