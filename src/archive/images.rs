//! The images of an archive as they are found: what both formats have in common, and the bounds on all of them
//! together. However often an archive names a thing, reading it stays linear in the archive's own size.

use std::collections::{HashMap, HashSet};

use super::outer::{Blob, Outer};
use super::{ArchiveError, ArchivedImage, ArchivedLayer, ImageConfig};
use crate::model::tar::shown;
use crate::model::{BlobDigest, ImageId, Reference};

/// The most images of an archive.
pub(super) const MAX_IMAGES: usize = 1024;
/// The most bytes of all their configs, which stay in memory.
const MAX_CONFIGS: usize = 16 << 20;
/// The most layers of all of them, each counted as often as it is named.
const MAX_ALL_LAYERS: usize = 32_768;
/// The most tags of all of them.
const MAX_TAGS: usize = 16_384;
/// The most bytes of JSON that are read, a document counted as often as it is.
const MAX_DOCUMENTS: u64 = 64 << 20;

/// The images found so far.
pub(super) struct Images<'a> {
    pub(super) outer: &'a Outer,
    cancel: &'a dyn Fn() -> bool,
    list: Vec<ArchivedImage>,
    /// Where in the list.
    places: HashMap<ImageId, usize>,
    tagged: HashSet<(usize, Reference)>,
    configs: usize,
    layers: usize,
    documents: u64,
}

/// A layer as a manifest names it: its name in the archive, the digest of what is stored where it says one, and
/// where that is.
pub(super) type NamedLayer = (String, Option<BlobDigest>, Blob);

impl<'a> Images<'a> {
    pub(super) fn new(outer: &'a Outer, cancel: &'a dyn Fn() -> bool) -> Images<'a> {
        Images {
            outer,
            cancel,
            list: Vec::new(),
            places: HashMap::new(),
            tagged: HashSet::new(),
            configs: 0,
            layers: 0,
            documents: 0,
        }
    }

    /// Each image once, in the order in which they were found.
    pub(super) fn into_list(self) -> Vec<ArchivedImage> {
        self.list
    }

    /// All bytes of a JSON document, its digest checked if there is one.
    pub(super) fn document(
        &mut self,
        name: &str,
        blob: &Blob,
        digest: Option<&BlobDigest>,
    ) -> Result<Vec<u8>, ArchiveError> {
        if (self.cancel)() {
            return Err(ArchiveError::Interrupted);
        }
        self.documents = self.documents.saturating_add(blob.size);
        if self.documents > MAX_DOCUMENTS {
            let reason = format!("more than {MAX_DOCUMENTS} bytes of JSON in all");
            return Err(self.outer.bad(name, reason));
        }
        match digest {
            Some(digest) => self.outer.checked_document(name, blob, digest),
            None => self.outer.document(name, blob),
        }
    }

    /// Adds the image with this config, or its tags if it is there already. Gives its place.
    pub(super) fn add(
        &mut self,
        config_name: &str,
        config: Vec<u8>,
        layers: Vec<NamedLayer>,
        tags: Vec<Reference>,
    ) -> Result<usize, ArchiveError> {
        let image = image(self.outer, config_name, config, layers)?;
        let at = match self.places.get(&image.id) {
            Some(at) => *at,
            None => {
                self.configs += image.config.len();
                self.layers += image.layers.len();
                if self.list.len() == MAX_IMAGES {
                    return Err(self.too_many(MAX_IMAGES, "images"));
                }
                if self.configs > MAX_CONFIGS {
                    return Err(self.too_many(MAX_CONFIGS, "bytes of configs"));
                }
                if self.layers > MAX_ALL_LAYERS {
                    return Err(self.too_many(MAX_ALL_LAYERS, "layers"));
                }
                self.places.insert(image.id.clone(), self.list.len());
                self.list.push(image);
                self.list.len() - 1
            }
        };
        self.tag(at, tags)?;
        Ok(at)
    }

    /// Gives tags to an image that was found before.
    pub(super) fn tag(&mut self, at: usize, tags: Vec<Reference>) -> Result<(), ArchiveError> {
        for tag in tags {
            if self.tagged.insert((at, tag.clone())) {
                if self.tagged.len() > MAX_TAGS {
                    return Err(self.too_many(MAX_TAGS, "tags"));
                }
                self.list[at].tags.push(tag);
            }
        }
        Ok(())
    }

    fn too_many(&self, most: usize, what: &str) -> ArchiveError {
        self.outer.bad("", format!("more than {most} {what} in it"))
    }
}

/// An image from the bytes of its config. That is read whole, so that nobody finds it broken later, but not kept
/// so: read, it may be many times as large.
fn image(
    outer: &Outer,
    config_name: &str,
    config: Vec<u8>,
    layers: Vec<NamedLayer>,
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
    let layers = parsed.diff_ids.into_iter().zip(layers);
    Ok(ArchivedImage {
        id: ImageId::of(&config),
        layers: layers
            .map(|(diff_id, (name, digest, blob))| ArchivedLayer {
                diff_id,
                name: shown(name.as_bytes()),
                stored_size: blob.size,
                digest,
                blob,
            })
            .collect(),
        created: parsed.created,
        config,
        tags: Vec::new(),
    })
}
