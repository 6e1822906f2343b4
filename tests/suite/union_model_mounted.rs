//! The union against a plain directory tree, both through the kernel: the same system calls on a view
//! and on a directory of the disk below it must come to the same, error numbers and all.
//!
//! The view is served by a process of its own: a process that waits for a page of a file that it
//! serves itself could wait for ever.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown, lchown, symlink};
use std::path::PathBuf;

use layerctl::union::{IoMode, Kind};
use proptest::prelude::*;
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Mode, OFlags, RawDir, RenameFlags, XattrFlags, makedev,
};
use rustix::io::Errno;

use crate::harness::mapping::{Mapping, map_to_write};
use crate::harness::wait_until;
use crate::union_mounted::ServedView;

use super::union_model_layers::{
    ATTRIBUTE, Put, cases, content, has_attributes, layers, make, old, path, paths, run, set_mtime,
    tree,
};
use super::union_support::Dirs;

/// Numbers are slots of open files, or of open directories.
#[derive(Debug, Clone)]
enum Op {
    Create(String, usize, u8),
    Mkdir(String, u32),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, usize),
    Link(String, String),
    LinkOpen(usize, String),
    Symlink(String, String),
    Node(String, usize),
    Chmod(String, u32),
    Chown(String, u32),
    Utimes(String, u16),
    Truncate(String, u16),
    SetXattr(String, usize, u8),
    RemoveXattr(String),
    Stat(String),
    List(String),
    Open(usize, String, usize),
    Read(usize, u16),
    Write(usize, u16, u8),
    TruncateOpen(usize, u16),
    ChmodOpen(usize, u32),
    ChownOpen(usize, u32),
    SetXattrOpen(usize, u8),
    Fallocate(usize, usize, u16, u16),
    CopyRange(usize, usize, u16, u16, u16),
    SeekData(usize, u16),
    Sync(usize),
    Map(usize),
    MapWrite(usize, u16, u8),
    Close(usize),
    OpenDir(usize, String),
    ReadDir(usize),
    ReadDirToEnd(usize),
    Remount,
}

/// None of them waits for the other end of a FIFO.
const OPEN: [OFlags; 8] = [
    OFlags::RDONLY,
    OFlags::RDWR,
    OFlags::RDWR.union(OFlags::TRUNC),
    OFlags::RDWR.union(OFlags::APPEND),
    OFlags::RDWR.union(OFlags::CREATE),
    OFlags::RDWR.union(OFlags::NOFOLLOW),
    OFlags::RDONLY.union(OFlags::DIRECTORY),
    OFlags::WRONLY.union(OFlags::TRUNC),
];
const CREATE: [OFlags; 4] = [OFlags::EXCL, OFlags::empty(), OFlags::TRUNC, OFlags::APPEND];
const RENAME: [RenameFlags; 5] = [
    RenameFlags::empty(),
    RenameFlags::empty(),
    RenameFlags::empty(),
    RenameFlags::NOREPLACE,
    RenameFlags::EXCHANGE,
];
const FALLOCATE: [FallocateFlags; 5] = [
    FallocateFlags::empty(),
    FallocateFlags::KEEP_SIZE,
    FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
    FallocateFlags::ZERO_RANGE,
    FallocateFlags::ZERO_RANGE.union(FallocateFlags::KEEP_SIZE),
];
const XATTR: [XattrFlags; 3] = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];

