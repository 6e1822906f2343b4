//! Writing docker-archives and layers, always the same bytes for the same contents.
//!
//! For `layerctl demo`, which makes an image on the spot, and for tests. What the store has is written by
//! [`save`](super::save).

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::model::{DiffId, ImageId, Reference};

/// The metadata of an entry. The default is root's 0644 of 1970 without attributes.
#[derive(Debug, Clone)]
pub struct Meta {
    /// 0 to 0o7777.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Seconds since 1970 and nanoseconds.
    pub mtime: (u64, u32),
    /// Extended attributes with their namespaces, in order.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl Default for Meta {
    fn default() -> Meta {
        Meta::mode(0o644)
    }
}

impl Meta {
    /// Root's, of 1970, with this mode.
    pub fn mode(mode: u32) -> Meta {
        Meta {
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// With another owner and group.
    pub fn owner(mut self, uid: u32, gid: u32) -> Meta {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// With another time.
    pub fn mtime(mut self, seconds: u64, nanos: u32) -> Meta {
        self.mtime = (seconds, nanos);
        self
    }

    /// With one more extended attribute.
    pub fn xattr(mut self, name: &str, value: impl Into<Vec<u8>>) -> Meta {
        self.xattrs.push((name.to_owned(), value.into()));
        self
    }
}

/// Makes the tar of a layer. Names are written as given, whatever they are: tests need hostile ones.
pub struct LayerBuilder<W: Write> {
    tar: Builder<W>,
}

impl Default for LayerBuilder<Vec<u8>> {
    fn default() -> Self {
        LayerBuilder::new(Vec::new())
    }
}

impl<W: Write> LayerBuilder<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> LayerBuilder<W> {
        LayerBuilder {
            tar: Builder::new(out),
        }
    }

    /// A directory.
    pub fn dir(&mut self, path: impl AsRef<[u8]>, meta: &Meta) -> io::Result<&mut Self> {
        self.entry(path.as_ref(), EntryType::Directory, b"", (0, 0), meta, &[])
    }

    /// A regular file.
    pub fn file(
        &mut self,
        path: impl AsRef<[u8]>,
        meta: &Meta,
        data: &[u8],
    ) -> io::Result<&mut Self> {
        self.entry(path.as_ref(), EntryType::Regular, b"", (0, 0), meta, data)
    }

    /// A regular file of `size` bytes, read from `data`.
    pub fn file_from(
        &mut self,
        path: impl AsRef<[u8]>,
        meta: &Meta,
        size: u64,
        data: impl Read,
    ) -> io::Result<&mut Self> {
        let header = self.head(path.as_ref(), EntryType::Regular, b"", (0, 0), meta, size)?;
        self.tar.append(&header, data)?;
        Ok(self)
    }

    /// A symbolic link.
    pub fn symlink(
        &mut self,
        path: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> io::Result<&mut Self> {
        let (path, target) = (path.as_ref(), target.as_ref());
        let meta = Meta::mode(0o777);
        self.entry(path, EntryType::Symlink, target, (0, 0), &meta, &[])
    }

    /// Another name of a file that came before.
    pub fn hardlink(
        &mut self,
        path: impl AsRef<[u8]>,
        target: impl AsRef<[u8]>,
    ) -> io::Result<&mut Self> {
        let (path, target) = (path.as_ref(), target.as_ref());
        self.entry(path, EntryType::Link, target, (0, 0), &Meta::default(), &[])
    }

    /// Hides `path` of the layers below.
    pub fn whiteout(&mut self, path: impl AsRef<[u8]>) -> io::Result<&mut Self> {
        let path = path.as_ref();
        let name = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let hidden = [&path[..name], b".wh.", &path[name..]].concat();
        self.file(hidden, &Meta::mode(0), &[])
    }

    /// Hides what the layers below have in the directory `path` (empty: the root).
    pub fn opaque(&mut self, path: impl AsRef<[u8]>) -> io::Result<&mut Self> {
        let marker: &[u8] = b".wh..wh..opq";
        let name = match path.as_ref() {
            b"" => marker.to_vec(),
            path => [path, b"/", marker].concat(),
        };
        self.file(name, &Meta::mode(0), &[])
    }

    /// A character device.
    pub fn char_device(
        &mut self,
        path: impl AsRef<[u8]>,
        meta: &Meta,
        device: (u32, u32),
    ) -> io::Result<&mut Self> {
        self.entry(path.as_ref(), EntryType::Char, b"", device, meta, &[])
    }

    /// A block device.
    pub fn block_device(
        &mut self,
        path: impl AsRef<[u8]>,
        meta: &Meta,
        device: (u32, u32),
    ) -> io::Result<&mut Self> {
        self.entry(path.as_ref(), EntryType::Block, b"", device, meta, &[])
    }

    /// A named pipe.
    pub fn fifo(&mut self, path: impl AsRef<[u8]>, meta: &Meta) -> io::Result<&mut Self> {
        self.entry(path.as_ref(), EntryType::Fifo, b"", (0, 0), meta, &[])
    }

    /// Ends the tar.
    pub fn finish(self) -> io::Result<W> {
        self.tar.into_inner()
    }

    fn entry(
        &mut self,
        path: &[u8],
        kind: EntryType,
        link: &[u8],
        device: (u32, u32),
        meta: &Meta,
        data: &[u8],
    ) -> io::Result<&mut Self> {
        let header = self.head(path, kind, link, device, meta, data.len() as u64)?;
        self.tar.append(&header, data)?;
        Ok(self)
    }

    /// A header, after the PAX records for what does not fit into it.
    fn head(
        &mut self,
        path: &[u8],
        kind: EntryType,
        link: &[u8],
        device: (u32, u32),
        meta: &Meta,
        size: u64,
    ) -> io::Result<Header> {
        let mut header = header(kind, size);
        header.set_mode(meta.mode);
        header.set_uid(meta.uid.into());
        header.set_gid(meta.gid.into());
        header.set_mtime(meta.mtime.0);
        let mut records = Vec::new();
        fit(&mut header.as_old_mut().name, path, "path", &mut records);
        fit(
            &mut header.as_old_mut().linkname,
            link,
            "linkpath",
            &mut records,
        );
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(device.0)?;
            header.set_device_minor(device.1)?;
        }
        if meta.mtime.1 != 0 {
            let time = format!("{}.{:09}", meta.mtime.0, meta.mtime.1);
            record(&mut records, "mtime", time.as_bytes());
        }
        for (name, value) in &meta.xattrs {
            record(&mut records, format!("SCHILY.xattr.{name}"), value);
        }
        header.set_cksum();
        if !records.is_empty() {
            let mut extension = self::header(EntryType::XHeader, records.len() as u64);
            extension.set_cksum();
            self.tar.append(&extension, records.as_slice())?;
        }
        Ok(header)
    }
}

pub(super) fn header(kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Puts a name into its field, and into a record if it is too long.
pub(super) fn fit(field: &mut [u8; 100], name: &[u8], key: &str, records: &mut Vec<u8>) {
    let n = name.len().min(field.len());
    field[..n].copy_from_slice(&name[..n]);
    if name.len() > field.len() {
        record(records, key, name);
    }
}

/// Appends a PAX record. Its length counts its own digits.
pub(super) fn record(records: &mut Vec<u8>, key: impl AsRef<[u8]>, value: &[u8]) {
    let key = key.as_ref();
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The uncompressed tar of a layer.
#[derive(Debug, Clone)]
pub enum Layer {
    /// In memory.
    Bytes(Vec<u8>),
    /// In a file, which must not change meanwhile.
    Path(PathBuf),
}

impl Layer {
    fn open(&self) -> io::Result<(u64, Box<dyn Read + '_>)> {
        Ok(match self {
            Layer::Bytes(bytes) => (bytes.len() as u64, Box::new(bytes.as_slice())),
            Layer::Path(path) => {
                let file = File::open(path)?;
                (file.metadata()?.len(), Box::new(file))
            }
        })
    }

    fn diff_id(&self) -> io::Result<DiffId> {
        let mut hash = Sha256::new();
        let (_, mut reader) = self.open()?;
        let mut buffer = vec![0; 128 << 10];
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(DiffId::from_sha256(hash.finalize().as_slice())),
                n => hash.update(&buffer[..n]),
            }
        }
    }
}

/// What an image is besides its layers.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// Its names.
    pub tags: Vec<Reference>,
    /// The config without `rootfs`, which is added.
    pub config: Value,
}

impl ImageSpec {
    /// An image for this machine that runs `cmd`, made at `created` (RFC 3339).
    pub fn new(tags: Vec<Reference>, cmd: &[&str], created: &str) -> ImageSpec {
        let platform = super::platform::Platform::host();
        ImageSpec {
            tags,
            config: json!({
                "architecture": platform.architecture,
                "os": platform.os,
                "created": created,
                "config": {
                    "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                    "Cmd": cmd,
                    "WorkingDir": "/",
                },
            }),
        }
    }

