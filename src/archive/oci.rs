//! OCI archives and layouts: what `index.json` names, down to the layers.
//!
//! [Image index](https://github.com/opencontainers/image-spec/blob/main/image-index.md),
//! [manifest](https://github.com/opencontainers/image-spec/blob/main/manifest.md), and Docker's equivalents of both.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::ArchiveError;
use super::images::Images;
use super::json::{self, List, MAX_LAYERS, or_default};
use super::outer::{Blob, Outer};
use super::platform::Platform;
use crate::model::{BlobDigest, Reference};

const INDEX: &str = "index.json";
const MAX_DEPTH: usize = 4;

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    media_type: String,
    /// Of an index.
    manifests: Option<List<Descriptor, 4096>>,
    /// Of a manifest.
    config: Option<Descriptor>,
    layers: Option<List<Descriptor, MAX_LAYERS>>,
    /// Of Docker's first schema.
    fs_layers: Option<IgnoredAny>,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default, rename_all = "camelCase")]
struct Descriptor {
    #[serde(deserialize_with = "or_default")]
    media_type: String,
    #[serde(deserialize_with = "or_default")]
    digest: String,
    size: Option<u64>,
    platform: Option<RawPlatform>,
    #[serde(deserialize_with = "or_default")]
    annotations: Annotations,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct RawPlatform {
    #[serde(deserialize_with = "or_default")]
    os: String,
    #[serde(deserialize_with = "or_default")]
    architecture: String,
    #[serde(deserialize_with = "or_default")]
    variant: String,
}

#[derive(Deserialize, Default, Clone)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "io.containerd.image.name")]
    containerd_name: Option<String>,
    #[serde(rename = "org.opencontainers.image.ref.name")]
    ref_name: Option<String>,
    #[serde(rename = "vnd.docker.reference.type")]
    reference_type: Option<String>,
}

/// What a blob is meant to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Index,
    Manifest,
    /// The media type does not say.
    Either,
}

impl Descriptor {
    fn role(&self) -> Result<Role, String> {
        match self.media_type.as_str() {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Ok(Role::Index),
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Ok(Role::Manifest),
            "" => Ok(Role::Either),
            other => Err(format!(
                "{} has the unknown media type {other}",
                self.digest
            )),
        }
    }

    /// BuildKit keeps provenance beside the images, as manifests for a platform that does not exist.
    fn is_attestation(&self) -> bool {
        self.annotations.reference_type.is_some()
            || self
                .platform
                .as_ref()
                .is_some_and(|p| p.os == "unknown" && p.architecture == "unknown")
    }

    fn platform(&self) -> Option<Platform> {
        let platform = self.platform.as_ref()?;
        (!platform.architecture.is_empty()).then(|| Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
        })
    }

    /// The image's name: containerd's annotation, else OCI's if it is a whole reference. A bare tag names no
    /// repository, and a digest no tag.
    fn tag(&self) -> Option<&str> {
        let a = &self.annotations;
        let whole = |name: &&str| name.contains([':', '/']);
        let name = match a.containerd_name.as_deref().filter(|n| !n.is_empty()) {
            Some(name) => Some(name),
            None => a.ref_name.as_deref().filter(whole),
        };
        name.filter(|name| !name.contains('@'))
    }
}

/// Whether a layer of this media type is a tar that can be unpacked. The compression is known by the bytes.
fn is_layer(media_type: &str) -> bool {
    let base = match media_type.split_once('+') {
        Some((base, "gzip" | "zstd")) => base,
        Some(_) => return false,
        None => media_type,
    };
    matches!(
        base,
        "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
            | ""
    )
}

/// Of the platforms' images those that fit best. What says no platform always fits: it was put there alone.
fn best(mut descriptors: Vec<Descriptor>, host: &Platform) -> Result<Vec<Descriptor>, Vec<String>> {
    descriptors.retain(|d| !d.is_attestation());
    let distance = |d: &Descriptor| match d.platform() {
        None => Some(0),
        Some(platform) => host.distance(&platform),
    };
    let Some(least) = descriptors.iter().filter_map(distance).min() else {
        let mut found: Vec<String> = Vec::new();
        for platform in descriptors.iter().filter_map(Descriptor::platform) {
            let text = crate::model::tar::shown(platform.to_string().as_bytes());
            if !found.contains(&text) && found.len() < 20 {
                found.push(text);
            }
        }
        return match found.is_empty() {
            true => Ok(Vec::new()),
            false => Err(found),
        };
    };
    descriptors.retain(|d| distance(d) == Some(least));
    Ok(descriptors)
}

