//! Reading one layer: uncompressed while its stored bytes are checked.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest as _, Sha256};

use super::decode::{Compression, MAGIC, explained};
use super::error::prefix;
use super::outer::Blob;
use super::{ArchiveError, ArchivedLayer};
use crate::model::{BlobDigest, DiffId};

const BUFFER: usize = 128 << 10;

/// Yields the uncompressed tar of a layer. After the last byte, [`finish`](LayerReader::finish) says whether
/// the stored bytes were those that their digest promises.
pub struct LayerReader {
    archive: String,
    name: String,
    digest: Option<BlobDigest>,
    uncompressed: Box<dyn Read + Send>,
    stored: Arc<Mutex<Stored>>,
}

/// The stored bytes and how far they were read.
struct Stored {
    file: Arc<File>,
    start: u64,
    at: u64,
    end: u64,
    hash: Option<Sha256>,
}

impl LayerReader {
    pub(super) fn open(archive: &str, layer: &ArchivedLayer) -> Result<LayerReader, ArchiveError> {
        let digest = layer.digest.clone().map(|digest| (digest, &layer.diff_id));
        LayerReader::of_blob(archive, &layer.name, layer.blob.clone(), digest)
    }

    /// Reads a layer of this name, or without one what is the whole archive. With a digest its stored bytes
    /// are checked, unless that is the diff ID, which the caller checks.
    pub(super) fn of_blob(
        archive: &str,
        name: &str,
        blob: Blob,
        digest: Option<(BlobDigest, &DiffId)>,
    ) -> Result<LayerReader, ArchiveError> {
        let bad = |e: io::Error| ArchiveError::Bad {
            archive: archive.to_owned(),
            entry: name.to_owned(),
            reason: e.to_string(),
        };
        let Blob { file, offset, size } = blob;
        let mut start = [0; MAGIC];
        let most = usize::try_from(size).map_or(MAGIC, |s| s.min(MAGIC));
        file.read_exact_at(&mut start[..most], offset)
            .map_err(bad)?;
        let compression = Compression::of(&start[..most]);
        // The digest of a layer that is not compressed is its diff ID.
        let same = |digest: &BlobDigest, diff: &DiffId| digest.hex() == diff.hex();
        let digest = digest
            .filter(|(digest, diff)| compression != Compression::None || !same(digest, diff))
            .map(|(digest, _)| digest);
        let stored = Arc::new(Mutex::new(Stored {
            file,
            start: offset,
            at: offset,
            end: offset + size,
            hash: digest.is_some().then(Sha256::new),
        }));
        let bytes = BufReader::with_capacity(BUFFER, Shared(Arc::clone(&stored)));
        Ok(LayerReader {
            archive: archive.to_owned(),
            name: name.to_owned(),
            digest,
            uncompressed: compression.reader(bytes).map_err(bad)?,
            stored,
        })
    }

    /// How many of the stored bytes it has read.
    pub fn stored_read(&self) -> u64 {
        let stored = lock(&self.stored);
        stored.at - stored.start
    }

    /// Reads what is left of the stored bytes and checks their digest, where the archive says one.
    pub fn finish(self, cancel: &dyn Fn() -> bool) -> Result<(), ArchiveError> {
        let Some(digest) = &self.digest else {
            return Ok(());
        };
        let mut stored = lock(&self.stored);
        let mut buffer = vec![0; BUFFER];
        loop {
            if cancel() {
                return Err(ArchiveError::Interrupted);
            }
            let n = stored.read(&mut buffer).map_err(|e| ArchiveError::Bad {
                archive: self.archive.clone(),
                entry: self.name.clone(),
                reason: e.to_string(),
            })?;
            if n == 0 {
                break;
            }
        }
        let found =
            BlobDigest::from_sha256(stored.hash.take().unwrap_or_default().finalize().as_slice());
        match found == *digest {
            true => Ok(()),
            false => Err(ArchiveError::Digest {
                archive: self.archive.clone(),
                entry: self.name.clone(),
                found: found.hex().to_owned(),
            }),
        }
    }
}

impl Read for LayerReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.uncompressed.read(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::Interrupted => e,
            kind => io::Error::new(
                kind,
                format!("{}: {}{}", self.archive, prefix(&self.name), explained(e)),
            ),
        })
    }
}

impl Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.end - self.at;
        let most = usize::try_from(left).map_or(buffer.len(), |l| l.min(buffer.len()));
        if most == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive was cut short while it was read",
            ));
        }
        self.at += n as u64;
        if let Some(hash) = &mut self.hash {
            hash.update(&buffer[..n]);
        }
        Ok(n)
    }
}

/// The decoder's hold on the stored bytes.
struct Shared(Arc<Mutex<Stored>>);

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        lock(&self.0).read(buffer)
    }
}

/// Nothing is left half done when a reader panics: the position moves after the read.
fn lock(stored: &Mutex<Stored>) -> std::sync::MutexGuard<'_, Stored> {
    stored.lock().unwrap_or_else(PoisonError::into_inner)
}