    /// With the history of its making: `created_by` for each layer.
    pub fn history(mut self, steps: &[&str]) -> ImageSpec {
        let created = self.config["created"].clone();
        let steps = steps
            .iter()
            .map(|step| json!({ "created": created, "created_by": step }));
        self.config["history"] = steps.collect();
        self
    }
}

/// Makes a docker-archive; a layer that several images have is written once.
pub struct DockerArchive<W: Write> {
    tar: Builder<W>,
    written: Vec<String>,
    manifest: Vec<Value>,
}

impl<W: Write> DockerArchive<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> DockerArchive<W> {
        DockerArchive {
            tar: Builder::new(out),
            written: Vec::new(),
            manifest: Vec::new(),
        }
    }

    /// Adds an image of these layers, the lowest first.
    pub fn image(&mut self, spec: &ImageSpec, layers: &[Layer]) -> io::Result<ImageId> {
        let mut diff_ids = Vec::new();
        let mut names = Vec::new();
        for layer in layers {
            let diff_id = layer.diff_id()?;
            let name = format!("{}.tar", diff_id.hex());
            let (size, reader) = layer.open()?;
            self.put(&name, size, reader)?;
            diff_ids.push(diff_id.to_string());
            names.push(name);
        }
        let mut config = spec.config.clone();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": diff_ids });
        let config = serde_json::to_vec(&config)?;
        let id = ImageId::of(&config);
        let name = format!("{}.json", id.hex());
        self.put(&name, config.len() as u64, config.as_slice())?;
        let tags: Vec<String> = spec.tags.iter().map(Reference::to_string).collect();
        self.manifest.push(json!({
            "Config": name,
            "RepoTags": tags,
            "Layers": names,
        }));
        Ok(id)
    }

    /// Writes the manifest and ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        let manifest = serde_json::to_vec(&self.manifest)?;
        self.put("manifest.json", manifest.len() as u64, manifest.as_slice())?;
        self.tar.into_inner()
    }

    fn put(&mut self, name: &str, size: u64, data: impl Read) -> io::Result<()> {
        if self.written.iter().any(|w| w == name) {
            return Ok(());
        }
        let mut header = header(EntryType::Regular, size);
        // A name of 64 digits and a suffix always fits.
        header.set_path(name)?;
        header.set_cksum();
        self.tar.append(&header, data)?;
        self.written.push(name.to_owned());
        Ok(())
    }
}
