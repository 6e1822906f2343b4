//! What the tests of archives share: scratch directories, unpacking, and trees as text.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use layerctl::archive::write::{LayerBuilder, Meta};
use layerctl::archive::{Archive, ArchiveError, ArchivedImage, ImageConfig, Input};
use layerctl::model::DiffId;
use layerctl::store::unpack::{UnpackError, Unpacked};
use tempfile::TempDir;

use crate::fuzz_checks::unpack::unpack_and_join;
pub use crate::harness::disk::temp_dir as scratch;
use crate::harness::{Overlay, Run};

pub fn never() -> bool {
    false
}

/// A layer unpacked on its own.
pub struct Layer {
    pub dir: TempDir,
    pub unpacked: Unpacked,
}

impl Layer {
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("tree").join(name)
    }

    pub fn stat(&self, name: &str) -> fs::Metadata {
        fs::symlink_metadata(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    pub fn is_whiteout(&self, name: &str) -> bool {
        let stat = self.stat(name);
        stat.mode() & 0o170000 == 0o020000 && stat.rdev() == 0
    }

    pub fn xattr(&self, name: &str, key: &str) -> Option<Vec<u8>> {
        xattr(&self.path(name), key)
    }

    pub fn is_opaque(&self, name: &str) -> bool {
        self.xattr(name, "trusted.overlay.opaque").as_deref() == Some(b"y")
    }

    /// The names in the layer, sorted.
    pub fn names(&self) -> Vec<String> {
        tree(&self.path("")).into_keys().collect()
    }
}

pub fn xattr(path: &Path, key: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    match rustix::fs::lgetxattr(path, key, &mut value) {
        Ok(n) => value.truncate(n),
        Err(rustix::io::Errno::NODATA) => return None,
        Err(e) => panic!("{key} of {}: {e}", path.display()),
    }
    Some(value)
}

/// Unpacks `tar` into `tree/` of a fresh directory; whatever happens, nothing may be beside it.
pub fn unpack_bytes(tar: &[u8]) -> Result<Layer, UnpackError> {
    let dir = scratch();
    fs::write(dir.path().join("outside"), "untouched").unwrap();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let fd = fs::File::open(&tree).unwrap();
    let unpacked = unpack_and_join(|| tar, fd.as_fd());
    let mut beside: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    beside.sort();
    assert_eq!(beside, ["outside", "tree"]);
    assert_eq!(fs::read(dir.path().join("outside")).unwrap(), b"untouched");
    assert_eq!(fs::metadata(dir.path().join("outside")).unwrap().nlink(), 1);
    unpacked.map(|unpacked| Layer { dir, unpacked })
}

pub fn open(path: &Path) -> Result<Archive, ArchiveError> {
    let spool = path.parent().unwrap();
    Archive::open(Input::Path(path.to_owned()), spool, &never)
}

pub fn images(path: &Path) -> Result<Vec<ArchivedImage>, ArchiveError> {
    open(path)?.images(&never)
}

/// What its config says.
pub fn config(image: &ArchivedImage) -> ImageConfig {
    ImageConfig::parse(&image.config).unwrap()
}

/// Unpacks every layer of an image into `into/N`, checking digests, lowest first.
pub fn unpack_image(archive: &Archive, image: &ArchivedImage, into: &Path) -> Vec<PathBuf> {
    let mut dirs = Vec::new();
    for (n, layer) in image.layers.iter().enumerate() {
        let dir = into.join(n.to_string());
        fs::create_dir_all(&dir).unwrap();
        let fd = fs::File::open(&dir).unwrap();
        let unpacked = unpack_and_join(|| archive.open_layer(layer).unwrap(), fd.as_fd());
        let unpacked = unpacked.unwrap_or_else(|e| panic!("{}: {e}", layer.name));
        assert_eq!(unpacked.diff_id, layer.diff_id, "{}", layer.name);
        let reader = archive.open_layer(layer).unwrap();
        reader.finish(&never).unwrap();
        dirs.push(dir);
    }
    dirs
}

pub fn diff_id(tar: &[u8]) -> DiffId {
    DiffId::of(tar)
}

/// Everything under `root`, each entry as one line of text: type, mode, owner, size, time, device, target,
/// attributes, contents, and which other names are the same file.
pub fn tree(root: &Path) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let mut first: HashMap<u64, String> = HashMap::new();
    let mut dirs = vec![PathBuf::new()];
    while let Some(dir) = dirs.pop() {
        let mut names: Vec<_> = fs::read_dir(root.join(&dir))
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        names.sort();
        for name in names {
            let path = dir.join(&name);
            let full = root.join(&path);
            let stat = fs::symlink_metadata(&full).unwrap();
            let key = path.as_os_str().as_bytes().escape_ascii().to_string();
            let mut line = format!(
                "{:o} {}:{} {}.{:09}",
                stat.mode(),
                stat.uid(),
                stat.gid(),
                stat.mtime(),
                stat.mtime_nsec(),
            );
            if stat.is_file() && stat.len() > 64 << 20 {
                line += &format!(" {}", stat.len());
            } else if stat.is_file() {
                let data = fs::read(&full).unwrap();
                line += &format!(" {} {}", data.len(), DiffId::of(&data).short());
            } else if stat.is_symlink() {
                line += &format!(" -> {}", fs::read_link(&full).unwrap().display());
            } else if stat.is_dir() {
                dirs.push(path);
            } else {
                line += &format!(" dev {:x}", stat.rdev());
            }
            if !stat.is_dir() && stat.nlink() > 1 {
                let same = first.entry(stat.ino()).or_insert_with(|| key.clone());
                line += &format!(" = {same}");
            }
            for name in xattrs(&full) {
                let value = xattr(&full, &name).unwrap();
                line += &format!(" {name}={}", value.escape_ascii());
            }
            out.insert(key, line);
        }
    }
    out
}