/// Reads the images of an OCI layout.
pub(super) fn read(
    images: &mut Images<'_>,
    index: &Blob,
    host: &Platform,
) -> Result<(), ArchiveError> {
    let outer = images.outer;
    check_layout(images)?;
    let text = images.document(INDEX, index, None)?;
    let document: Document = json::read(&text).map_err(|reason| outer.bad(INDEX, reason))?;
    drop(text);
    let Some(list) = document.manifests else {
        return Err(outer.bad(INDEX, "no manifests in it".to_owned()));
    };
    let mut reader = Reader {
        outer,
        host,
        images,
        known: HashMap::new(),
    };
    // Each name is an image of its own, maybe for several platforms.
    let mut groups: Vec<(Option<String>, Vec<Descriptor>)> = Vec::new();
    let mut places: HashMap<Option<String>, usize> = HashMap::new();
    for descriptor in list.0 {
        let name = descriptor.tag().map(str::to_owned);
        match places.get(&name) {
            Some(at) => groups[*at].1.push(descriptor),
            None => {
                places.insert(name.clone(), groups.len());
                groups.push((name, vec![descriptor]));
            }
        }
    }
    for (name, group) in groups {
        let tags: Vec<Reference> = match &name {
            None => Vec::new(),
            Some(tag) => vec![tag.parse().map_err(|source| outer.bad_tag(tag, source))?],
        };
        for descriptor in reader.choose(group)? {
            if let Some(at) = reader.descend(&descriptor, INDEX, 0)? {
                reader.images.tag(at, tags.clone())?;
            }
        }
    }
    Ok(())
}

fn check_layout(images: &mut Images<'_>) -> Result<(), ArchiveError> {
    let outer = images.outer;
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct Layout {
        image_layout_version: String,
    }
    const NAME: &str = "oci-layout";
    // Not every program that reads layouts asks for it, so not every one that writes them has it.
    let Some(blob) = outer.find(NAME)? else {
        return Ok(());
    };
    let text = images.document(NAME, &blob, None)?;
    let layout: Layout = json::read(&text).map_err(|reason| outer.bad(NAME, reason))?;
    match layout.image_layout_version.starts_with("1.") {
        true => Ok(()),
        false => Err(outer.bad(
            NAME,
            format!(
                "an OCI layout of the unknown version {:?}",
                layout.image_layout_version
            ),
        )),
    }
}

struct Reader<'r, 'a> {
    outer: &'a Outer,
    host: &'r Platform,
    images: &'r mut Images<'a>,
    /// What descriptors led to before, by media type, digest and size: an index of a few megabytes can name one
    /// other thousands of times.
    known: HashMap<(String, String, Option<u64>), Option<usize>>,
}

impl Reader<'_, '_> {
    fn choose(&self, group: Vec<Descriptor>) -> Result<Vec<Descriptor>, ArchiveError> {
        best(group, self.host).map_err(|found| ArchiveError::Platform {
            archive: self.outer.label().to_owned(),
            wanted: self.host.to_string(),
            found,
        })
    }

    /// A blob that a descriptor in `by` names: its name, its digest, and itself, of the right size.
    fn blob(
        &self,
        descriptor: &Descriptor,
        by: &str,
    ) -> Result<(String, BlobDigest, Blob), ArchiveError> {
        let digest: BlobDigest = descriptor
            .digest
            .parse()
            .map_err(|e: crate::model::ParseIdError| self.outer.bad(by, e.to_string()))?;
        let name = format!("blobs/sha256/{}", digest.hex());
        let blob = self.outer.need(&name, by)?;
        if descriptor.size.is_some_and(|size| size != blob.size) {
            return Err(self.outer.bad(
                &name,
                format!(
                    "it has {} bytes, {by} says {}",
                    blob.size,
                    descriptor.size.unwrap_or_default()
                ),
            ));
        }
        Ok((name, digest, blob))
    }

    /// The place of the image that a descriptor in `by` leads to; `None` where an index has nothing but
    /// attestations.
    fn descend(
        &mut self,
        descriptor: &Descriptor,
        by: &str,
        depth: usize,
    ) -> Result<Option<usize>, ArchiveError> {
        let Descriptor {
            media_type,
            digest,
            size,
            ..
        } = descriptor;
        let key = (media_type.clone(), digest.clone(), *size);
        if let Some(at) = self.known.get(&key) {
            return Ok(*at);
        }
        let at = self.descend_anew(descriptor, by, depth)?;
        self.known.insert(key, at);
        Ok(at)
    }

