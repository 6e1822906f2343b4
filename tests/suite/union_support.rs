//! What the union's tests share: directories to make a view of, and a driver that calls the union
//! by paths, without a mount.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use layerctl::model::{DiffId, ImageId};
use layerctl::store::Store;
use layerctl::store::index::{LayerAt, merged};
use layerctl::union::{
    Attr, Caller, Entry, Error, Layers, LowerIndex, NewEntry, Options, ROOT_INO, RenameHow,
    SetAttr, Union, What, WriteHow,
};
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::harness::{Overlay, disk};

pub type Result<T> = std::result::Result<T, Error>;

/// Root, as the caller of everything.
pub const ROOT: Caller = Caller { uid: 0, gid: 0 };

thread_local! {
    static WITH_INDEX: Cell<bool> = const { Cell::new(false) };
}

/// Runs a test on layers that are indexed.
pub fn with_index(run: fn()) {
    WITH_INDEX.set(true);
    run();
    WITH_INDEX.set(false);
}

pub fn is_indexed() -> bool {
    WITH_INDEX.get()
}

/// Where a layer of a directory is: `lN/tree`, as a store has it.
pub fn layer_in(below: &Path, layer: usize) -> PathBuf {
    below.join(format!("l{layer}/tree"))
}

/// Opens the layers of a directory, with `upper` and `work` in another.
pub fn open_layers(below: &Path, changes: &Path, layers: usize, indexed: bool) -> Layers {
    let layers: Vec<PathBuf> = (0..layers).map(|layer| layer_in(below, layer)).collect();
    Layers {
        index: indexed.then(|| index(below, &layers)),
        lowers: layers.iter().map(|layer| open_dir(layer)).collect(),
        upper: Some(open_dir(&changes.join("upper"))),
        work: Some(open_dir(&changes.join("work"))),
    }
}

/// Layers (`l0` topmost), upper and work, below a directory that goes with this.
pub struct Dirs {
    pub temp: tempfile::TempDir,
    pub layers: usize,
    /// What is not of a store: see `on_overlay`.
    pub plain: Option<Overlay>,
}

impl Dirs {
    pub fn new(layers: usize) -> Dirs {
        let temp = disk::temp_dir();
        for name in ["upper", "work", "model", "mnt", "ovl-upper", "ovl-work"] {
            fs::create_dir(temp.path().join(name)).unwrap();
        }
        let dirs = Dirs {
            temp,
            layers,
            plain: None,
        };
        for layer in 0..layers {
            fs::create_dir_all(dirs.layer(layer)).unwrap();
        }
        dirs
    }

    /// Plain directories, with upper and work on a kernel overlayfs: there whiteouts cannot be made
    /// as devices.
    pub fn on_overlay(layers: usize) -> Dirs {
        let mut dirs = Dirs::new(layers);
        let changes = (dirs.path("ovl-upper"), dirs.path("ovl-work"));
        let overlay = Overlay::new(&[dirs.path("mnt")], Some((&changes.0, &changes.1)));
        for name in ["upper", "work"] {
            fs::create_dir(overlay.path().join(name)).unwrap();
        }
        dirs.plain = Some(overlay);
        dirs
    }