fn xattrs(path: &Path) -> Vec<String> {
    let mut list = vec![0; 65_536];
    let n = rustix::fs::llistxattr(path, &mut list[..])
        .unwrap_or_else(|e| panic!("attributes of {}: {e}", path.display()));
    let mut names: Vec<String> = list[..n]
        .split(|b| *b == 0)
        .filter(|n| !n.is_empty())
        .map(|n| String::from_utf8_lossy(n).into_owned())
        .collect();
    names.sort();
    names
}

/// Says where two trees differ, and panics if they do.
pub fn assert_same(what: &str, got: &BTreeMap<String, String>, want: &BTreeMap<String, String>) {
    let mut differences = Vec::new();
    for (name, line) in want {
        match got.get(name) {
            None => differences.push(format!("missing {name}: {line}")),
            Some(g) if g != line => {
                differences.push(format!("{name}:\n  got  {g}\n  want {line}"));
            }
            Some(_) => {}
        }
    }
    for (name, line) in got {
        if !want.contains_key(name) {
            differences.push(format!("too much {name}: {line}"));
        }
    }
    assert!(!want.is_empty(), "{what}: nothing to compare with");
    assert!(
        differences.is_empty(),
        "{what}:\n{}",
        differences.join("\n")
    );
}

/// Runs a shell script, returns what it prints; the variables are given in the environment.
#[track_caller]
pub fn shell(script: &str, variables: &[(&str, &OsStr)]) -> String {
    let mut bash = Command::new("bash");
    bash.args(["-euc", script]).envs(variables.iter().copied());
    Run::of(&mut bash).ok().trim().to_owned()
}

/// A kernel overlayfs over directories, the lowest first, read-only.
pub fn overlay_of(lower_first: &[PathBuf]) -> Overlay {
    let top_first: Vec<PathBuf> = lower_first.iter().rev().cloned().collect();
    Overlay::new(&top_first, None)
}

/// The metadata of a plain file.
pub fn f() -> Meta {
    Meta::mode(0o644)
}

/// A small layer with a bit of everything.
pub fn some_layer() -> Vec<u8> {
    let mut t = LayerBuilder::default();
    t.dir("d", &Meta::mode(0o755).mtime(5, 6)).unwrap();
    t.file("d/f", &f().xattr("user.a", "b"), &[7; 1500])
        .unwrap();
    t.hardlink("l", "d/f").unwrap();
    t.symlink("s", "x".repeat(150)).unwrap();
    t.whiteout("w").unwrap();
    t.finish().unwrap()
}
