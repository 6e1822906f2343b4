//! The union against a plain directory tree: random layers, random operations, a remount in the
//! middle, and at the end the same tree in both.
//!
//! The layers are flattened into the model by applying them from the bottom up, as one would a
//! container image's tars; the operations go to the model through the kernel.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use layerctl::union::{Attr, Error, Kind, RenameHow, SetAttr, What, WriteHow};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::union_support::ROOT;

use super::union_support::{Dirs, Result, View, get_xattr, opaque, whiteout};

#[derive(Debug, Clone)]
enum Put {
    File(String, u8),
    Dir(String, u32),
    Opaque(String),
    Whiteout(String),
    Symlink(String),
    Link(String, String),
}

#[derive(Debug, Clone)]
enum Op {
    Create(String, u8),
    Write(String, u16, u8),
    Truncate(String, u16),
    Mkdir(String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, u8),
    Link(String, String),
    Symlink(String),
    Fifo(String),
    Chmod(String, u32),
    Chown(String, u32),
    Xattr(String, u8),
    Open(String, bool),
    ReadOpen(usize),
    WriteOpen(usize, u16, u8),
    TruncateOpen(usize, u16),
    ChmodOpen(usize, u32),
    Close(usize),
    Remount,
}

fn path() -> impl Strategy<Value = String> {
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

fn op() -> impl Strategy<Value = Op> {
    let mode = prop::sample::select(vec![0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o000]);
    prop_oneof![
        6 => (path(), any::<u8>()).prop_map(|(p, c)| Op::Create(p, c)),
        5 => (path(), 0..300_u16, any::<u8>()).prop_map(|(p, o, c)| Op::Write(p, o, c)),
        3 => (path(), 0..300_u16).prop_map(|(p, n)| Op::Truncate(p, n)),
        5 => path().prop_map(Op::Mkdir),
        6 => path().prop_map(Op::Unlink),
        6 => path().prop_map(Op::Rmdir),
        14 => (path(), path(), 0..4_u8).prop_map(|(p, q, h)| Op::Rename(p, q, h)),
        5 => (path(), path()).prop_map(|(p, q)| Op::Link(p, q)),
        1 => path().prop_map(Op::Symlink),
        1 => path().prop_map(Op::Fifo),
        3 => (path(), mode.clone()).prop_map(|(p, m)| Op::Chmod(p, m)),
        2 => (path(), 0..3_u32).prop_map(|(p, u)| Op::Chown(p, u)),
        2 => (path(), any::<u8>()).prop_map(|(p, v)| Op::Xattr(p, v)),
        4 => (path(), any::<bool>()).prop_map(|(p, w)| Op::Open(p, w)),
        3 => (0..4_usize).prop_map(Op::ReadOpen),
        2 => (0..4_usize, 0..300_u16, any::<u8>()).prop_map(|(i, o, c)| Op::WriteOpen(i, o, c)),
        1 => (0..4_usize, 0..300_u16).prop_map(|(i, n)| Op::TruncateOpen(i, n)),
        1 => (0..4_usize, mode).prop_map(|(i, m)| Op::ChmodOpen(i, m)),
        2 => (0..4_usize).prop_map(Op::Close),
        2 => Just(Op::Remount),
    ]
}

fn content(seed: u8) -> Vec<u8> {
    (0..seed as usize)
        .map(|i| seed.wrapping_add(i as u8))
        .collect()
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
            Put::File(p, c) if free(p) => fs::write(root.join(p), content(*c)).unwrap(),
            Put::Dir(p, mode) if free(p) => {
                fs::create_dir(root.join(p)).unwrap();
                fs::set_permissions(root.join(p), fs::Permissions::from_mode(*mode)).unwrap();
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
            Kind::CharDevice => remove(&to),
            Kind::Directory => {
                let hides = get_xattr(&from, "trusted.overlay.opaque").is_some();
                if hides || !fs::symlink_metadata(&to).is_ok_and(|m| m.is_dir()) {
                    remove(&to);
                    fs::create_dir(&to).unwrap();
                }
                let mode = fs::Permissions::from_mode(meta.mode() & 0o7777);
                fs::set_permissions(&to, mode).unwrap();
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
                        links.insert(meta.ino(), to);
                    }
                }
            }
        }
    }
}

