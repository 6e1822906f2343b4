//! A layer's tar-split on disk, `layers/<hex>/tar-split`, and the layer's tar made again from it and
//! the files in `tree/`.
//!
//! What is in it says `model::tar_split`; it is compressed with zstd, after a line that says what it
//! is. It is written while the layer is unpacked, is on the disk with it, and never changes.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::StoreError;
use crate::model::BlobDigest;
use crate::model::digest::DigestWriter;
use crate::model::tar::shown;
use crate::model::tar_split::{Part, TarSplitReader, TarSplitWriter};
use crate::sys::in_root::open_in_root;
use crate::sys::reason;

/// Its name in the directory of its layer.
pub(super) const NAME: &str = "tar-split";

const FIRST_LINE: &[u8; 21] = b"layerctl tar-split 1\n";

/// Fast: the headers of a tar are mostly zeros, and the higher levels win little.
const LEVEL: i32 = 1;
const BUFFER: usize = 128 << 10;

/// A tar-split that is written.
pub(super) type Sink = TarSplitWriter<zstd::Encoder<'static, BufWriter<File>>>;

/// Begins the tar-split of the layer in `directory`; what is there is overwritten.
pub(super) fn create(directory: &Path) -> Result<Sink, StoreError> {
    let path = directory.join(NAME);
    let begin = || -> io::Result<Sink> {
        let mut file = BufWriter::new(File::create(&path)?);
        file.write_all(FIRST_LINE)?;
        let mut compressed = zstd::Encoder::new(file, LEVEL)?;
        compressed.include_checksum(true)?;
        Ok(TarSplitWriter::new(compressed))
    };
    begin().map_err(StoreError::at("write", &path))
}

/// Ends it. It is not synced.
pub(super) fn close(split: Sink, directory: &Path) -> Result<(), StoreError> {
    let end = || -> io::Result<()> { split.finish()?.finish()?.flush() };
    end().map_err(StoreError::at("write", &directory.join(NAME)))
}

/// Why a layer's tar cannot be made again.
#[derive(Debug, thiserror::Error)]
pub enum TarSplitError {
    /// The layer was unpacked by a version that kept none.
    #[error(
        "it has no tar-split, for an earlier version of layerctl has unpacked it: remove its images and load them again"
    )]
    Missing,
    /// The tar-split is not what it should be.
    #[error("its tar-split is damaged: {0}")]
    Damaged(String),
    /// A file is not there, or is not what it was.
    #[error("its file {path}: {why}")]
    File {
        /// Its path in the layer, fit for one line.
        path: String,
        /// What is wrong.
        why: String,
    },
    /// The tar cannot be written where it goes.
    #[error("cannot write the tar of a layer: {}", reason(.0))]
    Write(io::Error),
}

/// The bytes of the tar of the layer whose directory this is.
pub fn length(directory: BorrowedFd<'_>) -> Result<u64, TarSplitError> {
    let mut split = open(directory)?;
    while split.next_part().map_err(damaged)?.is_some() {}
    Ok(split.length())
}

/// Writes the tar of the layer whose directory this is to `out`. Whether it is the same tar says its
/// digest alone, which the caller takes.
pub fn assemble(directory: BorrowedFd<'_>, out: &mut impl Write) -> Result<(), TarSplitError> {
    let split = open(directory)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let tree = openat(directory, "tree", flags, Mode::empty());
    let tree = tree.map_err(|errno| TarSplitError::File {
        path: "/".to_owned(),
        why: reason(&errno.into()),
    })?;
    join(split, tree.as_fd(), out)
}

/// The digest of the tar of the layer whose directory this is, as it is made now: if it is not the
/// layer's, a file is not what was unpacked.
pub fn digest(directory: BorrowedFd<'_>) -> Result<BlobDigest, TarSplitError> {
    let mut out = DigestWriter::new(io::sink());
    assemble(directory, &mut out)?;
    let (_, digest, _) = out.finish();
    Ok(digest)
}

/// Writes the tar that has been split to `out`, with the contents of the files in `tree`.
pub fn join(
    mut split: TarSplitReader<impl Read>,
    tree: BorrowedFd<'_>,
    out: &mut impl Write,
) -> Result<(), TarSplitError> {
    let mut buffer = vec![0; BUFFER];
    // A sparse file comes in many pieces.
    let mut last: Option<(Vec<u8>, File)> = None;
    while let Some(part) = split.next_part().map_err(damaged)? {
        let (path, mut offset, mut left) = match part {
            Part::Bytes(bytes) => {
                out.write_all(bytes).map_err(TarSplitError::Write)?;
                continue;
            }
            Part::Contents {
                path,
                offset,
                length,
            } => (path, offset, length),
        };
        let bad = |e: io::Error| TarSplitError::File {
            path: shown(path),
            why: match e.kind() {
                io::ErrorKind::UnexpectedEof => "it is shorter than it was".to_owned(),
                _ => reason(&e),
            },
        };
        if last.as_ref().is_none_or(|(open, _)| open != path) {
            let file = open_file(tree, path).map_err(bad)?;
            last = Some((path.to_vec(), file));
        }
        let Some((_, file)) = &last else { continue };
        while left > 0 {
            let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            file.read_exact_at(&mut buffer[..most], offset)
                .map_err(bad)?;
            out.write_all(&buffer[..most])
                .map_err(TarSplitError::Write)?;
            offset += most as u64;
            left -= most as u64;
        }
    }
    Ok(())
}

fn damaged(error: io::Error) -> TarSplitError {
    TarSplitError::Damaged(reason(&error))
}

fn open(directory: BorrowedFd<'_>) -> Result<TarSplitReader<impl Read + use<>>, TarSplitError> {
    // Not waiting for a writer where somebody has put a pipe.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match openat(directory, NAME, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(Errno::NOENT) => return Err(TarSplitError::Missing),
        Err(errno) => return Err(damaged(errno.into())),
    };
    let mut file = BufReader::with_capacity(BUFFER, file);
    let mut line = [0; FIRST_LINE.len()];
    let is_one = file.read_exact(&mut line).is_ok() && line == *FIRST_LINE;
    if !is_one {
        return Err(TarSplitError::Damaged("it begins otherwise".to_owned()));
    }
    let decoder = zstd::Decoder::with_buffer(file).map_err(damaged)?;
    Ok(TarSplitReader::new(BufReader::with_capacity(
        BUFFER, decoder,
    )))
}

/// A file of the layer, found as it was when its contents were written there.
fn open_file(tree: BorrowedFd<'_>, path: &[u8]) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match open_in_root(tree, path, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open_in_root(tree, path, flags),
        other => other,
    };
    let file = File::from(file?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("it is no regular file")),
    }
}
