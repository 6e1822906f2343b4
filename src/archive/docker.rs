//! docker-archive: what `manifest.json` names.

use std::collections::HashMap;

use serde::Deserialize;

use super::json::{self, List, MAX_LAYERS, or_default};
use super::outer::{Blob, Outer};
use super::{ArchiveError, ArchivedImage, Images, image};
use crate::model::{BlobDigest, Reference};

const MANIFEST: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default, deserialize_with = "or_default")]
    repo_tags: List<String, 4096>,
    #[serde(default, deserialize_with = "or_default")]
    layers: List<String, MAX_LAYERS>,
}

/// The images of a docker-archive.
pub(super) fn images(outer: &Outer, manifest: &Blob) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let text = outer.document(MANIFEST, manifest)?;
    let items: Option<List<Item, { Images::MOST }>> =
        json::read(&text).map_err(|reason| outer.bad(MANIFEST, reason))?;
    let mut images = Images::new(outer);
    let mut seen: HashMap<String, usize> = HashMap::new();
    for item in items.unwrap_or_default().0 {
        let tags = item.repo_tags.0.iter().map(|tag| {
            tag.parse::<Reference>()
                .map_err(|source| outer.bad_tag(tag, source))
        });
        let tags = tags.collect::<Result<_, _>>()?;
        if let Some(at) = seen.get(&item.config) {
            images.tag(*at, tags);
            continue;
        }
        let blob = outer.need(&item.config, MANIFEST)?;
        // In an archive that is an OCI layout as well, the name is a digest.
        let config = match digest_in(&item.config) {
            Some(digest) => outer.checked_document(&item.config, &blob, &digest)?,
            None => outer.document(&item.config, &blob)?,
        };
        let mut layers = Vec::new();
        for name in item.layers.0 {
            let blob = outer.need(&name, MANIFEST)?;
            // Its diff ID says all that a digest could.
            layers.push((name, None, blob));
        }
        let at = images.add(image(outer, &item.config, config, layers)?, tags)?;
        seen.insert(item.config, at);
    }
    Ok(images.list)
}

/// The digest in `blobs/sha256/HEX`.
fn digest_in(name: &str) -> Option<BlobDigest> {
    BlobDigest::from_hex(name.strip_prefix("blobs/sha256/")?).ok()
}
