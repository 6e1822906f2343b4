//! Writing images as an archive that is a docker-archive and an OCI layout at once, as Docker 25 and
//! later do, or an OCI layout alone.
//!
//! ```text
//! oci-layout
//! blobs/sha256/<hex>   layers, configs and OCI manifests, each once
//! index.json           OCI: the manifests, once for every tag
//! manifest.json        docker-archive: configs, tags and layers, by the names of their blobs
//! ```
//!
//! Always the same bytes for the same images, in one pass from the first to the last, in memory that
//! does not grow with them. Where layers come from is not known here: [`LayerSource`] has them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::path::Path;

use serde_json::{Value, json};
use tar::{EntryType, Header};

use crate::model::digest::DigestWriter;
use crate::model::{BlobDigest, DiffId, ImageId, Reference};

/// Which of the two the archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// A docker-archive that is an OCI layout as well.
    Docker,
    /// An OCI layout alone.
    Oci,
}

/// What layers are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compress {
    /// gzip, level 6.
    Gzip,
    /// zstd, level 3.
    Zstd,
}

/// An image that is saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedImage {
    /// The digest of its config.
    pub id: ImageId,
    /// The config, byte for byte.
    pub config: Vec<u8>,
    /// The names that it is saved with; there may be none.
    pub tags: Vec<Reference>,
    /// Its layers, lowest first.
    pub diffs: Vec<DiffId>,
}

/// Where the tars of layers come from.
pub trait LayerSource {
    /// Why there is none.
    type Error;

    /// The bytes of a layer's tar.
    fn length(&self, diff: &DiffId) -> Result<u64, Self::Error>;

    /// Writes it. What `out` says is given back as it is.
    fn write(&self, diff: &DiffId, out: &mut dyn Write) -> Result<(), Self::Error>;
}

/// Why images are not saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError<E> {
    /// The archive cannot be written.
    #[error("cannot write the archive: {}", crate::sys::reason(.0))]
    Write(#[from] io::Error),
    /// A layer has no tar.
    #[error("layer {layer}: {source}")]
    Layer {
        /// Which.
        layer: DiffId,
        /// Why.
        source: E,
    },
    /// A layer's tar is not the one that it was loaded with.
    #[error("layer {layer}: its files are not what they were when it was unpacked")]
    Changed {
        /// Which.
        layer: DiffId,
    },
    /// No room for a compressed layer.
    #[error("cannot write a layer in {directory}: {}", crate::sys::reason(source))]
    Spool {
        /// Where.
        directory: String,
        /// The system's answer.
        source: io::Error,
    },
}

/// How images are saved.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// As what.
    pub format: Format,
    /// How the layers are compressed; not at all: their digests are the diff IDs.
    pub compress: Option<Compress>,
    /// Where unnamed files may be made, for layers while they are compressed.
    pub spool_dir: &'a Path,
}

/// What an archive says of one of its blobs.
struct Blob {
    digest: BlobDigest,
    size: u64,
}

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Saves images. Gives back what was written to; the caller flushes it.
///
/// # Errors
/// What has been written by then is no archive.
pub fn save<W: Write, S: LayerSource>(
    out: W,
    images: &[SavedImage],
    layers: &S,
    options: Options<'_>,
) -> Result<W, SaveError<S::Error>> {
    let mut archive = Writer {
        out,
        written: BTreeSet::new(),
    };
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.directory("blobs/")?;
    archive.directory("blobs/sha256/")?;
    let mut blobs = BTreeMap::new();
    for diff in images.iter().flat_map(|image| &image.diffs) {
        if !blobs.contains_key(diff) {
            blobs.insert(diff.clone(), archive.layer(diff, layers, options)?);
        }
    }
    let (mut manifests, mut entries) = (Vec::new(), Vec::new());
    for image in images {
        let config = archive.blob(&image.config)?;
        let of_image: Vec<(&DiffId, &Blob)> = image
            .diffs
            .iter()
            .filter_map(|diff| blobs.get(diff).map(|blob| (diff, blob)))
            .collect();
        let media_type = layer_type(options.compress);
        let described = of_image
            .iter()
            .map(|(_, blob)| descriptor(&media_type, blob));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": described.collect::<Vec<_>>(),
        });
        let manifest = archive.blob(manifest.to_string().as_bytes())?;
        manifests.extend(named(&manifest, &image.tags));
        entries.push(docker_entry(image, &config, &of_image, &media_type));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
    archive.file("index.json", index.to_string().as_bytes())?;
    if options.format == Format::Docker {
        archive.file("manifest.json", Value::from(entries).to_string().as_bytes())?;
    }
    Ok(archive.finish()?)
}

