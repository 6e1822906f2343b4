//! Trees of files: what they hold, and what they take on disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::image::digest;
use super::number;

/// All that a reader can tell about one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Type and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Device number, of devices.
    pub device: u64,
    /// Modification time; seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Links, of all but directories: filesystems count those differently.
    pub links: u64,
    /// The first of the names that this file has.
    pub same_as: PathBuf,
    /// Size and digest of a file, target of a link.
    pub content: String,
    /// Extended attributes, but those that overlayfs and our own union keep for themselves: the latter are
    /// seen where the former shows what the union wrote.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// Every entry below `root`, by its path from there; the root itself is "".
#[track_caller]
pub fn read(root: &Path) -> BTreeMap<PathBuf, Entry> {
    read_all(root, false)
}

/// The same of a kernel overlayfs, which lists the whiteouts of a directory that is in one layer alone, and says
/// when it is asked that they are not there.
#[track_caller]
pub fn read_overlayfs(root: &Path) -> BTreeMap<PathBuf, Entry> {
    read_all(root, true)
}

#[track_caller]
fn read_all(root: &Path, lists_whiteouts: bool) -> BTreeMap<PathBuf, Entry> {
    let mut entries = BTreeMap::new();
    let mut first_names = HashMap::new();
    let mut paths = vec![root.to_owned()];
    while let Some(path) = paths.pop() {
        let meta = match fs::symlink_metadata(&path) {
            Err(e) if lists_whiteouts && e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.unwrap_or_else(|e| panic!("{}: {e}", path.display())),
        };
        let content = if meta.is_dir() {
            let mut names: Vec<PathBuf> = fs::read_dir(&path)
                .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
                .map(|entry| entry.expect("read a directory").path())
                .collect();
            // Popped from the end: in alphabetical order, so that first names agree.
            names.sort_by(|a, b| b.cmp(a));
            paths.extend(names);
            String::new()
        } else if meta.is_symlink() {
            fs::read_link(&path)
                .expect("readlink")
                .display()
                .to_string()
        } else if meta.is_file() {
            let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            format!("{} {}", meta.len(), digest(&bytes))
        } else {
            String::new()
        };
        let name = path.strip_prefix(root).expect("below the root").to_owned();
        let same_as = first_names
            .entry(meta.ino())
            .or_insert(name.clone())
            .clone();
        let entry = Entry {
            mode: meta.mode(),
            owner: (meta.uid(), meta.gid()),
            device: meta.rdev(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            links: if meta.is_dir() { 0 } else { meta.nlink() },
            same_as,
            content,
            xattrs: xattrs(&path),
        };
        entries.insert(name, entry);
    }
    entries
}

fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let c_path = CString::new(path.as_os_str().as_bytes()).expect("no NUL in a path");
    let mut list = vec![0; 64 << 10];
    let len = rustix::fs::llistxattr(&c_path, &mut list)
        .unwrap_or_else(|e| panic!("llistxattr {}: {e}", path.display()));
    let names = list[..len]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| String::from_utf8(name.to_vec()).expect("names are ASCII here"))
        .filter(|name| {
            !["trusted.overlay.", "trusted.layerctl."]
                .iter()
                .any(|p| name.starts_with(p))
        })
        .map(|name| {
            let mut value = vec![0; 64 << 10];
            let len = rustix::fs::lgetxattr(&c_path, &name, &mut value)
                .unwrap_or_else(|e| panic!("lgetxattr {} {name}: {e}", path.display()));
            value.truncate(len);
            (name, value)
        })
        .collect()
}

/// Fails with the differing entries alone when two trees are not the same.
#[track_caller]
pub fn assert_same(left: &BTreeMap<PathBuf, Entry>, right: &BTreeMap<PathBuf, Entry>) {
    let mut names: Vec<&PathBuf> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    let differences: Vec<String> = names
        .into_iter()
        .filter(|name| left.get(*name) != right.get(*name))
        .map(|name| {
            let side = |e: Option<&Entry>| e.map_or("nothing".to_owned(), |e| format!("{e:?}"));
            let (l, r) = (side(left.get(name)), side(right.get(name)));
            format!("{}:\n  left  {l}\n  right {r}", name.display())
        })
        .collect();
    assert!(
        differences.is_empty(),
        "trees differ:\n{}",
        differences.join("\n")
    );
}

/// The names of everything below `root`, with size and modification of the files: what must be the
/// same after a command that was refused. The database's side files come and go by themselves.
#[track_caller]
pub fn listing(root: &Path) -> BTreeMap<PathBuf, (u64, u32)> {
    walk(root)
        .into_iter()
        .map(|(path, meta)| (path.strip_prefix(root).expect("below").to_owned(), meta))
        .filter(|(path, _)| !path.as_os_str().as_bytes().starts_with(b"store.db-"))
        .map(|(path, meta)| {
            let size = match meta.is_file() && path != Path::new("store.db") {
                true => meta.len(),
                false => 0,
            };
            (path, (size, meta.mode()))
        })
        .collect()
}

/// Everything below `root` on the same filesystem, `root` too. What vanishes meanwhile is left out.
fn walk(root: &Path) -> Vec<(PathBuf, fs::Metadata)> {
    let mut found = Vec::new();
    let mut paths = vec![root.to_owned()];
    let device = fs::symlink_metadata(root).map(|m| m.dev()).unwrap_or(0);
    while let Some(path) = paths.pop() {
        let Ok(meta) = fs::symlink_metadata(&path) else {
            continue;
        };
        if meta.dev() != device {
            continue;
        }
        if meta.is_dir()
            && let Ok(dir) = fs::read_dir(&path)
        {
            paths.extend(dir.flatten().map(|entry| entry.path()));
        }
        found.push((path, meta));
    }
    found
}

/// Allocated bytes of a tree as `du -s` counts them: hard links once, one filesystem.
pub fn disk_usage(root: &Path) -> u64 {
    let mut seen = HashSet::new();
    walk(root)
        .into_iter()
        .filter(|(_, meta)| meta.is_dir() || seen.insert(meta.ino()))
        .map(|(_, meta)| meta.blocks() * 512)
        .sum()
}

/// The sum of `df` is what `du` finds, to the byte. The database's side files are the command's own
/// where no server has the database open, and go with it; then neither side counts them.
#[track_caller]
pub fn check_df(root: &Path, df: &Value) {
    const PARTS: [&str; 7] = [
        "live",
        "unused",
        "pending",
        "reclaiming",
        "orphaned",
        "containers",
        "metadata",
    ];
    let sum: u64 = PARTS.iter().map(|part| number(&df[*part], "bytes")).sum();
    let found = disk_usage(root);
    let side_files: u64 = ["store.db-wal", "store.db-shm"]
        .iter()
        .map(|name| disk_usage(&root.join(name)))
        .sum();
    assert!(
        sum == found || sum == found - side_files,
        "df has {sum} bytes, du {found}, {side_files} of them beside the database: {df}"
    );
    let layers = ["live", "unused", "pending", "reclaiming"];
    let layers: u64 = layers.iter().map(|part| number(&df[*part], "bytes")).sum();
    let on_disk: u64 = ["layers", "marked"]
        .iter()
        .flat_map(|dir| fs::read_dir(root.join(dir)).into_iter().flatten().flatten())
        .map(|layer| disk_usage(&layer.path()))
        .sum();
    assert_eq!(layers, on_disk, "the layers' bytes are those on disk: {df}");
}
