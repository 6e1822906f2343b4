//! Image archives: docker-archive and OCI, read and written.
//!
//! It knows where an archive keeps images, configs and layers, and checks what can be checked without
//! unpacking. It knows nothing of the store: the caller unpacks what [`LayerReader`] yields, compares the
//! diff ID, and decides what is kept.
//!
//! # What is read
//!
//! - docker-archive ([Docker image specification 1.2](https://github.com/moby/docker-image-spec/blob/main/spec.md)):
//!   a tar with `manifest.json`, as Docker's classic store, Docker with containerd's store (which has an OCI layout
//!   beside it: `manifest.json` wins), Podman, Buildah and skopeo write it. Layers may be symbolic or hard links to
//!   one another, plain, or compressed.
//! - OCI archive and layout directory
//!   ([image-layout](https://github.com/opencontainers/image-spec/blob/main/image-layout.md)): `index.json`, nested
//!   indexes, manifests for this platform. The digest and the size of every blob are checked.
//! - Either as a file, a stream, and compressed as a whole (gzip, xz, zstd). What cannot be read in any order is
//!   first copied to an unnamed file in the directory that the caller names.
//!
//! # Limits
//!
//! | what | most |
//! |---|---|
//! | layers of an image | 512 |
//! | a JSON document, all that are read of an archive | 4 MiB, 64 MiB |
//! | all configs of an archive together | 16 MiB |
//! | images, their layers together, their tags together | 1,024, 32,768, 16,384 |
//! | manifests in an index | 4,096 |
//! | entries of the outer tar, bytes of their names | 65,536, 8 MiB |
//! | indexes in one another | 4 |
//! | window of zstd, memory of xz | 64 MiB, 80 MiB |
//! | memory of all decoders together: more wait for one another | 80 MiB |

pub mod config;
mod decode;
mod docker;
mod error;
mod images;
mod json;
mod layer;
mod memory;
mod oci;
mod outer;
pub mod platform;
mod root_tar;
pub mod save;
mod spool;
pub mod tree_tar;
pub mod write;
mod zstd_frames;

use std::path::{Path, PathBuf};

pub use config::ImageConfig;
pub use error::ArchiveError;
pub use layer::LayerReader;
pub use root_tar::RootTar;

use crate::model::{BlobDigest, DiffId, ImageId, Reference};
use images::Images;
use outer::{Blob, Outer};
use platform::Platform;

/// Where an archive comes from.
pub enum Input {
    /// A file, an OCI layout directory, or a pipe by name.
    Path(PathBuf),
    /// The standard input; read in place where it is a regular file.
    Stdin,
    /// Any stream, under the name that messages give it.
    Stream(String, Box<dyn std::io::Read + Send>),
}

/// An open archive.
#[derive(Debug)]
pub struct Archive {
    outer: Outer,
}

/// An image in an archive.
#[derive(Debug, Clone)]
pub struct ArchivedImage {
    /// The digest of `config`.
    pub id: ImageId,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// When it was made, as the config has it (RFC 3339), or empty.
    pub created: String,
    /// Its names, each once, in the archive's order; there may be none.
    pub tags: Vec<Reference>,
    /// As many as the config has diff IDs, the lowest first.
    pub layers: Vec<ArchivedLayer>,
}

/// A layer in an archive.
#[derive(Debug, Clone)]
pub struct ArchivedLayer {
    /// What the config says that the digest of its uncompressed tar is: to be compared after unpacking.
    pub diff_id: DiffId,
    /// Its name in the archive as messages show it: on one line, not without end.
    pub name: String,
    /// Its bytes as stored, maybe compressed: what there is to read, for bars.
    pub stored_size: u64,
    /// The digest of the stored bytes, if the archive says it.
    digest: Option<BlobDigest>,
    blob: Blob,
}

impl Archive {
    /// Opens an archive and lists what is in it. A stream or a compressed archive is copied to an unnamed file in
    /// `spool_dir`. `cancel` is asked now and then, also while a pipe has nothing to give;
    /// [`ArchiveError::Interrupted`] when it says true.
    pub fn open(
        input: Input,
        spool_dir: &Path,
        cancel: &(dyn Fn() -> bool + Sync),
    ) -> Result<Archive, ArchiveError> {
        Archive::open_telling(input, spool_dir, cancel, &|_| ())
    }

    /// The same; `copied` is told of how many bytes a copy is made already.
    pub fn open_telling(
        input: Input,
        spool_dir: &Path,
        cancel: &(dyn Fn() -> bool + Sync),
        copied: &dyn Fn(u64),
    ) -> Result<Archive, ArchiveError> {
        let outer = spool::open(input, spool_dir, cancel, copied)?;
        Ok(Archive { outer })
    }

    /// Every image for this machine, in the archive's order. One that comes several times is there once, with all
    /// its tags. Never empty: an archive without an image is [`ArchiveError::NoImage`]. `cancel` is asked before
    /// every document; [`ArchiveError::Interrupted`] when it says true.
    pub fn images(&self, cancel: &dyn Fn() -> bool) -> Result<Vec<ArchivedImage>, ArchiveError> {
        if self.outer.is_dir_transport() {
            return Err(self.outer.dir_transport());
        }
        let mut images = Images::new(&self.outer, cancel);
        if let Some(manifest) = self.outer.find("manifest.json")? {
            docker::read(&mut images, &manifest)?;
        } else if let Some(index) = self.outer.find("index.json")? {
            oci::read(&mut images, &index, &Platform::host())?;
        } else {
            return Err(self.outer.not_an_archive());
        }
        let images = images.into_list();
        match images.is_empty() {
            true => Err(ArchiveError::NoImage {
                archive: self.outer.label().to_owned(),
            }),
            false => Ok(images),
        }
    }

    /// The uncompressed tar of a layer, from its start. Several may be open at once, also on several threads.
    pub fn open_layer(&self, layer: &ArchivedLayer) -> Result<LayerReader, ArchiveError> {
        LayerReader::open(self.outer.label(), layer)
    }
}