/// What can be seen of an entry; hard links by the first of their names.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    kind: Kind,
    mode: u32,
    owner: (u32, u32),
    content: Vec<u8>,
    xattr: Option<Vec<u8>>,
    links: (u32, String),
}

type Tree = BTreeMap<String, Seen>;

fn tree_of_model(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut firsts = HashMap::new();
    let mut todo = vec![String::new()];
    let mut paths = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let path = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            if fs::symlink_metadata(root.join(&path)).unwrap().is_dir() {
                todo.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    for path in paths {
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
            _ => Vec::new(),
        };
        let nlink = if kind == Kind::Directory {
            0
        } else {
            meta.nlink() as u32
        };
        let seen = Seen {
            kind,
            mode: meta.mode() & 0o7777,
            owner: (meta.uid(), meta.gid()),
            content,
            xattr: get_xattr(&full, "user.test").filter(|_| kind == Kind::File),
            links: (nlink, first),
        };
        tree.insert(path, seen);
    }
    tree
}

fn tree_of_view(view: &View) -> Tree {
    let mut tree = Tree::new();
    let mut firsts = HashMap::new();
    let mut todo = vec![String::new()];
    let mut paths = Vec::new();
    while let Some(dir) = todo.pop() {
        for name in view.list(&dir).unwrap() {
            let path = if dir.is_empty() {
                name
            } else {
                format!("{dir}/{name}")
            };
            if view.attr(&path).unwrap().kind == Kind::Directory {
                todo.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    // Held all together, for numbers are unique among what is held.
    let entries: Vec<_> = paths.iter().map(|path| view.entry(path).unwrap()).collect();
    for (path, entry) in paths.into_iter().zip(entries) {
        let Attr {
            ino,
            kind,
            mode,
            nlink,
            uid,
            gid,
            size,
            ..
        } = entry.attr;
        let first = firsts.entry(ino).or_insert_with(|| path.clone()).clone();
        let content = match kind {
            Kind::File => view.read(&path).unwrap(),
            Kind::Symlink => view.union.readlink(ino).unwrap(),
            _ => Vec::new(),
        };
        if kind == Kind::File {
            assert_eq!(size, content.len() as u64, "{path}");
        }
        let seen = Seen {
            kind,
            mode,
            owner: (uid, gid),
            content,
            xattr: match view.union.getxattr(ino, b"user.test") {
                Err(Error::NoAttribute) => None,
                value => Some(value.unwrap()).filter(|_| kind == Kind::File),
            },
            links: (if kind == Kind::Directory { 0 } else { nlink }, first),
        };
        tree.insert(path, seen);
        drop(entry);
    }
    tree
}

/// An open file in both.
struct Open {
    handle: u64,
    node: u64,
    model: File,
    writes: bool,
}

struct Both {
    dirs: Dirs,
    view: View,
    open: Vec<Open>,
}

/// Done, or refused with this error.
type Done = std::result::Result<(), Errno>;

/// What an operation came to in the view and in the model.
type Outcome = (Done, Done);

const DONE: Outcome = (Ok(()), Ok(()));

fn viewed<T>(result: Result<T>) -> Done {
    result
        .map(drop)
        .map_err(|e| Errno::from_raw_os_error(e.errno()))
}

fn modelled<T>(result: std::io::Result<T>) -> Done {
    result
        .map(drop)
        .map_err(|e| Errno::from_io_error(&e).unwrap_or_else(|| panic!("{e}")))
}

impl Both {
    fn model(&self, path: &str) -> PathBuf {
        self.dirs.path("model").join(path)
    }

    /// Opens a file of the model for writing.
    fn writable(&self, path: &str) -> std::io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::open(self.model(path), flags, Mode::empty())?;
        Ok(file.into())
    }

    /// Whether both refuse, and with errors whose order the kernel settles above any filesystem.
    fn may_differ(&self, op: &Op, viewed: Done, modelled: Done) -> bool {
        let (Err(viewed), Err(modelled)) = (viewed, modelled) else {
            return false;
        };
        let is_below = |path: &str, dir: &str| {
            path.strip_prefix(dir)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        match (op, viewed, modelled) {
            // A directory gets no second name: looked at after the name that it should get.
            (Op::Link(..), Errno::PERM, Errno::EXIST | Errno::NOTDIR | Errno::NOENT) => true,
            // Into itself, and over what it is in.
            (Op::Rename(p, q, _), Errno::INVAL, Errno::EXIST | Errno::NOENT) => is_below(q, p),
            (Op::Rename(p, q, _), Errno::ISDIR, Errno::NOTEMPTY) => is_below(p, q),
            // Neither name is right, or a symlink is on the way to one.
            (Op::Rename(..) | Op::Link(..), Errno::NOTDIR, Errno::NOENT)
            | (Op::Rename(..) | Op::Link(..), Errno::NOENT, Errno::NOTDIR) => true,
            // The model opens what it truncates, and nobody reads from a FIFO here.
            (Op::Truncate(..), Errno::INVAL, Errno::NXIO) => true,
            // No symlink is ever opened in a filesystem,
            (Op::Write(..) | Op::Truncate(..), _, Errno::LOOP) => true,
            // nor is one looked into: all of them dangle here.
            (
                Op::Create(p, _)
                | Op::Write(p, ..)
                | Op::Truncate(p, _)
                | Op::Mkdir(p)
                | Op::Unlink(p)
                | Op::Rmdir(p)
                | Op::Symlink(p)
                | Op::Fifo(p)
                | Op::Chmod(p, _)
                | Op::Chown(p, _),
                Errno::NOTDIR,
                Errno::NOENT,
            ) => Path::new(p)
                .ancestors()
                .skip(1)
                .any(|dir| self.dirs.path("model").join(dir).is_symlink()),
            _ => false,
        }
    }

    /// Does one operation in both. Gives what it came to in the view and in the model.
    fn act(&mut self, op: &Op) -> Outcome {
        let view = &self.view;
        match op {
            Op::Create(p, c) => {
                let made = File::options()
                    .write(true)
                    .create_new(true)
                    .open(self.model(p));
                let made = made.map(|mut file| {
                    file.set_permissions(fs::Permissions::from_mode(0o644))
                        .unwrap();
                    file.write_all(&content(*c)).unwrap();
                });
                (viewed(view.create(p, &content(*c))), modelled(made))
            }
            Op::Write(p, o, c) => {
                let changed = self
                    .writable(p)
                    .map(|file| file.write_all_at(&content(*c), u64::from(*o)).unwrap());
                (
                    viewed(view.write(p, u64::from(*o), &content(*c))),
                    modelled(changed),
                )
            }
            Op::Truncate(p, n) => {
                let changed = self
                    .writable(p)
                    .map(|file| file.set_len(u64::from(*n)).unwrap());
                let set = SetAttr {
                    size: Some(u64::from(*n)),
                    ..SetAttr::default()
                };
                (viewed(view.setattr(p, &set)), modelled(changed))
            }
            Op::Mkdir(p) => {
                let made = fs::create_dir(self.model(p)).map(|()| {
                    // Set-group-ID may be inherited.
                    let inherited = fs::metadata(self.model(p)).unwrap().mode() & 0o2000;
                    let mode = fs::Permissions::from_mode(inherited | 0o755);
                    fs::set_permissions(self.model(p), mode).unwrap();
                });
                (viewed(view.mkdir(p)), modelled(made))
            }
            Op::Unlink(p) => (
                viewed(view.unlink(p)),
                modelled(fs::remove_file(self.model(p))),
            ),
            Op::Rmdir(p) => (
                viewed(view.rmdir(p)),
                modelled(fs::remove_dir(self.model(p))),
            ),
            Op::Rename(p, q, how) => {
                let (how, flags) = match how {
                    0 => (RenameHow::NoReplace, RenameFlags::NOREPLACE),
                    1 => (RenameHow::Exchange, RenameFlags::EXCHANGE),
                    _ => (RenameHow::Replace, RenameFlags::empty()),
                };
                let moved =
                    rustix::fs::renameat_with(CWD, self.model(p), CWD, self.model(q), flags);
                (viewed(view.rename(p, q, how)), moved)
            }
            Op::Link(p, q) => {
                let linked = fs::hard_link(self.model(p), self.model(q));
                (viewed(view.link(p, q)), modelled(linked))
            }
            Op::Symlink(p) => {
                let made = symlink("nowhere", self.model(p));
                (
                    viewed(view.make(p, 0o777, What::Symlink(b"nowhere"))),
                    modelled(made),
                )
            }
            Op::Fifo(p) => {
                let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::empty());
                let made = rustix::fs::mknodat(CWD, self.model(p), kind, mode, 0);
                (viewed(view.make(p, 0, What::Node(Kind::Fifo, 0))), made)
            }
            Op::Chmod(p, mode) => {
                let path = self.model(p);
                let changed =
                    fs::symlink_metadata(&path).and_then(|meta| match meta.is_symlink() {
                        true => Err(Errno::OPNOTSUPP.into()),
                        false => fs::set_permissions(&path, fs::Permissions::from_mode(*mode)),
                    });
                let set = SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                };
                (viewed(view.setattr(p, &set)), modelled(changed))
            }
            Op::Chown(p, uid) => {
                let changed = std::os::unix::fs::lchown(self.model(p), Some(*uid), Some(*uid));
                let set = SetAttr {
                    uid: Some(*uid),
                    gid: Some(*uid),
                    ..SetAttr::default()
                };
                (viewed(view.setattr(p, &set)), modelled(changed))
            }
            Op::Xattr(p, value) => {
                let is_file = fs::symlink_metadata(self.model(p)).is_ok_and(|m| m.is_file());
                if !is_file {
                    return DONE;
                }
                let (path, value) = (self.model(p), content(value % 50));
                super::union_support::set_xattr(&path, "user.test", &value);
                let how = rustix::fs::XattrFlags::empty();
                let set = view
                    .entry(p)
                    .and_then(|e| view.union.setxattr(e.attr.ino, b"user.test", &value, how));
                (viewed(set), Ok(()))
            }
            Op::Open(p, write) => {
                let is_file = fs::symlink_metadata(self.model(p)).is_ok_and(|m| m.is_file());
                if !is_file || self.open.len() >= 4 {
                    return DONE;
                }
                let flags = if *write { OFlags::RDWR } else { OFlags::RDONLY };
                let handle = match view.open(p, flags) {
                    Ok(handle) => handle,
                    Err(e) => return (viewed::<()>(Err(e)), Ok(())),
                };
                let node = view.attr(p).unwrap().ino;
                let model = File::options()
                    .read(true)
                    .write(*write)
                    .open(self.model(p))
                    .unwrap();
                self.open.push(Open {
                    handle,
                    node,
                    model,
                    writes: *write,
                });
                DONE
            }
            Op::ReadOpen(i) => {
                let Some(open) = self.open.get(*i) else {
                    return DONE;
                };
                let mut expected = vec![0; 1 << 16];
                let len = open.model.read_at(&mut expected, 0).unwrap();
                expected.truncate(len);
                assert_eq!(
                    view.read_handle(open.handle).unwrap(),
                    expected,
                    "handle {i}"
                );
                let (attr, meta) = (
                    view.union.getattr(open.node).unwrap(),
                    open.model.metadata().unwrap(),
                );
                assert_eq!(u64::from(attr.nlink), meta.nlink(), "links of handle {i}");
                assert_eq!(attr.mode, meta.mode() & 0o7777, "mode of handle {i}");
                DONE
            }
            Op::WriteOpen(i, o, c) => {
                let Some(open) = self.open.get(*i).filter(|open| open.writes) else {
                    return DONE;
                };
                open.model
                    .write_all_at(&content(*c), u64::from(*o))
                    .unwrap();
                let written = view.union.write(
                    open.handle,
                    u64::from(*o),
                    &content(*c),
                    WriteHow::default(),
                );
                (viewed(written), Ok(()))
            }
            Op::TruncateOpen(i, n) => {
                let Some(open) = self.open.get(*i).filter(|open| open.writes) else {
                    return DONE;
                };
                open.model.set_len(u64::from(*n)).unwrap();
                let set = SetAttr {
                    size: Some(u64::from(*n)),
                    ..SetAttr::default()
                };
                (viewed(view.union.setattr(open.node, &set, ROOT)), Ok(()))
            }
            Op::ChmodOpen(i, mode) => {
                let Some(open) = self.open.get(*i) else {
                    return DONE;
                };
                open.model
                    .set_permissions(fs::Permissions::from_mode(*mode))
                    .unwrap();
                let set = SetAttr {
                    mode: Some(*mode),
                    ..SetAttr::default()
                };
                (viewed(view.union.setattr(open.node, &set, ROOT)), Ok(()))
            }
            Op::Close(i) => {
                if *i < self.open.len() {
                    let open = self.open.remove(*i);
                    view.union.release(open.handle).unwrap();
                }
                DONE
            }
            Op::Remount => {
                self.open.clear();
                self.view = self.dirs.view();
                DONE
            }
        }
    }
}

fn layers(count: usize) -> impl Strategy<Value = Vec<Vec<Put>>> {
    // Links in the top layer alone: a name that another layer hides still counts in st_nlink until
    // the file is copied up.
    let top = prop::collection::vec(put(true), 0..14);
    let others = prop::collection::vec(prop::collection::vec(put(false), 0..14), count - 1);
    (top, others).prop_map(|(top, others)| [vec![top], others].concat())
}

fn check(layers: &[Vec<Put>], ops: &[Op], make: fn(usize) -> Dirs) {
    let dirs = make(layers.len());
    for (index, puts) in layers.iter().enumerate().rev() {
        build(&dirs.layer(index), puts);
        apply(&dirs.layer(index), &dirs.path("model"), &mut HashMap::new());
        dirs.convert_layer(index);
    }
    let before: Vec<Tree> = (0..layers.len())
        .map(|l| tree_of_model(&dirs.layer(l)))
        .collect();
    let view = dirs.view();
    let mut both = Both {
        dirs,
        view,
        open: Vec::new(),
    };
    for (at, op) in ops.iter().enumerate() {
        let (viewed, modelled) = both.act(op);
        assert!(
            viewed == modelled || both.may_differ(op, viewed, modelled),
            "operation {at}, {op:?}: view {viewed:?}, model {modelled:?}"
        );
    }
    let model = tree_of_model(&both.dirs.path("model"));
    assert_eq!(tree_of_view(&both.view), model);
    let numbers: BTreeMap<String, u64> = model
        .keys()
        .map(|path| (path.clone(), both.view.attr(path).unwrap().ino))
        .collect();
    assert_eq!(both.act(&Op::Remount), DONE);
    assert_eq!(tree_of_view(&both.view), model, "after a remount");
    for (path, ino) in numbers {
        let after = both.view.attr(&path).unwrap().ino;
        assert_eq!(after, ino, "number of {path} after a remount");
    }
    let after: Vec<Tree> = (0..layers.len())
        .map(|l| tree_of_model(&both.dirs.layer(l)))
        .collect();
    assert_eq!(before, after, "a layer has been changed");
}

fn run(cases: u32, ops: std::ops::Range<usize>, make: fn(usize) -> Dirs) {
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
    let strategy = (layers(3), prop::collection::vec(op(), ops));
    let result = runner.run(&strategy, |(layers, ops)| {
        check(&layers, &ops, make);
        Ok(())
    });
    result.unwrap_or_else(|e| panic!("LAYERCTL_TEST_SEED={seed}: {e}"));
}

pub fn random_operations() {
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(150);
    run(cases, 0..60, Dirs::new);
}

pub fn random_layers_without_operations() {
    run(60, 0..1, Dirs::new);
}

/// With whiteouts that are files.
pub fn random_operations_with_whiteout_files() {
    run(80, 0..60, Dirs::on_overlay);
}
