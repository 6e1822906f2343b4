//! Where an index is made.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use tempfile::{SpooledTempFile, spooled_tempfile, spooled_tempfile_in};

use crate::model::index;
use crate::store::StoreError;

/// How much of each part of an index stays in memory until it is written, in bytes.
const SPOOLED: usize = 1 << 18;

/// An index that is being made.
pub(super) type Builder = index::Builder<SpooledTempFile>;

/// Where it is made: what it is made from, and the file itself, have no names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'a> {
    /// On the disk, in this directory.
    Disk(&'a Path),
    /// In memory, however large it is.
    Memory,
}

impl Place<'_> {
    /// For messages.
    pub(super) fn path(&self) -> &Path {
        match self {
            Place::Disk(directory) => directory,
            Place::Memory => Path::new("memory"),
        }
    }

    /// An empty file for one of its parts, which is in memory as long as it is small.
    pub(super) fn scratch(self) -> SpooledTempFile {
        match self {
            Place::Disk(directory) => spooled_tempfile_in(SPOOLED, directory),
            Place::Memory => spooled_tempfile(usize::MAX),
        }
    }

    /// Writes the finished index. It is not synced.
    pub(super) fn write(self, index: Builder) -> Result<File, StoreError> {
        let write = || -> io::Result<File> {
            let file = match self {
                Place::Disk(directory) => tempfile::tempfile_in(directory)?,
                Place::Memory => memfd_create("layerctl-index", MemfdFlags::CLOEXEC)?.into(),
            };
            index.write(&file)?;
            Ok(file)
        };
        write().map_err(StoreError::at("write an index in", self.path()))
    }
}
