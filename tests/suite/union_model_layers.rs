//! What the models of the union share: random layers, the flat tree that they are together, and what
//! can be seen of a tree.
//!
//! The layers are flattened into the model by applying them from the bottom up, as one would a
//! container image's tars.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use layerctl::union::Kind;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps};

use super::union_support::{Dirs, get_xattr, opaque, set_xattr, whiteout};

/// An attribute that files and directories may have.
pub const ATTRIBUTE: &str = "user.test";

/// Something in a layer.
#[derive(Debug, Clone)]
pub enum Put {
    File(String, u8),
    Dir(String, u32),
    Opaque(String),
    Whiteout(String),
    Symlink(String),
    Link(String, String),
}

/// A few paths, so that operations meet.
pub fn path() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    prop_oneof![
        3 => name().prop_map(str::to_owned),
        3 => (name(), name()).prop_map(|(a, b)| format!("{a}/{b}")),
        1 => (name(), name(), name()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
    ]
}

fn put(with_links: bool) -> impl Strategy<Value = Put> {
    let links = if with_links { 12 } else { 0 };
    prop_oneof![
        6 => (path(), any::<u8>()).prop_map(|(p, c)| Put::File(p, c)),
        4 => (path(), prop::sample::select(vec![0o755, 0o700, 0o1777, 0o2775]))
            .prop_map(|(p, m)| Put::Dir(p, m)),
        2 => path().prop_map(Put::Opaque),
        3 => path().prop_map(Put::Whiteout),
        1 => path().prop_map(Put::Symlink),
        links => (path(), path()).prop_map(|(p, q)| Put::Link(p, q)),
    ]
}

/// The layers of a view, the topmost first.
pub fn layers(count: usize) -> impl Strategy<Value = Vec<Vec<Put>>> {
    // Links in the top layer alone: a name that another layer hides still counts in st_nlink until
    // the file is copied up.
    let top = prop::collection::vec(put(true), 0..14);
    let others = prop::collection::vec(prop::collection::vec(put(false), 0..14), count - 1);
    (top, others).prop_map(|(top, others)| [vec![top], others].concat())
}

/// Some bytes; few, or a few pages.
pub fn content(seed: u8) -> Vec<u8> {
    let length = seed as usize * if seed.is_multiple_of(8) { 64 } else { 1 };
    (0..length).map(|i| seed.wrapping_add(i as u8)).collect()
}

/// Makes the layers, and the model in `model`.
pub fn make(dirs: &Dirs, layers: &[Vec<Put>]) {
    for (index, puts) in layers.iter().enumerate().rev() {
        build(&dirs.layer(index), puts);
        age(&dirs.layer(index), &mut (index as i64 * 1000));
        apply(&dirs.layer(index), &dirs.path("model"), &mut HashMap::new());
        dirs.convert_layer(index);
    }
}

/// Builds a layer; what does not fit to what is there already is left out.
fn build(root: &Path, puts: &[Put]) {
    for put in puts {
        let free = |p: &str| {
            let path = root.join(p);
            let parent = path.parent().unwrap();
            fs::symlink_metadata(&path).is_err()
                && (parent.is_dir() || fs::create_dir_all(parent).is_ok())
                && fs::symlink_metadata(parent).is_ok_and(|m| m.is_dir())
        };
        match put {
            Put::File(p, c) if free(p) => {
                fs::write(root.join(p), content(*c)).unwrap();
                lchown(root.join(p), Some(u32::from(c % 3)), Some(u32::from(c % 2))).unwrap();
                if c.is_multiple_of(3) {
                    set_xattr(&root.join(p), ATTRIBUTE, &[*c]);
                }
            }
            Put::Dir(p, mode) if free(p) => {
                fs::create_dir(root.join(p)).unwrap();
                fs::set_permissions(root.join(p), fs::Permissions::from_mode(*mode)).unwrap();
                if *mode == 0o1777 {
                    set_xattr(&root.join(p), ATTRIBUTE, b"of a directory");
                }
            }
            Put::Opaque(p) if free(p) => opaque(root, p),
            Put::Whiteout(p) if free(p) => whiteout(root, p),
            Put::Symlink(p) if free(p) => symlink("no/where", root.join(p)).unwrap(),
            Put::Link(p, q)
                if free(q) && fs::symlink_metadata(root.join(p)).is_ok_and(|m| m.is_file()) =>
            {
                fs::hard_link(root.join(p), root.join(q)).unwrap();
            }
            _ => {}
        }
    }
}

/// Gives every entry a time of its own, long ago.
fn age(dir: &Path, next: &mut i64) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            age(&entry.path(), next);
        }
        *next += 1;
        set_mtime(&entry.path(), (*next, *next * 1001));
    }
}