fn op() -> impl Strategy<Value = Op> {
    let mode = || prop::sample::select(vec![0o644, 0o600, 0o4755, 0o2755, 0o1777, 0o000]);
    let at = || prop_oneof![3 => 0..300_u16, 1 => 0..20_000_u16];
    let slot = || 0..4_usize;
    let target = prop::sample::select(vec!["nowhere", "a", "../a/b", ".", "c/"]);
    let names = prop_oneof![
        6 => (path(), 0..CREATE.len(), any::<u8>()).prop_map(|(p, f, c)| Op::Create(p, f, c)),
        5 => (path(), mode()).prop_map(|(p, m)| Op::Mkdir(p, m)),
        6 => path().prop_map(Op::Unlink),
        6 => path().prop_map(Op::Rmdir),
        14 => (path(), path(), 0..RENAME.len()).prop_map(|(p, q, f)| Op::Rename(p, q, f)),
        5 => (path(), path()).prop_map(|(p, q)| Op::Link(p, q)),
        2 => (slot(), path()).prop_map(|(i, p)| Op::LinkOpen(i, p)),
        2 => (path(), target).prop_map(|(p, t)| Op::Symlink(p, t.to_owned())),
        2 => (path(), 0..4_usize).prop_map(|(p, k)| Op::Node(p, k)),
    ];
    let attributes = prop_oneof![
        3 => (path(), mode()).prop_map(|(p, m)| Op::Chmod(p, m)),
        2 => (path(), 0..3_u32).prop_map(|(p, u)| Op::Chown(p, u)),
        2 => (path(), 1..10_000_u16).prop_map(|(p, t)| Op::Utimes(p, t)),
        3 => (path(), at()).prop_map(|(p, n)| Op::Truncate(p, n)),
        2 => (path(), 0..XATTR.len(), any::<u8>()).prop_map(|(p, f, v)| Op::SetXattr(p, f, v)),
        1 => path().prop_map(Op::RemoveXattr),
        4 => path().prop_map(Op::Stat),
        3 => path().prop_map(Op::List),
    ];
    let files = prop_oneof![
        8 => (slot(), path(), 0..OPEN.len()).prop_map(|(i, p, f)| Op::Open(i, p, f)),
        3 => (slot(), at()).prop_map(|(i, o)| Op::Read(i, o)),
        4 => (slot(), at(), any::<u8>()).prop_map(|(i, o, c)| Op::Write(i, o, c)),
        2 => (slot(), at()).prop_map(|(i, n)| Op::TruncateOpen(i, n)),
        1 => (slot(), mode()).prop_map(|(i, m)| Op::ChmodOpen(i, m)),
        1 => (slot(), 0..3_u32).prop_map(|(i, u)| Op::ChownOpen(i, u)),
        1 => (slot(), any::<u8>()).prop_map(|(i, v)| Op::SetXattrOpen(i, v)),
        2 => (slot(), 0..FALLOCATE.len(), at(), 1..9000_u16)
            .prop_map(|(i, m, o, n)| Op::Fallocate(i, m, o, n)),
        2 => (slot(), slot(), at(), at(), 1..9000_u16)
            .prop_map(|(i, j, from, to, n)| Op::CopyRange(i, j, from, to, n)),
        1 => (slot(), at()).prop_map(|(i, o)| Op::SeekData(i, o)),
        1 => slot().prop_map(Op::Sync),
        3 => slot().prop_map(Op::Map),
        3 => (slot(), at(), any::<u8>()).prop_map(|(i, o, c)| Op::MapWrite(i, o, c)),
        2 => slot().prop_map(Op::Close),
    ];
    let directories = prop_oneof![
        3 => (slot(), prop_oneof![path(), Just(String::new())])
            .prop_map(|(i, p)| Op::OpenDir(i, p)),
        3 => slot().prop_map(Op::ReadDir),
        2 => slot().prop_map(Op::ReadDirToEnd),
    ];
    prop_oneof![45 => names, 18 => attributes, 30 => files, 8 => directories, 2 => Just(Op::Remount)]
}

/// What an operation came to, as far as both must agree.
type Outcome = Result<String, Errno>;

/// One of the two trees.
struct Side {
    root: PathBuf,
    files: [Option<Opened>; 4],
}

struct Opened {
    file: File,
    is_file: bool,
    map: Option<Mapping>,
    ino: u64,
}

fn described(meta: &fs::Metadata) -> String {
    let kind = Kind::from_mode(meta.mode());
    let (size, links, device) = match kind {
        Kind::Directory => (0, 0, 0),
        _ => (meta.size(), meta.nlink(), meta.rdev()),
    };
    let mtime = old((meta.mtime(), meta.mtime_nsec()));
    format!(
        "{kind:?} {:o} {}:{} {size} bytes {links} links {device:x} {mtime:?}",
        meta.mode() & 0o7777,
        meta.uid(),
        meta.gid()
    )
}

fn errno(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or_else(|| panic!("{e}"))
}

impl Side {
    fn new(root: PathBuf) -> Side {
        Side {
            root,
            files: [const { None }; 4],
        }
    }

