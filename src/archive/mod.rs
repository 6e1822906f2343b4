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
//! | a JSON document | 4 MiB |
//! | all configs of an archive together | 16 MiB |
//! | images, and manifests in an index | 1,024, 4,096 |
//! | entries of the outer tar, bytes of their names | 65,536, 8 MiB |
//! | indexes in one another | 4 |
//! | window of zstd, memory of xz | 64 MiB, 80 MiB |
//! | memory of all decoders together: more wait for one another | 80 MiB |

pub mod config;
mod decode;
mod docker;
mod error;
mod json;
mod layer;
mod memory;
mod oci;
mod outer;
pub mod platform;
mod spool;
pub mod tree_tar;
pub mod write;
mod zstd_frames;

use std::path::{Path, PathBuf};

pub use config::ImageConfig;
pub use error::ArchiveError;
pub use layer::LayerReader;

use crate::model::{BlobDigest, DiffId, ImageId, Reference};
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
    /// The same, read.
    pub parsed: ImageConfig,
    /// Its names, each once, in the archive's order; there may be none.
    pub tags: Vec<Reference>,
    /// As many as `parsed.diff_ids`, the lowest first.
    pub layers: Vec<ArchivedLayer>,
}

/// A layer in an archive.
#[derive(Debug, Clone)]
pub struct ArchivedLayer {
    /// What the config says that the digest of its uncompressed tar is: to be compared after unpacking.
    pub diff_id: DiffId,
    /// Its name in the archive, for messages.
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
    /// its tags. Never empty: an archive without an image is [`ArchiveError::NoImage`].
    pub fn images(&self) -> Result<Vec<ArchivedImage>, ArchiveError> {
        self.images_for(&Platform::host())
    }

    /// As [`images`](Archive::images), for a machine of another platform.
    pub fn images_for(&self, platform: &Platform) -> Result<Vec<ArchivedImage>, ArchiveError> {
        if self.outer.is_dir_transport() {
            return Err(self.outer.dir_transport());
        }
        let images = if let Some(manifest) = self.outer.find("manifest.json")? {
            docker::images(&self.outer, &manifest)?
        } else if let Some(index) = self.outer.find("index.json")? {
            oci::images(&self.outer, &index, platform)?
        } else {
            return Err(self.outer.not_an_archive());
        };
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

/// What the two formats have in common: an image from the bytes of its config.
fn image(
    outer: &Outer,
    config_name: &str,
    config: Vec<u8>,
    layers: Vec<(String, Option<BlobDigest>, Blob)>,
) -> Result<ArchivedImage, ArchiveError> {
    let parsed = ImageConfig::parse(&config).map_err(|reason| outer.bad(config_name, reason))?;
    if parsed.diff_ids.len() != layers.len() {
        return Err(outer.bad(
            config_name,
            format!(
                "the config has {} diff IDs, the manifest {} layers",
                parsed.diff_ids.len(),
                layers.len()
            ),
        ));
    }
    let layers = parsed.diff_ids.iter().zip(layers);
    Ok(ArchivedImage {
        id: ImageId::of(&config),
        layers: layers
            .map(|(diff_id, (name, digest, blob))| ArchivedLayer {
                diff_id: diff_id.clone(),
                name,
                stored_size: blob.size,
                digest,
                blob,
            })
            .collect(),
        parsed,
        config,
        tags: Vec::new(),
    })
}

/// The images found so far.
struct Images<'a> {
    outer: &'a Outer,
    list: Vec<ArchivedImage>,
    config_bytes: usize,
}

impl<'a> Images<'a> {
    const MOST: usize = 1024;
    const MOST_BYTES: usize = 16 << 20;

    fn new(outer: &'a Outer) -> Images<'a> {
        Images {
            outer,
            list: Vec::new(),
            config_bytes: 0,
        }
    }

    /// Adds an image, or its tags if it is there already.
    fn add(&mut self, image: ArchivedImage, tags: Vec<Reference>) -> Result<usize, ArchiveError> {
        let at = match self.list.iter().position(|i| i.id == image.id) {
            Some(at) => at,
            None => {
                self.config_bytes += image.config.len();
                if self.list.len() == Self::MOST || self.config_bytes > Self::MOST_BYTES {
                    return Err(self.outer.bad("", "too many images".to_owned()));
                }
                self.list.push(image);
                self.list.len() - 1
            }
        };
        self.tag(at, tags);
        Ok(at)
    }

    fn tag(&mut self, at: usize, tags: Vec<Reference>) {
        for tag in tags {
            if !self.list[at].tags.contains(&tag) {
                self.list[at].tags.push(tag);
            }
        }
    }
}