/// Sets the time of the last change, in seconds and nanoseconds, and not that of the last reading.
pub fn set_mtime(path: &Path, (tv_sec, tv_nsec): (i64, i64)) {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec { tv_sec, tv_nsec },
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

fn remove(path: &Path) {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Applies a layer to a flat tree.
fn apply(layer: &Path, model: &Path, links: &mut HashMap<u64, PathBuf>) {
    for entry in fs::read_dir(layer).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), model.join(entry.file_name()));
        let meta = fs::symlink_metadata(&from).unwrap();
        let kind = Kind::from_mode(meta.mode());
        match kind {
            Kind::CharDevice => {
                remove(&to);
                continue;
            }
            Kind::Directory => {
                let hides = get_xattr(&from, "trusted.overlay.opaque").is_some();
                if hides || !fs::symlink_metadata(&to).is_ok_and(|m| m.is_dir()) {
                    remove(&to);
                    fs::create_dir(&to).unwrap();
                }
                apply(&from, &to, links);
            }
            Kind::Symlink => {
                remove(&to);
                symlink(fs::read_link(&from).unwrap(), &to).unwrap();
            }
            _ => {
                remove(&to);
                match links.get(&meta.ino()) {
                    Some(first) if meta.nlink() > 1 => fs::hard_link(first, &to).unwrap(),
                    _ => {
                        fs::copy(&from, &to).unwrap();
                        links.insert(meta.ino(), to.clone());
                    }
                }
            }
        }
        lchown(&to, Some(meta.uid()), Some(meta.gid())).unwrap();
        if kind != Kind::Symlink {
            fs::set_permissions(&to, fs::Permissions::from_mode(meta.mode() & 0o7777)).unwrap();
            match get_xattr(&from, ATTRIBUTE) {
                Some(value) => set_xattr(&to, ATTRIBUTE, &value),
                None if get_xattr(&to, ATTRIBUTE).is_some() => {
                    rustix::fs::lremovexattr(&to, ATTRIBUTE).unwrap();
                }
                None => {}
            }
        }
        set_mtime(&to, (meta.mtime(), meta.mtime_nsec()));
    }
}

/// What can be seen of an entry; hard links by the first of their names.
#[derive(Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    pub mode: u32,
    pub owner: (u32, u32),
    /// Only what a test or a layer has set.
    pub mtime: Option<(i64, i64)>,
    pub content: Vec<u8>,
    pub xattr: Option<Vec<u8>>,
    pub links: (u32, String),
}

pub type Tree = BTreeMap<String, Seen>;

/// A time that was set; what is newer came by a change.
pub fn old(time: (i64, i64)) -> Option<(i64, i64)> {
    Some(time).filter(|(secs, _)| *secs < 1_000_000_000)
}

/// The paths below a directory, sorted.
pub fn paths(root: &Path) -> Vec<String> {
    let mut todo = vec![String::new()];
    let mut paths = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = match dir.as_str() {
                "" => name,
                dir => format!("{dir}/{name}"),
            };
            if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                todo.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    paths
}

/// What the kernel shows below a directory.
pub fn tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut firsts = HashMap::new();
    for path in paths(root) {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).unwrap();
        let kind = Kind::from_mode(meta.mode());
        let first = firsts
            .entry(meta.ino())
            .or_insert_with(|| path.clone())
            .clone();
        let content = match kind {
            Kind::File => fs::read(&full).unwrap(),
            Kind::Symlink => fs::read_link(&full)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes(),
            Kind::CharDevice => meta.rdev().to_ne_bytes().to_vec(),
            _ => Vec::new(),
        };
        if kind == Kind::File {
            assert_eq!(meta.size(), content.len() as u64, "{path}");
        }
        let nlink = match kind {
            Kind::Directory => 0,
            _ => meta.nlink() as u32,
        };
        let seen = Seen {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            mtime: old((meta.mtime(), meta.mtime_nsec())),
            content,
            xattr: has_attributes(kind)
                .then(|| get_xattr(&full, ATTRIBUTE))
                .flatten(),
            links: (nlink, first),
        };
        tree.insert(path, seen);
    }
    tree
}

/// Whether attributes of users can be on it.
pub fn has_attributes(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Directory)
}

/// How many cases, unless the environment says otherwise.
pub fn cases(count: u32) -> u32 {
    let told = std::env::var("PROPTEST_CASES").ok();
    told.and_then(|n| n.parse().ok()).unwrap_or(count)
}

/// Checks random cases, from a seed that a failure tells.
pub fn run<T: std::fmt::Debug>(cases: u32, strategy: impl Strategy<Value = T>, check: impl Fn(T)) {
    let config = Config {
        cases,
        max_shrink_iters: 2000,
        failure_persistence: None,
        ..Config::default()
    };
    let seed = std::env::var("LAYERCTL_TEST_SEED").map_or_else(
        |_| RandomState::new().hash_one(0),
        |seed| seed.parse().unwrap(),
    );
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, random);
    let result = runner.run(&strategy, |case| {
        check(case);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("LAYERCTL_TEST_SEED={seed}: {e}"));
}