    fn act(&mut self, op: &Op) -> Outcome {
        let at = |p: &str| self.root.join(p);
        let done = |result: std::io::Result<()>| result.map(|()| String::new()).map_err(errno);
        let called = |result: rustix::io::Result<()>| result.map(|()| String::new());
        match op {
            Op::Create(p, flags, c) => {
                let flags = CREATE[*flags] | OFlags::CREATE | OFlags::WRONLY | OFlags::NONBLOCK;
                let file: File = rustix::fs::open(at(p), flags, Mode::from(0o666))?.into();
                if !file.metadata().map_err(errno)?.is_file() {
                    return Ok("a FIFO or device".into());
                }
                let content = content(*c);
                let written = rustix::io::write(&file, &content)?;
                assert_eq!(written, content.len(), "bytes written");
                Ok(described(&file.metadata().map_err(errno)?))
            }
            Op::Mkdir(p, mode) => called(rustix::fs::mkdir(at(p), Mode::from(*mode))),
            Op::Unlink(p) => called(rustix::fs::unlink(at(p))),
            Op::Rmdir(p) => called(rustix::fs::rmdir(at(p))),
            Op::Rename(p, q, how) => called(rustix::fs::renameat_with(
                CWD,
                at(p),
                CWD,
                at(q),
                RENAME[*how],
            )),
            Op::Link(p, q) => called(rustix::fs::link(at(p), at(q))),
            Op::LinkOpen(i, p) => {
                let Some(open) = &self.files[*i] else {
                    return Ok(String::new());
                };
                let source = format!("/proc/self/fd/{}", open.file.as_raw_fd());
                let follow = AtFlags::SYMLINK_FOLLOW;
                called(rustix::fs::linkat(CWD, source, CWD, at(p), follow))
            }
            Op::Symlink(p, target) => done(symlink(target, at(p))),
            Op::Node(p, which) => {
                let (kind, device) = match which {
                    0 => (FileType::Fifo, 0),
                    1 => (FileType::CharacterDevice, makedev(1, 3)),
                    2 => (FileType::CharacterDevice, makedev(0, 0)),
                    _ => (FileType::Socket, 0),
                };
                called(rustix::fs::mknodat(
                    CWD,
                    at(p),
                    kind,
                    Mode::from(0o640),
                    device,
                ))
            }
            Op::Chmod(p, mode) => done(fs::set_permissions(
                at(p),
                fs::Permissions::from_mode(*mode),
            )),
            Op::Chown(p, uid) => done(lchown(at(p), Some(*uid), Some(*uid))),
            Op::Utimes(p, t) => {
                fs::symlink_metadata(at(p)).map_err(errno)?;
                set_mtime(&at(p), (i64::from(*t), i64::from(*t) * 99_991));
                Ok(String::new())
            }
            Op::Truncate(p, n) => {
                let path = std::ffi::CString::new(at(p).as_os_str().as_bytes()).unwrap();
                done(nix::unistd::truncate(path.as_c_str(), i64::from(*n)).map_err(Into::into))
            }
            Op::SetXattr(p, flags, value) => {
                let value = content(value % 50);
                called(rustix::fs::lsetxattr(
                    at(p),
                    ATTRIBUTE,
                    &value,
                    XATTR[*flags],
                ))
            }
            Op::RemoveXattr(p) => called(rustix::fs::lremovexattr(at(p), ATTRIBUTE)),
            Op::Stat(p) => {
                let meta = fs::symlink_metadata(at(p)).map_err(errno)?;
                let mut seen = described(&meta);
                if has_attributes(Kind::from_mode(meta.mode())) {
                    let mut names = vec![0; 4096];
                    let length = rustix::fs::llistxattr(at(p), &mut names[..])?;
                    let names = names[..length].split(|byte| *byte == 0);
                    let mut names: Vec<_> = names.map(String::from_utf8_lossy).collect();
                    names.sort();
                    seen += &format!(" {names:?}");
                }
                if meta.is_symlink() {
                    seen += &format!(" {:?}", fs::read_link(at(p)).map_err(errno)?);
                }
                Ok(seen)
            }
            Op::List(p) => {
                let mut names = Vec::new();
                for entry in fs::read_dir(at(p)).map_err(errno)? {
                    let entry = entry.map_err(errno)?;
                    let ino = std::os::unix::fs::DirEntryExt::ino(&entry);
                    assert_eq!(ino, entry.metadata().unwrap().ino(), "{:?}", entry.path());
                    names.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
                }
                names.sort();
                Ok(names.join("\n"))
            }
            Op::Open(i, p, flags) => {
                let flags = OPEN[*flags] | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let file: File = rustix::fs::open(at(p), flags, Mode::from(0o640))?.into();
                let meta = file.metadata().map_err(errno)?;
                if !meta.is_file() && !meta.is_dir() {
                    return Ok("a FIFO or device".into());
                }
                self.files[*i] = Some(Opened {
                    file,
                    is_file: meta.is_file(),
                    map: None,
                    ino: meta.ino(),
                });
                Ok(described(&meta))
            }
            Op::Read(i, _)
            | Op::Write(i, ..)
            | Op::TruncateOpen(i, _)
            | Op::ChmodOpen(i, _)
            | Op::ChownOpen(i, _)
            | Op::SetXattrOpen(i, _)
            | Op::Fallocate(i, ..)
            | Op::SeekData(i, _)
            | Op::Sync(i)
            | Op::Map(i)
            | Op::MapWrite(i, ..) => match &mut self.files[*i] {
                Some(open) => open.act(op),
                None => Ok(String::new()),
            },
            Op::CopyRange(i, j, from, to, len) => {
                let (Some(source), Some(target)) = (&self.files[*i], &self.files[*j]) else {
                    return Ok(String::new());
                };
                let (mut from, mut to) = (u64::from(*from), u64::from(*to));
                let copied = rustix::fs::copy_file_range(
                    &source.file,
                    Some(&mut from),
                    &target.file,
                    Some(&mut to),
                    usize::from(*len),
                )?;
                Ok(format!("{copied} bytes copied"))
            }
            Op::Close(i) => {
                self.files[*i] = None;
                Ok(String::new())
            }
            // Of both sides together.
            Op::OpenDir(..) | Op::ReadDir(_) | Op::ReadDirToEnd(_) | Op::Remount => {
                Ok(String::new())
            }
        }
    }
}

