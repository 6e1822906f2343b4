//! The fuzz target of `checks::indexes`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| layerctl::checks::indexes::check(data));
