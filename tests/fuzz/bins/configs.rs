//! The fuzz target of `checks::configs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| layerctl::checks::configs::check(data));