    fn descend_anew(
        &mut self,
        descriptor: &Descriptor,
        by: &str,
        depth: usize,
    ) -> Result<Option<usize>, ArchiveError> {
        let role = descriptor
            .role()
            .map_err(|reason| self.outer.bad(by, reason))?;
        let (name, digest, blob) = self.blob(descriptor, by)?;
        let text = self.images.document(&name, &blob, Some(&digest))?;
        let bad = |reason: &str| self.outer.bad(&name, reason.to_owned());
        let document: Document =
            json::read(&text).map_err(|reason| self.outer.bad(&name, reason))?;
        drop(text);
        if document.schema_version == Some(1) || document.fs_layers.is_some() {
            return Err(bad(
                "a manifest of Docker's schema 1, which is not supported",
            ));
        }
        // What one program reads as an index and another as a manifest (CVE-2021-41190).
        if document.manifests.is_some() && document.layers.is_some() {
            return Err(bad("both an index and a manifest"));
        }
        if !document.media_type.is_empty()
            && !descriptor.media_type.is_empty()
            && document.media_type != descriptor.media_type
        {
            return Err(bad(
                "its media type is not the one that its descriptor says",
            ));
        }
        let document = match (role, document) {
            (
                Role::Index | Role::Either,
                Document {
                    manifests: Some(list),
                    ..
                },
            ) => {
                if depth == MAX_DEPTH {
                    return Err(bad("too many indexes in one another"));
                }
                // All of them are one image, for one platform each.
                return match self.choose(list.0)?.first() {
                    Some(chosen) => self.descend(chosen, &name, depth + 1),
                    None => Ok(None),
                };
            }
            (Role::Index, _) => return Err(bad("an index without manifests")),
            (_, document) => document,
        };
        let Some(config) = document.config else {
            return Err(bad("a manifest without a config"));
        };
        let layers = document.layers.unwrap_or_default().0;
        self.manifest(&name, &config, layers).map(Some)
    }

    fn manifest(
        &mut self,
        name: &str,
        config: &Descriptor,
        layers: Vec<Descriptor>,
    ) -> Result<usize, ArchiveError> {
        if !matches!(
            config.media_type.as_str(),
            "application/vnd.oci.image.config.v1+json"
                | "application/vnd.docker.container.image.v1+json"
                | ""
        ) {
            return Err(self.outer.bad(
                name,
                format!("not an image: its config is a {}", config.media_type),
            ));
        }
        let (config_name, digest, blob) = self.blob(config, name)?;
        let config = self.images.document(&config_name, &blob, Some(&digest))?;
        let mut found = Vec::new();
        for layer in layers {
            if !is_layer(&layer.media_type) {
                return Err(self.outer.bad(
                    name,
                    format!("a layer of the unknown media type {}", layer.media_type),
                ));
            }
            let (layer_name, digest, blob) = self.blob(&layer, name)?;
            found.push((layer_name, Some(digest), blob));
        }
        self.images.add(&config_name, config, found, Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_of_layers() {
        for good in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+gzip",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        ] {
            assert!(is_layer(good), "{good}");
        }
        for bad in [
            "application/vnd.oci.image.layer.v1.tar+encrypted",
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.in-toto+json",
            "application/octet-stream",
        ] {
            assert!(!is_layer(bad), "{bad}");
        }
    }

    #[test]
    fn tags() {
        let tag = |containerd: Option<&str>, oci: Option<&str>| {
            let descriptor = Descriptor {
                annotations: Annotations {
                    containerd_name: containerd.map(str::to_owned),
                    ref_name: oci.map(str::to_owned),
                    reference_type: None,
                },
                ..Descriptor::default()
            };
            descriptor.tag().map(str::to_owned)
        };
        for (containerd, oci, want) in [
            (None, None, None),
            (None, Some("latest"), None),
            (None, Some("3.19"), None),
            (None, Some("app:1"), Some("app:1")),
            (None, Some("me/app"), Some("me/app")),
            (
                Some("docker.io/library/a:1"),
                Some("1"),
                Some("docker.io/library/a:1"),
            ),
            (Some(""), Some("a:1"), Some("a:1")),
            (Some("a@sha256:00"), None, None),
        ] {
            assert_eq!(
                tag(containerd, oci).as_deref(),
                want,
                "{containerd:?} {oci:?}"
            );
        }
    }
}
