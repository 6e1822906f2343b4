//! What the tests stand on: stores, images made from a description, disks, processes.
//!
//! A test is a plain function that panics when it fails. What the machine must have for it is said
//! where it is registered (`main.rs`), so that a machine without /dev/fuse reports `ignored` and
//! why, and never `ok`.

pub mod cgroups;
pub mod disk;
pub mod image;
pub mod mapping;
pub mod needs;
pub mod overlay;
pub mod process;
pub mod random;
pub mod run;
pub mod store;
pub mod tree;
pub mod watchdog;

pub use disk::LoopFs;
pub use image::{Archive, Built, Image, Layer};
pub use overlay::Overlay;
pub use process::{Sleeper, wait_until};
pub use random::Random;
pub use run::Run;
pub use store::Store;

use serde_json::Value;

/// Each line of `text` as one JSON value.
#[track_caller]
pub fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line:?}"))
        })
        .collect()
}

/// The strings of a JSON array.
#[track_caller]
pub fn strings(value: &Value) -> Vec<String> {
    let array = value
        .as_array()
        .unwrap_or_else(|| panic!("not an array: {value}"));
    array
        .iter()
        .map(|v| v.as_str().expect("a string").to_owned())
        .collect()
}

/// A string field of a JSON object.
#[track_caller]
pub fn text(object: &Value, field: &str) -> String {
    object[field]
        .as_str()
        .unwrap_or_else(|| panic!("no string {field:?} in {object}"))
        .to_owned()
}

/// A number of a JSON object, zero or more.
#[track_caller]
pub fn number(object: &Value, field: &str) -> u64 {
    object[field]
        .as_u64()
        .unwrap_or_else(|| panic!("no number {field:?} in {object}"))
}

/// Bytes that no compressor or deduplication shortens, the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&random.bits().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
