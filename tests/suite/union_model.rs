//! The union against a plain directory tree, without a mount: random layers, random operations, a
//! remount in the middle, and at the end the same tree in both. `union_model_mounted` does the same
//! through the kernel.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use layerctl::union::{Error, Kind, RenameHow, SetAttr, SetTime, Time, What, WriteHow};
use proptest::prelude::*;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::union_model_layers::{
    ATTRIBUTE, Put, Seen, Tree, cases, content, has_attributes, layers, make, old, path, run,
    set_mtime, tree,
};
use super::union_support::{Dirs, ROOT, Result, View, set_xattr};

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
    Utimes(String, u16),
    Xattr(String, u8),
    RemoveXattr(String),
    Open(String, How),
    ReadOpen(usize),
    WriteOpen(usize, u16, u8),
    TruncateOpen(usize, u16),
    ChmodOpen(usize, u32),
    FallocateOpen(usize, u8, u16, u16),
    CopyRange(usize, usize, u16, u16, u16),
    Close(usize),
    Remount,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Read,
    Write,
    Truncate,
}

/// What `fallocate` may do; not all of them with all of its modes.
pub const FALLOCATE: [FallocateFlags; 4] = [
    FallocateFlags::empty(),
    FallocateFlags::KEEP_SIZE,
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE,
];

/// Within the first page, mostly.
fn position() -> impl Strategy<Value = u16> {
    prop_oneof![3 => 0..300_u16, 1 => 0..20_000_u16]
}