fn layer_type(compress: Option<Compress>) -> String {
    let suffix = match compress {
        None => "",
        Some(Compress::Gzip) => "+gzip",
        Some(Compress::Zstd) => "+zstd",
    };
    format!("{LAYER}{suffix}")
}

fn descriptor(media_type: &str, blob: &Blob) -> Value {
    json!({ "mediaType": media_type, "digest": blob.digest.to_string(), "size": blob.size })
}

/// A manifest as the index has it: once for every name, or once without.
fn named(manifest: &Blob, tags: &[Reference]) -> Vec<Value> {
    let plain = descriptor(MANIFEST, manifest);
    if tags.is_empty() {
        return vec![plain];
    }
    let with_name = |tag: &Reference| {
        let mut named = plain.clone();
        named["annotations"] = json!({
            "io.containerd.image.name": tag.canonical(),
            "org.opencontainers.image.ref.name": tag.tag(),
        });
        named
    };
    tags.iter().map(with_name).collect()
}

fn docker_entry(
    image: &SavedImage,
    config: &Blob,
    layers: &[(&DiffId, &Blob)],
    media_type: &str,
) -> Value {
    let names: Vec<String> = layers.iter().map(|(_, blob)| blob.name()).collect();
    let tags: Vec<String> = image.tags.iter().map(ToString::to_string).collect();
    let sources = layers
        .iter()
        .map(|(diff, blob)| (diff.to_string(), descriptor(media_type, blob)));
    json!({
        "Config": config.name(),
        "RepoTags": if tags.is_empty() { Value::Null } else { tags.into() },
        "Layers": names,
        "LayerSources": sources.collect::<serde_json::Map<_, _>>(),
    })
}

impl Blob {
    fn name(&self) -> String {
        format!("blobs/sha256/{}", self.digest.hex())
    }
}

/// The tar on its way out.
struct Writer<W> {
    out: W,
    /// The digests of the blobs that are in it.
    written: BTreeSet<String>,
}

const BLOCK: u64 = 512;
const BUFFER: usize = 128 << 10;

