//! The fuzz target of `checks::tar_entries`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| layerctl::checks::tar_entries::check(data));