fn op() -> impl Strategy<Value = Op> {
    let mode = prop::sample::select(vec![0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o000]);
    prop_oneof![
        6 => (path(), any::<u8>()).prop_map(|(p, c)| Op::Create(p, c)),
        5 => (path(), position(), any::<u8>()).prop_map(|(p, o, c)| Op::Write(p, o, c)),
        3 => (path(), position()).prop_map(|(p, n)| Op::Truncate(p, n)),
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
        2 => (path(), 1..10_000_u16).prop_map(|(p, t)| Op::Utimes(p, t)),
        1 => path().prop_map(Op::RemoveXattr),
        4 => (path(), prop::sample::select(vec![How::Read, How::Write, How::Truncate]))
            .prop_map(|(p, how)| Op::Open(p, how)),
        2 => (0..4_usize, 0..4_u8, position(), 1..9000_u16)
            .prop_map(|(i, mode, o, n)| Op::FallocateOpen(i, mode, o, n)),
        2 => (0..4_usize, 0..4_usize, position(), position(), 1..9000_u16)
            .prop_map(|(i, j, from, to, n)| Op::CopyRange(i, j, from, to, n)),
        3 => (0..4_usize).prop_map(Op::ReadOpen),
        2 => (0..4_usize, position(), any::<u8>()).prop_map(|(i, o, c)| Op::WriteOpen(i, o, c)),
        1 => (0..4_usize, position()).prop_map(|(i, n)| Op::TruncateOpen(i, n)),
        1 => (0..4_usize, mode).prop_map(|(i, m)| Op::ChmodOpen(i, m)),
        2 => (0..4_usize).prop_map(Op::Close),
        2 => Just(Op::Remount),
    ]
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
        let attr = &entry.attr;
        let (ino, kind, size, nlink) = (attr.ino, attr.kind, attr.size, attr.nlink);
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
            mode: attr.mode,
            owner: (attr.uid, attr.gid),
            mtime: old((attr.mtime.secs, i64::from(attr.mtime.nanos))),
            content,
            xattr: match view.union.getxattr(ino, ATTRIBUTE.as_bytes()) {
                Err(Error::NoAttribute) => None,
                value => Some(value.unwrap()).filter(|_| has_attributes(kind)),
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

struct Both<'a> {
    dirs: &'a Dirs,
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

impl Both<'_> {
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
                | Op::Utimes(p, _)
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
            Op::Utimes(p, t) => {
                let (secs, nanos) = (i64::from(*t), i64::from(*t) * 99_991);
                let there = fs::symlink_metadata(self.model(p));
                let changed = there.map(|_| set_mtime(&self.model(p), (secs, nanos)));
                let to = Time {
                    secs,
                    nanos: nanos as u32,
                };
                let set = SetAttr {
                    mtime: Some(SetTime::At(to)),
                    ..SetAttr::default()
                };
                (viewed(view.setattr(p, &set)), modelled(changed))
            }
            Op::Xattr(p, _) | Op::RemoveXattr(p) => {
                let path = self.model(p);
                let meta = fs::symlink_metadata(&path);
                if !meta.is_ok_and(|m| has_attributes(Kind::from_mode(m.mode()))) {
                    return DONE;
                }
                let entry = view.entry(p).unwrap();
                if let Op::Xattr(_, value) = op {
                    let value = content(value % 50);
                    set_xattr(&path, ATTRIBUTE, &value);
                    let how = rustix::fs::XattrFlags::empty();
                    let union = &view.union;
                    let set = union.setxattr(entry.attr.ino, ATTRIBUTE.as_bytes(), &value, how);
                    return (viewed(set), Ok(()));
                }
                let removed = view.union.removexattr(entry.attr.ino, ATTRIBUTE.as_bytes());
                (viewed(removed), rustix::fs::lremovexattr(&path, ATTRIBUTE))
            }
            Op::Open(p, how) => {
                let is_file = fs::symlink_metadata(self.model(p)).is_ok_and(|m| m.is_file());
                if !is_file || self.open.len() >= 4 {
                    return DONE;
                }
                let flags = match how {
                    How::Read => OFlags::RDONLY,
                    How::Write => OFlags::RDWR,
                    How::Truncate => OFlags::RDWR | OFlags::TRUNC,
                };
                let handle = match view.open(p, flags) {
                    Ok(handle) => handle,
                    Err(e) => return (viewed::<()>(Err(e)), Ok(())),
                };
                let node = view.attr(p).unwrap().ino;
                let model = File::options()
                    .read(true)
                    .write(*how != How::Read)
                    .truncate(*how == How::Truncate)
                    .open(self.model(p))
                    .unwrap();
                self.open.push(Open {
                    handle,
                    node,
                    model,
                    writes: *how != How::Read,
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
            Op::FallocateOpen(i, mode, offset, len) => {
                let Some(open) = self.open.get(*i).filter(|open| open.writes) else {
                    return DONE;
                };
                let (mode, offset, len) = (
                    FALLOCATE[*mode as usize],
                    u64::from(*offset),
                    u64::from(*len),
                );
                let done = view.union.fallocate(open.handle, offset, len, mode.bits());
                (
                    viewed(done),
                    rustix::fs::fallocate(&open.model, mode, offset, len),
                )
            }
            Op::CopyRange(i, j, from, to, len) => {
                let both = (self.open.get(*i), self.open.get(*j));
                let (Some(source), Some(target)) = both else {
                    return DONE;
                };
                if !target.writes {
                    return DONE;
                }
                let (from, to, len) = (u64::from(*from), u64::from(*to), usize::from(*len));
                let (source_at, target_at) =
                    ((source.handle.into(), from), (target.handle.into(), to));
                let done = view.union.copy_file_range(source_at, target_at, len);
                let (mut from, mut to) = (from, to);
                let expected = rustix::fs::copy_file_range(
                    &source.model,
                    Some(&mut from),
                    &target.model,
                    Some(&mut to),
                    len,
                );
                if let (Ok(done), Ok(expected)) = (&done, &expected) {
                    assert_eq!(done, expected, "bytes copied");
                }
                (viewed(done), expected.map(drop))
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

fn check(layers: &[Vec<Put>], ops: &[Op], new: fn(usize) -> Dirs) {
    let dirs = new(layers.len());
    make(&dirs, layers);
    let layers = || -> Vec<Tree> { (0..dirs.layers).map(|l| tree(&dirs.layer(l))).collect() };
    let before = layers();
    let view = dirs.view();
    let mut both = Both {
        dirs: &dirs,
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
    let model = tree(&both.dirs.path("model"));
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
    assert_eq!(before, layers(), "a layer has been changed");
}

fn random(cases: u32, ops: std::ops::Range<usize>, new: fn(usize) -> Dirs) {
    let strategy = (layers(3), prop::collection::vec(op(), ops));
    run(cases, strategy, |(layers, ops)| check(&layers, &ops, new));
}

pub fn random_operations() {
    random(cases(150), 0..60, Dirs::new);
}

pub fn random_layers_without_operations() {
    random(60, 0..1, Dirs::new);
}

/// With whiteouts that are files.
pub fn random_operations_with_whiteout_files() {
    random(80, 0..60, Dirs::on_overlay);
}
