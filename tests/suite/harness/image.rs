//! Images made from a description, so that tests need no other program.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use layerctl::archive::platform::Platform;
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

/// One layer: what its tar contains, in this order.
#[derive(Debug, Clone, Default)]
pub struct Layer {
    entries: Vec<Entry>,
}

/// One entry of a layer's tar.
#[derive(Debug, Clone)]
pub struct Entry {
    path: String,
    kind: EntryType,
    data: Vec<u8>,
    link: String,
    mode: u32,
    owner: (u64, u64),
    mtime: u64,
    device: (u32, u32),
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Layer {
    /// An empty one.
    pub fn new() -> Layer {
        Layer::default()
    }

    fn add(mut self, path: &str, kind: EntryType, mode: u32) -> Layer {
        self.entries.push(Entry {
            path: path.to_owned(),
            kind,
            data: Vec::new(),
            link: String::new(),
            mode,
            owner: (0, 0),
            mtime: 1_600_000_000 + self.entries.len() as u64,
            device: (0, 0),
            xattrs: Vec::new(),
        });
        self
    }

    fn change(mut self, change: impl FnOnce(&mut Entry)) -> Layer {
        change(self.entries.last_mut().expect("an entry to change"));
        self
    }

    /// A directory, mode 0755.
    pub fn dir(self, path: &str) -> Layer {
        self.add(path, EntryType::Directory, 0o755)
    }

    /// A regular file, mode 0644.
    pub fn file(self, path: &str, data: impl Into<Vec<u8>>) -> Layer {
        let data = data.into();
        self.add(path, EntryType::Regular, 0o644)
            .change(|e| e.data = data)
    }

    /// A symbolic link.
    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.add(path, EntryType::Symlink, 0o777)
            .change(|e| e.link = target.to_owned())
    }

    /// Another name of an earlier file.
    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.add(path, EntryType::Link, 0o644)
            .change(|e| e.link = target.to_owned())
    }

    /// A named pipe.
    pub fn fifo(self, path: &str) -> Layer {
        self.add(path, EntryType::Fifo, 0o600)
    }

    /// A character device.
    pub fn char_device(self, path: &str, major: u32, minor: u32) -> Layer {
        self.add(path, EntryType::Char, 0o600)
            .change(|e| e.device = (major, minor))
    }

    /// `.wh.NAME`: what a lower layer has here is gone.
    pub fn whiteout(self, path: &str) -> Layer {
        let marked = match path.rsplit_once('/') {
            Some((dir, name)) => format!("{dir}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&marked, "")
    }

    /// `.wh..wh..opq`: nothing of the lower layers shows in this directory.
    pub fn opaque(self, dir: &str) -> Layer {
        self.file(&format!("{dir}/.wh..wh..opq"), "")
    }

    /// The mode of the entry added last.
    pub fn mode(self, mode: u32) -> Layer {
        self.change(|e| e.mode = mode)
    }

    /// The owner of the entry added last.
    pub fn owner(self, uid: u64, gid: u64) -> Layer {
        self.change(|e| e.owner = (uid, gid))
    }

    /// An extended attribute of the entry added last.
    pub fn xattr(self, name: &str, value: impl Into<Vec<u8>>) -> Layer {
        let value = value.into();
        self.change(|e| e.xattrs.push((name.to_owned(), value)))
    }

    /// The tar, uncompressed.
    pub fn tar(&self) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            entry.append(&mut tar);
        }
        tar.into_inner().expect("write to memory")
    }
}

impl Entry {
    fn append(&self, tar: &mut tar::Builder<Vec<u8>>) {
        if !self.xattrs.is_empty() {
            let keys: Vec<(String, &[u8])> = self
                .xattrs
                .iter()
                .map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_slice()))
                .collect();
            tar.append_pax_extensions(keys.iter().map(|(k, v)| (k.as_str(), *v)))
                .expect("write to memory");
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0);
        header.set_gid(self.owner.1);
        header.set_mtime(self.mtime);
        header.set_size(self.data.len() as u64);
        if matches!(self.kind, EntryType::Char | EntryType::Block) {
            header
                .set_device_major(self.device.0)
                .expect("a GNU header");
            header
                .set_device_minor(self.device.1)
                .expect("a GNU header");
        }
        // The names as they are, so that hostile ones get into the archive; long ones before it, as
        // GNU tar writes them.
        long_name(tar, EntryType::GNULongName, &self.path);
        long_name(tar, EntryType::GNULongLink, &self.link);
        let fields = header.as_old_mut();
        for (field, text) in [
            (&mut fields.name, &self.path),
            (&mut fields.linkname, &self.link),
        ] {
            let len = text.len().min(field.len());
            field[..len].copy_from_slice(&text.as_bytes()[..len]);
        }
        header.set_cksum();
        tar.append(&header, self.data.as_slice())
            .expect("write to memory");
    }
}

/// The entry that holds a name too long for its field.
fn long_name(tar: &mut tar::Builder<Vec<u8>>, kind: EntryType, name: &str) {
    if name.len() < 100 {
        return;
    }
    let mut header = Header::new_gnu();
    header.set_path("././@LongLink").expect("a short name");
    header.set_entry_type(kind);
    header.set_size(name.len() as u64 + 1);
    header.set_cksum();
    tar.append(&header, [name.as_bytes(), b"\0"].concat().as_slice())
        .expect("write to memory");
}