impl Opened {
    fn act(&mut self, op: &Op) -> Outcome {
        let done = |result: std::io::Result<()>| result.map(|()| String::new()).map_err(errno);
        let called = |result: rustix::io::Result<()>| result.map(|()| String::new());
        let file = &self.file;
        match op {
            Op::Read(_, offset) => {
                let mut bytes = vec![0; 1 << 16];
                let offset = u64::from(*offset);
                let length = file.read_at(&mut bytes, offset).map_err(errno)?;
                bytes.truncate(length);
                let meta = file.metadata().map_err(errno)?;
                assert_eq!(meta.ino(), self.ino, "the number of an open file");
                Ok(format!("{} {bytes:?}", described(&meta)))
            }
            Op::Write(_, offset, c) => {
                let written = file.write_at(&content(*c), u64::from(*offset));
                Ok(format!("{} bytes written", written.map_err(errno)?))
            }
            Op::TruncateOpen(_, n) => called(rustix::fs::ftruncate(file, u64::from(*n))),
            Op::ChmodOpen(_, mode) => done(file.set_permissions(fs::Permissions::from_mode(*mode))),
            Op::ChownOpen(_, uid) => done(fchown(file, Some(*uid), Some(*uid))),
            Op::SetXattrOpen(_, value) => called(rustix::fs::fsetxattr(
                file,
                ATTRIBUTE,
                &content(value % 50),
                XattrFlags::empty(),
            )),
            Op::Fallocate(_, mode, offset, len) => {
                let (mode, offset) = (FALLOCATE[*mode], u64::from(*offset));
                called(rustix::fs::fallocate(file, mode, offset, u64::from(*len)))
            }
            Op::SeekData(_, offset) if self.is_file => {
                // Where exactly holes are is the disk's affair; but all that is skipped is zeros.
                let (from, size) = (u64::from(*offset), file.metadata().map_err(errno)?.size());
                let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(from)) {
                    Err(Errno::NXIO) => size,
                    data => data?,
                };
                let mut skipped = vec![0; data.saturating_sub(from) as usize];
                file.read_exact_at(&mut skipped, from).map_err(errno)?;
                assert!(skipped.iter().all(|byte| *byte == 0), "data at {from}");
                Ok(String::new())
            }
            Op::Sync(_) => done(file.sync_all()),
            Op::Map(_) if self.is_file => {
                let map = map_to_write(file)?;
                let seen = map.as_ref().map(|map| map.bytes().to_vec());
                self.map = map;
                Ok(format!("{seen:?}"))
            }
            Op::MapWrite(_, offset, c) => {
                let Some(map) = &mut self.map else {
                    return Ok(String::new());
                };
                // Beyond the end of the file is SIGBUS.
                let size = file.metadata().map_err(errno)?.size() as usize;
                let (offset, mut content) = (usize::from(*offset), content(*c));
                let end = size.min(map.bytes().len());
                content.truncate(end.saturating_sub(offset));
                if !content.is_empty() {
                    map.write(offset, &content);
                    // The change is noted no later than here; the kernel hears of it a moment later.
                    wait_until("a mapped write shows in the file's times", || {
                        let meta = file.metadata().unwrap();
                        old((meta.mtime(), meta.mtime_nsec())).is_none()
                    });
                }
                Ok(format!("{:?}", &map.bytes()[..end]))
            }
            _ => Ok(String::new()),
        }
    }
}

