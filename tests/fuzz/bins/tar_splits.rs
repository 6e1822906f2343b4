//! The fuzz target of `checks::tar_splits`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| layerctl::checks::tar_splits::check(data));
