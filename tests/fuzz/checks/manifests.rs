//! A whole archive, or the documents of one.
//!
//! Bytes that begin with `@` are the text of documents, so that what the fuzzer changes still has right digests:
//!
//! ```text
//! @blob            begins a document that is named blobs/sha256/ and its digest
//! {"rootfs": …}
//! @NAME            begins one of this name; in its text `$0`, `$1` … stand for the digests (64 digits) of the
//! {"c": "sha256:$0"}   documents before it, by their number
//! ```
//!
//! Anything else is an archive as it stands.

use std::collections::HashSet;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use layerctl::archive::write::{LayerBuilder, Meta};
use layerctl::archive::{Archive, ArchiveError, ArchivedImage, ImageConfig, Input};
use layerctl::model::{BlobDigest, ImageId};

use super::{check_message, with_checksums};

/// The most bytes of a layer that are read: what is compressed may go on for very long.
const MOST: u64 = 4 << 20;

/// Opens it, lists its images, reads its layers.
pub fn check(data: &[u8]) {
    match data.strip_prefix(b"@") {
        Some(text) => check_archive(&documents(text)),
        None => {
            check_archive(data);
            check_archive(&with_checksums(data));
        }
    }
}

fn check_archive(bytes: &[u8]) {
    if let Err(error) = read(bytes) {
        check_message(&error);
    }
}

fn read(bytes: &[u8]) -> Result<(), ArchiveError> {
    let file = rustix::fs::memfd_create(c"archive", rustix::fs::MemfdFlags::CLOEXEC);
    let mut file = File::from(file.expect("make a file in memory"));
    file.write_all(bytes).expect("write to memory");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Asked for every 256 KiB of a copy.
    let asked = std::sync::atomic::AtomicU32::new(0);
    let cancel = || asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 20_000;
    let spool = std::env::temp_dir();
    let archive = Archive::open(Input::Path(path), &spool, &cancel)?;
    let images = archive.images(&cancel)?;
    assert!(!images.is_empty());
    for image in &images {
        check_image(image);
        for layer in image.layers.iter().take(4) {
            assert!(layer.stored_size <= bytes.len() as u64 || is_compressed(bytes));
            let mut reader = archive.open_layer(layer)?;
            match std::io::copy(&mut reader.by_ref().take(MOST), &mut std::io::sink()) {
                Ok(n) if n < MOST => reader.finish(&cancel)?,
                Ok(_) => {}
                Err(error) => check_message(&error),
            }
        }
    }
    Ok(())
}

fn is_compressed(bytes: &[u8]) -> bool {
    !matches!(bytes.get(257..262), Some(b"ustar"))
}

fn check_image(image: &ArchivedImage) {
    assert_eq!(image.id, ImageId::of(&image.config));
    let config = ImageConfig::parse(&image.config).expect("it was read before");
    assert_eq!(config.diff_ids.len(), image.layers.len());
    let diffs = image.layers.iter().map(|layer| &layer.diff_id);
    assert!(diffs.eq(&config.diff_ids));
    let tags: HashSet<_> = image.tags.iter().collect();
    assert_eq!(tags.len(), image.tags.len(), "each once");
}

/// The archive of documents that are written one after the other.
fn documents(text: &[u8]) -> Vec<u8> {
    let mut tar = LayerBuilder::default();
    let mut digests: Vec<String> = Vec::new();
    for document in split(text) {
        let end = document.iter().position(|b| *b == b'\n');
        let (name, body) = match end {
            Some(end) => (&document[..end], &document[end + 1..]),
            None => (document, &[][..]),
        };
        let body = filled_in(body, &digests);
        let digest = BlobDigest::of(&body).hex().to_owned();
        let name = match name {
            b"blob" => format!("blobs/sha256/{digest}").into_bytes(),
            name => name.to_vec(),
        };
        digests.push(digest);
        // No name, or a zero byte in it: not a member that could be written.
        if !name.is_empty() && !name.contains(&0) && name.len() < 1000 {
            tar.file(&name, &Meta::mode(0o644), &body)
                .expect("write to memory");
        }
    }
    tar.finish().expect("write to memory")
}

/// Cut at each line that begins with `@`.
fn split(text: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.windows(2).position(|w| w == b"\n@") {
        parts.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    parts.push(rest);
    parts
}

fn filled_in(body: &[u8], digests: &[String]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len());
    let mut rest = body;
    while let Some((first, after)) = rest.split_first() {
        let number = after.first().filter(|b| b.is_ascii_digit());
        let digest = number.and_then(|b| digests.get(usize::from(b - b'0')));
        match (first, digest) {
            (b'$', Some(digest)) => {
                out.extend_from_slice(digest.as_bytes());
                rest = &after[1..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}