impl<W: Write> Writer<W> {
    fn header(&mut self, name: &str, kind: EntryType, size: u64) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_path(name)?;
        header.set_mode(if kind == EntryType::Directory {
            0o755
        } else {
            0o644
        });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(size);
        header.set_cksum();
        self.out.write_all(header.as_bytes())
    }

    fn fill(&mut self, size: u64) -> io::Result<()> {
        let fill = size.next_multiple_of(BLOCK) - size;
        io::copy(&mut io::repeat(0).take(fill), &mut self.out).map(drop)
    }

    fn directory(&mut self, name: &str) -> io::Result<()> {
        self.header(name, EntryType::Directory, 0)
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.header(name, EntryType::Regular, bytes.len() as u64)?;
        self.out.write_all(bytes)?;
        self.fill(bytes.len() as u64)
    }

    /// A config or manifest.
    fn blob(&mut self, bytes: &[u8]) -> io::Result<Blob> {
        let blob = Blob {
            digest: BlobDigest::of(bytes),
            size: bytes.len() as u64,
        };
        if self.written.insert(blob.digest.hex().to_owned()) {
            self.file(&blob.name(), bytes)?;
        }
        Ok(blob)
    }

    fn layer<S: LayerSource>(
        &mut self,
        diff: &DiffId,
        layers: &S,
        options: Options<'_>,
    ) -> Result<Blob, SaveError<S::Error>> {
        if let Some(compress) = options.compress {
            return self.compressed_layer(diff, layers, compress, options.spool_dir);
        }
        let failed = |source| SaveError::Layer {
            layer: diff.clone(),
            source,
        };
        let blob = Blob {
            digest: BlobDigest::of_layer(diff),
            size: layers.length(diff).map_err(failed)?,
        };
        if !self.written.insert(blob.digest.hex().to_owned()) {
            return Ok(blob);
        }
        self.header(&blob.name(), EntryType::Regular, blob.size)?;
        let mut tar = LayerTar::new(&mut self.out);
        let written = layers.write(diff, &mut tar);
        if let Some(e) = tar.failed.take() {
            return Err(SaveError::Write(e));
        }
        written.map_err(failed)?;
        // Before the fill: a tar of another length is another tar.
        tar.check(diff)?;
        self.fill(blob.size)?;
        Ok(blob)
    }

    /// Its digest and size are known only when all of it is compressed: so that goes to a file first.
    fn compressed_layer<S: LayerSource>(
        &mut self,
        diff: &DiffId,
        layers: &S,
        compress: Compress,
        spool_dir: &Path,
    ) -> Result<Blob, SaveError<S::Error>> {
        let spooled = |source| SaveError::Spool {
            directory: spool_dir.display().to_string(),
            source,
        };
        let file = tempfile::tempfile_in(spool_dir).map_err(spooled)?;
        let stored = DigestWriter::new(file);
        let encoder = Encoder::new(compress, stored).map_err(spooled)?;
        let mut tar = LayerTar::new(encoder);
        let written = layers.write(diff, &mut tar);
        if let Some(e) = tar.failed.take() {
            return Err(spooled(e));
        }
        written.map_err(|source| SaveError::Layer {
            layer: diff.clone(),
            source,
        })?;
        let encoder = tar.check(diff)?;
        let (file, digest, size) = encoder.finish().map_err(spooled)?.finish();
        let blob = Blob { digest, size };
        if self.written.insert(blob.digest.hex().to_owned()) {
            self.header(&blob.name(), EntryType::Regular, blob.size)?;
            self.copy(file, blob.size).map_err(SaveError::Write)?;
        }
        Ok(blob)
    }

    fn copy(&mut self, mut file: File, size: u64) -> io::Result<()> {
        file.rewind()?;
        let mut buffer = vec![0; BUFFER];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return self.fill(size),
                Ok(n) => self.out.write_all(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK as usize])?;
        Ok(self.out)
    }
}

/// Where a layer's tar is written to: its digest must be the layer's.
struct LayerTar<W> {
    out: DigestWriter<W>,
    /// Tells what cannot be read from what cannot be written.
    failed: Option<io::Error>,
}

impl<W> LayerTar<W> {
    fn new(out: W) -> LayerTar<W> {
        LayerTar {
            out: DigestWriter::new(out),
            failed: None,
        }
    }

    /// Whether it was the tar of this layer.
    fn check<E>(self, diff: &DiffId) -> Result<W, SaveError<E>> {
        let (out, digest, _) = self.out.finish();
        match digest == BlobDigest::of_layer(diff) {
            true => Ok(out),
            false => Err(SaveError::Changed {
                layer: diff.clone(),
            }),
        }
    }
}

impl<W: Write> Write for LayerTar<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.out.write(bytes) {
            Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                let kind = e.kind();
                self.failed = Some(e);
                Err(kind.into())
            }
            other => other,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

enum Encoder<W: Write> {
    Gzip(flate2::write::GzEncoder<W>),
    Zstd(zstd::Encoder<'static, W>),
}

impl<W: Write> Encoder<W> {
    fn new(compress: Compress, out: W) -> io::Result<Encoder<W>> {
        Ok(match compress {
            Compress::Gzip => {
                let level = flate2::Compression::default();
                Encoder::Gzip(flate2::write::GzEncoder::new(out, level))
            }
            Compress::Zstd => {
                Encoder::Zstd(zstd::Encoder::new(out, zstd::DEFAULT_COMPRESSION_LEVEL)?)
            }
        })
    }

    fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Gzip(encoder) => encoder.write(bytes),
            Encoder::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }
}