/// A directory that is being read in the view, while it changes.
struct Listing {
    view: File,
    model: File,
    /// There since the beginning, and all the time.
    steady: BTreeSet<String>,
    /// There at any time.
    ever: BTreeSet<String>,
    read: Vec<String>,
}

impl Listing {
    fn now(&self) -> BTreeSet<String> {
        let path = format!("/proc/self/fd/{}", self.model.as_raw_fd());
        let entries = fs::read_dir(path).unwrap().map(|entry| match entry {
            Ok(entry) => Some(entry.file_name().into_string().unwrap()),
            // It has been removed.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => panic!("{e}"),
        });
        entries.map_while(|name| name).collect()
    }

    fn changed(&mut self) {
        let now = self.now();
        self.steady.retain(|name| now.contains(name));
        self.ever.extend(now);
    }

    /// Reads as much as goes into a small buffer; false at the end.
    fn read_some(&mut self) -> bool {
        // Room for one entry, or a few.
        let mut buffer = [MaybeUninit::uninit(); 80];
        let mut dir = RawDir::new(self.view.as_fd(), &mut buffer);
        let mut some = false;
        while let Some(entry) = dir.next() {
            let entry = match entry {
                // As the model's, which has been removed.
                Err(Errno::NOENT) if self.model.metadata().unwrap().nlink() == 0 => return false,
                entry => entry.unwrap(),
            };
            some = true;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            let name = name.to_str().unwrap().to_owned();
            if name != "." && name != ".." {
                self.read.push(name);
            }
            if dir.is_buffer_empty() {
                break;
            }
        }
        some
    }

    fn read_to_end(&mut self) {
        while self.read_some() {}
        let seen: BTreeSet<String> = self.read.iter().cloned().collect();
        for name in &self.steady {
            let times = self.read.iter().filter(|n| *n == name).count();
            assert_eq!(times, 1, "{name} was there all the time: {:?}", self.read);
        }
        let invented: Vec<_> = seen.difference(&self.ever).collect();
        assert!(invented.is_empty(), "never there: {invented:?}");
        // From the beginning it shows what is there now.
        rustix::fs::seek(&self.view, rustix::fs::SeekFrom::Start(0)).unwrap();
        self.read.clear();
        while self.read_some() {}
        let again: BTreeSet<String> = self.read.drain(..).collect();
        let now = self.now();
        assert_eq!(again, now, "from the beginning");
        rustix::fs::seek(&self.view, rustix::fs::SeekFrom::Start(0)).unwrap();
        (self.steady, self.ever) = (now.clone(), now);
    }
}

struct Both<'a> {
    dirs: &'a Dirs,
    io: IoMode,
    view: Side,
    model: Side,
    listings: [Option<Listing>; 4],
    /// The view's number of each inode of the model, known by its number and the time it was made.
    numbers: HashMap<(u64, std::time::SystemTime), u64>,
    /// `None` only while it is mounted again. Dropped after what is open in it, for its server ends
    /// when nothing is.
    served: Option<ServedView>,
}

