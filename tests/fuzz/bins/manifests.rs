//! The fuzz target of `checks::manifests`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| layerctl::checks::manifests::check(data));
