//! The fuzz target of `checks::pax`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| layerctl::checks::pax::check(data));