    /// Plain layers have whiteouts that are files.
    pub fn convert_layer(&self, layer: usize) {
        if self.plain.is_some() {
            into_files(&self.layer(layer));
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The index that the latest view was made with.
    pub fn index_file(&self) -> PathBuf {
        let image = ImageId::of(b"image");
        self.path(&format!("store/images/{}/index", image.hex()))
    }

    pub fn layer(&self, layer: usize) -> PathBuf {
        layer_in(self.temp.path(), layer)
    }

    pub fn upper(&self) -> PathBuf {
        self.changes("upper")
    }

    fn changes(&self, name: &str) -> PathBuf {
        match &self.plain {
            Some(overlay) => overlay.path().join(name),
            None => self.path(name),
        }
    }

    pub fn open(&self) -> Layers {
        let changes = self.changes("");
        open_layers(self.temp.path(), &changes, self.layers, is_indexed())
    }

    pub fn view(&self) -> View {
        View {
            union: Union::new(
                self.open(),
                Options {
                    volatile: true,
                    plain: self.plain.is_some(),
                    ..Options::default()
                },
            )
            .unwrap(),
        }
    }
}

/// Turns the whiteouts and opaque marks of a layer into files `.wh.NAME` and `.wh..wh..opq`.
pub fn into_files(layer: &Path) {
    for entry in fs::read_dir(layer).unwrap() {
        let entry = entry.unwrap();
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_char_device() {
            fs::remove_file(&path).unwrap();
            let name = [b".wh.", entry.file_name().as_bytes()].concat();
            fs::write(layer.join(OsStr::from_bytes(&name)), "").unwrap();
        } else if kind.is_dir() {
            let before = fs::metadata(&path).unwrap().modified().unwrap();
            into_files(&path);
            if get_xattr(&path, "trusted.overlay.opaque").is_some() {
                rustix::fs::lremovexattr(&path, "trusted.overlay.opaque").unwrap();
                fs::write(path.join(".wh..wh..opq"), "").unwrap();
            }
            File::open(&path).unwrap().set_modified(before).unwrap();
        }
    }
}

pub fn open_dir(path: &Path) -> OwnedFd {
    File::open(path).unwrap().into()
}

/// Writes a file and the directories it is in.
pub fn put(root: &Path, path: &str, content: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, content).unwrap();
}

pub fn whiteout(root: &Path, path: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let (cwd, mode) = (rustix::fs::CWD, Mode::empty());
    rustix::fs::mknodat(cwd, &path, FileType::CharacterDevice, mode, 0).unwrap();
}

pub fn opaque(root: &Path, path: &str) {
    let path = root.join(path);
    fs::create_dir_all(&path).unwrap();
    set_xattr(&path, "trusted.overlay.opaque", b"y");
}

pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

pub fn get_xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    match rustix::fs::lgetxattr(path, name, &mut value[..]) {
        Ok(len) => value.truncate(len),
        // No such one, or not of this kind of file.
        Err(Errno::NODATA | Errno::OPNOTSUPP) => return None,
        Err(e) => panic!("{name} of {}: {e}", path.display()),
    }
    Some(value)
}

/// A union called by paths.
pub struct View {
    pub union: Union,
}

