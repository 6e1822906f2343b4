//! A tar that is no image but the files of one: what `import` reads.

use std::path::Path;
use std::sync::Arc;

use super::layer::LayerReader;
use super::outer::Blob;
use super::spool::{self, Seekable};
use super::{ArchiveError, Input};

/// An open tar, plain or compressed.
#[derive(Debug)]
pub struct RootTar {
    label: String,
    blob: Blob,
}

impl RootTar {
    /// Opens one. A stream is copied to an unnamed file in `spool_dir`, uncompressed. `cancel` is asked
    /// now and then; [`ArchiveError::Interrupted`] when it says true.
    pub fn open(
        input: Input,
        spool_dir: &Path,
        cancel: &(dyn Fn() -> bool + Sync),
    ) -> Result<RootTar, ArchiveError> {
        let (label, file) = match spool::seekable(input, spool_dir, |_| true, cancel, &|_| ())? {
            (label, Seekable::File(file)) => (label, file),
            (label, Seekable::Directory(_)) => {
                return Err(ArchiveError::Unknown {
                    archive: label,
                    reason: "a directory, not a tar",
                });
            }
        };
        let size = file.metadata().map(|meta| meta.len());
        let size = size.map_err(|source| ArchiveError::Read {
            archive: label.clone(),
            source,
        })?;
        let blob = Blob {
            file: Arc::new(file),
            offset: 0,
            size,
        };
        Ok(RootTar { label, blob })
    }

    /// Its name.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The uncompressed tar, from its start; as often as it is asked for.
    pub fn reader(&self) -> Result<LayerReader, ArchiveError> {
        LayerReader::of_blob(&self.label, "", self.blob.clone(), None)
    }
}
