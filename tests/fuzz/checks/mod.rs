//! What must hold for any bytes, one function a fuzz target. The fuzzer calls them with what it makes up; the suite
//! with the corpus and with changes of it (`tests/suite/fuzz.rs`).

use std::io::{self, Read};

use layerctl::model::tar::Skip;

pub mod configs;
pub mod indexes;
pub mod manifests;
pub mod pax;
pub mod seeds;
pub mod tar_entries;
pub mod tar_splits;
pub mod unpack;

/// A target: what it is called, and what must hold.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 7] = [
    ("tar_entries", tar_entries::check),
    ("pax", pax::check),
    ("unpack", unpack::check),
    ("manifests", manifests::check),
    ("configs", configs::check),
    ("indexes", indexes::check),
    ("tar_splits", tar_splits::check),
];

/// Bytes in memory as a tar is read.
struct Bytes<'a>(&'a [u8]);

impl Read for Bytes<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Skip for Bytes<'_> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let n = usize::try_from(count)
            .unwrap_or(usize::MAX)
            .min(self.0.len());
        self.0 = &self.0[n..];
        Ok(n as u64)
    }
}

/// The same with the right checksum in whatever looks like a header: no change of a header would get further
/// otherwise.
fn with_checksums(tar: &[u8]) -> Vec<u8> {
    let mut bytes = tar.to_vec();
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// Messages are one line.
fn check_message(error: &dyn std::error::Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && !text.contains('\n'), "{text:?}");
    assert!(text.len() < 4096, "{} bytes of message", text.len());
}
