//! docker-archive: what `manifest.json` names.

use std::collections::HashMap;

use serde::Deserialize;

use super::ArchiveError;
use super::images::{Images, MAX_IMAGES};
use super::json::{self, List, MAX_LAYERS, or_default};
use super::outer::Blob;
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

/// Reads the images of a docker-archive.
pub(super) fn read(images: &mut Images<'_>, manifest: &Blob) -> Result<(), ArchiveError> {
    let outer = images.outer;
    let text = images.document(MANIFEST, manifest, None)?;
    let items: Option<List<Item, MAX_IMAGES>> =
        json::read(&text).map_err(|reason| outer.bad(MANIFEST, reason))?;
    drop(text);
    let mut seen: HashMap<String, usize> = HashMap::new();
    for item in items.unwrap_or_default().0 {
        let tags = item.repo_tags.0.iter().map(|tag| {
            tag.parse::<Reference>()
                .map_err(|source| outer.bad_tag(tag, source))
        });
        let tags = tags.collect::<Result<_, _>>()?;
        if let Some(at) = seen.get(&item.config) {
            images.tag(*at, tags)?;
            continue;
        }
        let blob = outer.need(&item.config, MANIFEST)?;
        // In an archive that is an OCI layout as well, the name is a digest.
        let digest = digest_in(&item.config);
        let config = images.document(&item.config, &blob, digest.as_ref())?;
        let mut layers = Vec::new();
        for name in item.layers.0 {
            let blob = outer.need(&name, MANIFEST)?;
            // Its diff ID says all that a digest could.
            layers.push((name, None, blob));
        }
        let at = images.add(&item.config, config, layers, tags)?;
        seen.insert(item.config, at);
    }
    Ok(())
}

/// The digest in `blobs/sha256/HEX`.
fn digest_in(name: &str) -> Option<BlobDigest> {
    BlobDigest::from_hex(name.strip_prefix("blobs/sha256/")?).ok()
}