/// What an image consists of.
#[derive(Debug, Clone)]
pub struct Image {
    tags: Vec<String>,
    layers: Vec<Layer>,
    label: String,
    config: Vec<(String, serde_json::Value)>,
}

impl Image {
    /// With these tags (`REPO:TAG`) and layers, the lowest first.
    pub fn new(tags: &[&str], layers: Vec<Layer>) -> Image {
        Image {
            tags: tags.iter().map(|&t| t.to_owned()).collect(),
            layers,
            label: String::new(),
            config: Vec::new(),
        }
    }

    /// One more layer, on top.
    pub fn layer(mut self, layer: Layer) -> Image {
        self.layers.push(layer);
        self
    }

    /// A field of its config's `config`: what containers of it are to run, and how.
    pub fn config(mut self, field: &str, value: serde_json::Value) -> Image {
        self.config.push((field.to_owned(), value));
        self
    }

    /// Makes the config, and so the ID, differ from an image with the same layers.
    pub fn label(mut self, label: &str) -> Image {
        self.label = label.to_owned();
        self
    }
}

/// The identifiers of an image that was put in an archive.
#[derive(Debug, Clone)]
pub struct Built {
    /// `sha256:` and 64 digits.
    pub id: String,
    /// As given.
    pub tags: Vec<String>,
    /// The layers' diff IDs, lowest first, with `sha256:`.
    pub diffs: Vec<String>,
    /// The layers' chain IDs, lowest first, with `sha256:`.
    pub chains: Vec<String>,
}

impl Built {
    /// The first 12 digits of the ID.
    pub fn short(&self) -> &str {
        &self.id["sha256:".len()..][..12]
    }

    /// 64 digits of the diff ID of a layer, the name of its directory in the store.
    pub fn layer_dir(&self, index: usize) -> &str {
        &self.diffs[index]["sha256:".len()..]
    }
}

/// A docker-archive.
#[derive(Debug, Default)]
pub struct Archive {
    /// Names and contents, in the order in which they are written.
    pub members: Vec<(String, Vec<u8>)>,
    manifest: Vec<serde_json::Value>,
}

impl Archive {
    /// One with this image alone, and its identifiers.
    pub fn of(image: &Image) -> (Archive, Built) {
        let mut archive = Archive::default();
        let built = archive.add(image);
        (archive, built)
    }

    /// One with an image of these layers' tars, whatever is in them, the lowest first.
    pub fn of_tars(tag: &str, tars: Vec<Vec<u8>>) -> (Archive, Built) {
        let mut archive = Archive::default();
        let built = archive.add_tars(&Image::new(&[tag], Vec::new()), tars);
        (archive, built)
    }

    /// Adds an image; layers that are there already are not written twice.
    pub fn add(&mut self, image: &Image) -> Built {
        let tars = image.layers.iter().map(Layer::tar).collect();
        self.add_tars(image, tars)
    }

    fn add_tars(&mut self, image: &Image, tars: Vec<Vec<u8>>) -> Built {
        let diffs: Vec<String> = tars.iter().map(|tar| digest(tar)).collect();
        let files: Vec<String> = diffs.iter().map(|d| format!("{}.tar", &d[7..])).collect();
        for (name, tar) in files.iter().zip(tars) {
            if !self.members.iter().any(|(known, _)| known == name) {
                self.members.push((name.clone(), tar));
            }
        }
        let mut run = json!({"Labels": {"label": image.label}, "Cmd": ["/bin/sleep", "1000"]});
        for (field, value) in &image.config {
            run[field] = value.clone();
        }
        let config = json!({
            "architecture": Platform::host().architecture, "os": "linux", "created": "2024-01-02T03:04:05Z",
            "config": run,
            "rootfs": {"type": "layers", "diff_ids": diffs},
            "history": diffs.iter().map(|d| json!({
                "created": "2024-01-02T03:04:05Z", "created_by": format!("layer {}", &d[7..19]),
            })).collect::<Vec<_>>(),
        })
        .to_string();
        let id = digest(config.as_bytes());
        let config_name = format!("{}.json", &id[7..]);
        self.manifest
            .push(json!({"Config": config_name, "RepoTags": image.tags, "Layers": files}));
        self.members.push((config_name, config.into_bytes()));
        let mut chains: Vec<String> = Vec::new();
        for diff in &diffs {
            chains.push(match chains.last() {
                None => diff.clone(),
                Some(below) => digest(format!("{below} {diff}").as_bytes()),
            });
        }
        Built {
            id,
            tags: image.tags.clone(),
            diffs,
            chains,
        }
    }

    /// The archive as bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let manifest = serde_json::Value::from(self.manifest.clone()).to_string();
        let mut tar = tar::Builder::new(Vec::new());
        let members = self
            .members
            .iter()
            .map(|(name, data)| (name.as_str(), data.as_slice()));
        for (name, data) in members.chain([("manifest.json", manifest.as_bytes())]) {
            let mut header = Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(data.len() as u64);
            tar.append_data(&mut header, name, data)
                .expect("write to memory");
        }
        tar.into_inner().expect("write to memory")
    }

    /// Writes it to a file.
    #[track_caller]
    pub fn write(&self, path: &Path) {
        let mut file = File::create(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        file.write_all(&self.bytes()).expect("write an archive");
    }
}

/// `sha256:` and the digits.
pub fn digest(bytes: &[u8]) -> String {
    let digits: String = Sha256::digest(bytes)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("sha256:{digits}")
}