impl Both<'_> {
    fn act(&mut self, op: &Op) {
        match op {
            Op::OpenDir(i, p) => self.open_dir(*i, p),
            Op::ReadDir(i) => {
                if let Some(listing) = &mut self.listings[*i] {
                    listing.read_some();
                }
            }
            Op::ReadDirToEnd(i) => {
                if let Some(mut listing) = self.listings[*i].take() {
                    listing.read_to_end();
                    self.listings[*i] = Some(listing);
                }
            }
            Op::Remount => self.remount(),
            op => {
                let (view, model) = (self.view.act(op), self.model.act(op));
                assert_eq!(view, model, "the view's outcome, and the model's");
            }
        }
        for listing in self.listings.iter_mut().flatten() {
            listing.changed();
        }
    }

    fn open_dir(&mut self, slot: usize, path: &str) {
        self.listings[slot] = None;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = |side: &Side| rustix::fs::open(side.root.join(path), flags, Mode::empty());
        match (open(&self.view), open(&self.model)) {
            (Ok(view), Ok(model)) => {
                let mut listing = Listing {
                    view: view.into(),
                    model: model.into(),
                    steady: BTreeSet::new(),
                    ever: BTreeSet::new(),
                    read: Vec::new(),
                };
                listing.steady = listing.now();
                self.listings[slot] = Some(listing);
            }
            (view, model) => assert_eq!(view.err(), model.err(), "opening a directory"),
        }
    }

    /// Numbers are those that were seen before, and no two inodes share one.
    fn check_numbers(&mut self) {
        let mut inodes = HashMap::new();
        for path in paths(&self.model.root) {
            let meta = fs::symlink_metadata(self.model.root.join(&path)).unwrap();
            let inode = (meta.ino(), meta.created().unwrap());
            let number = fs::symlink_metadata(self.view.root.join(&path)).unwrap();
            let number = number.ino();
            let before = *self.numbers.entry(inode).or_insert(number);
            assert_eq!(number, before, "the number of {path}");
            let other = inodes.insert(number, inode);
            assert!(
                other.is_none_or(|other| other == inode),
                "the number of {path}"
            );
        }
    }

    fn check_trees(&mut self) {
        assert_eq!(tree(&self.view.root), tree(&self.model.root));
        self.check_numbers();
    }

    fn remount(&mut self) {
        self.check_numbers();
        for side in [&mut self.view, &mut self.model] {
            side.files = [const { None }; 4];
        }
        self.listings = [const { None }; 4];
        if let Some(served) = self.served.take() {
            served.unmount();
        }
        self.served = Some(ServedView::new(self.dirs, self.io));
        self.check_trees();
    }
}

fn check(io: IoMode, layers: &[Vec<Put>], ops: &[Op]) {
    let dirs = Dirs::new(layers.len());
    make(&dirs, layers);
    let layers = || -> Vec<_> { (0..dirs.layers).map(|l| tree(&dirs.layer(l))).collect() };
    let before = layers();
    let mut both = Both {
        dirs: &dirs,
        io,
        served: Some(ServedView::new(&dirs, io)),
        view: Side::new(dirs.path("mnt")),
        model: Side::new(dirs.path("model")),
        listings: [const { None }; 4],
        numbers: HashMap::new(),
    };
    for (at, op) in ops.iter().enumerate() {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| both.act(op)));
        if let Err(why) = caught {
            eprintln!("operation {at}: {op:?}");
            std::panic::resume_unwind(why);
        }
    }
    both.check_trees();
    both.remount();
    assert_eq!(before, layers(), "a layer has been changed");
    let work: Vec<_> = fs::read_dir(dirs.path("work")).unwrap().collect();
    assert!(work.len() <= 1, "only the shared whiteout: {work:?}");
}

pub fn random_operations() {
    let io = prop::sample::select(vec![IoMode::Passthrough, IoMode::Cached]);
    let strategy = (io, layers(3), prop::collection::vec(op(), 0..80));
    run(cases(60), strategy, |(io, layers, ops)| {
        check(io, &layers, &ops)
    });
}