impl View {
    pub fn entry(&self, path: &str) -> Result<Entry> {
        let mut at: Option<Entry> = None;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let parent = at.as_ref().map_or(ROOT_INO, |entry| entry.attr.ino);
            at = Some(self.union.lookup(parent, name.as_bytes())?);
        }
        at.ok_or(Error::Invalid)
    }

    /// Calls with the number of the directory that `path` is in, and its last name.
    pub fn at<T>(&self, path: &str, call: impl FnOnce(u64, &[u8]) -> Result<T>) -> Result<T> {
        match path.rsplit_once('/') {
            None => call(ROOT_INO, path.as_bytes()),
            Some((parent, name)) => {
                let parent = self.entry(parent)?;
                call(parent.attr.ino, name.as_bytes())
            }
        }
    }

    pub fn attr(&self, path: &str) -> Result<Attr> {
        if path.is_empty() {
            return self.union.getattr(ROOT_INO);
        }
        Ok(self.entry(path)?.attr)
    }

    pub fn make(&self, path: &str, mode: u32, what: What<'_>) -> Result<Entry> {
        self.at(path, |parent, name| {
            let new = NewEntry {
                parent,
                name,
                caller: ROOT,
                mode,
                umask: 0,
            };
            self.union.make(&new, what)
        })
    }

    pub fn mkdir(&self, path: &str) -> Result<()> {
        self.make(path, 0o755, What::Directory).map(drop)
    }

    pub fn open(&self, path: &str, flags: OFlags) -> Result<u64> {
        let entry = self.entry(path)?;
        self.union.open(entry.attr.ino, flags, ROOT)
    }

    pub fn create(&self, path: &str, content: &[u8]) -> Result<()> {
        let handle = self.at(path, |parent, name| {
            let new = NewEntry {
                parent,
                name,
                caller: ROOT,
                mode: 0o644,
                umask: 0,
            };
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
            self.union.create(&new, flags).map(|(_, handle)| handle)
        })?;
        let written = self.union.write(handle, 0, content, WriteHow::default())?;
        assert_eq!(written, content.len());
        self.union.release(handle)
    }

    pub fn write(&self, path: &str, offset: u64, content: &[u8]) -> Result<()> {
        let handle = self.open(path, OFlags::WRONLY)?;
        let written = self
            .union
            .write(handle, offset, content, WriteHow::default());
        self.union.release(handle)?;
        assert_eq!(written?, content.len());
        Ok(())
    }

    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let handle = self.open(path, OFlags::RDONLY)?;
        let content = self.read_handle(handle);
        self.union.release(handle)?;
        content
    }

    pub fn read_handle(&self, handle: u64) -> Result<Vec<u8>> {
        self.union.read(handle, 0, 1 << 16)
    }

    pub fn unlink(&self, path: &str) -> Result<()> {
        self.at(path, |parent, name| self.union.unlink(parent, name))
    }

    pub fn rmdir(&self, path: &str) -> Result<()> {
        self.at(path, |parent, name| self.union.rmdir(parent, name))
    }

    pub fn rename(&self, from: &str, to: &str, how: RenameHow) -> Result<()> {
        self.at(from, |parent, name| {
            self.at(to, |new_parent, new_name| {
                self.union.rename(parent, name, new_parent, new_name, how)
            })
        })
    }

    pub fn link(&self, from: &str, to: &str) -> Result<()> {
        let source = self.entry(from)?;
        self.at(to, |parent, name| {
            self.union.link(source.attr.ino, parent, name)
        })
        .map(drop)
    }

    pub fn setattr(&self, path: &str, set: &SetAttr) -> Result<Attr> {
        let entry = self.entry(path)?;
        self.union.setattr(entry.attr.ino, set, ROOT)
    }

    /// The names in a directory, sorted, without `.` and `..`.
    pub fn list(&self, path: &str) -> Result<Vec<String>> {
        let ino = self.attr(path)?.ino;
        let held = if path.is_empty() {
            None
        } else {
            Some(self.entry(path)?)
        };
        let listing = self.union.list(ino, 0)?;
        drop(held);
        let mut names: Vec<String> = listing
            .items()
            .iter()
            .skip(2)
            .map(|item| OsStr::from_bytes(&item.name).to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }
}

/// The index of all layers together, as a store makes it of its own: each lies in a directory as `tree`.
fn index(below: &Path, layers: &[PathBuf]) -> LowerIndex {
    let (store, image) = indexing_store(below);
    let opened: Vec<(DiffId, OwnedFd)> = layers
        .iter()
        .map(|tree| {
            let directory = tree.parent().unwrap();
            // Of an earlier view: the layer may be another since.
            if directory.join("index").exists() {
                fs::remove_file(directory.join("index")).unwrap();
            }
            let diff = DiffId::of(directory.as_os_str().as_bytes());
            (diff, open_dir(directory))
        })
        .collect();
    let layers: Vec<LayerAt<'_>> = opened
        .iter()
        .map(|(diff, directory)| LayerAt {
            diff,
            directory: directory.as_fd(),
        })
        .collect();
    merged(&store, &image, &layers).unwrap()
}

/// A new store that keeps the merged index, and the image that it is of: the layers may be others than
/// at the last time.
fn indexing_store(below: &Path) -> (Store, ImageId) {
    let root = below.join("store");
    if root.exists() {
        fs::remove_dir_all(&root).unwrap();
    }
    let store = Store::open(&root).unwrap();
    store.furnish().unwrap();
    let image = ImageId::of(b"image");
    fs::create_dir(store.image(&image)).unwrap();
    (store, image)
}
