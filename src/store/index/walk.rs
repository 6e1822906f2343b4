//! Making a layer's index: one walk over its tree, by directory descriptors, which measures it too.
//! It goes in the order of the numbers: breadth first, the names of a directory sorted.

use std::collections::{HashMap, VecDeque};
use std::ffi::CStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Stat, fstat, readlinkat};
use rustix::io::Errno;

use super::place::{Builder, Place};
use crate::model::DiffId;
use crate::model::index::{Inode, Kind, Scope, Time};
use crate::model::xattr;
use crate::store::StoreError;
use crate::store::directories::{Directories, list};
use crate::store::usage::Usage;
use crate::sys::dirfd::{ProcPath, get_xattr, list_xattrs, proc_path_of, stat_at};

/// What a walk found.
pub(super) struct Walked {
    /// The index of the layer, to be written.
    pub(super) index: Builder,
    /// What its tree takes.
    pub(super) usage: Usage,
}

/// Walk a layer's tree, which nobody changes meanwhile. `path` is for messages.
pub(super) fn walk(
    tree: OwnedFd,
    diff: &DiffId,
    place: Place<'_>,
    path: &Path,
) -> Result<Walked, StoreError> {
    walk_all(tree, diff, place).map_err(StoreError::at("index", path))
}

/// An inode's extended attributes: those that go into the index, and whether it is opaque.
#[derive(Default)]
struct Xattrs {
    shown: Vec<(Vec<u8>, Vec<u8>)>,
    opaque: bool,
}

impl Xattrs {
    fn of(path: &ProcPath<'_>) -> Result<Xattrs, Errno> {
        let mut xattrs = Xattrs::default();
        for name in list_xattrs(path)? {
            // One that goes between the two calls: nobody changes the tree.
            let Some(value) = get_xattr(path, &name)? else {
                continue;
            };
            // Written by unpacking, the latter where the former is not permitted.
            let is_opaque = matches!(
                name.as_slice(),
                b"trusted.overlay.opaque" | b"user.overlay.opaque"
            );
            xattrs.opaque |= is_opaque && value == b"y";
            if !xattr::is_private(&name) {
                xattrs.shown.push((name, value));
            }
        }
        Ok(xattrs)
    }

    fn shown(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let shown = self.shown.iter();
        shown.map(|(name, value)| (name.as_slice(), value.as_slice()))
    }
}

fn walk_all(tree: OwnedFd, diff: &DiffId, place: Place<'_>) -> io::Result<Walked> {
    let stat = fstat(&tree)?;
    let device = stat.st_dev;
    // By a name in it: of the descriptor's own link it would be the link's attributes.
    let xattrs = Xattrs::of(&proc_path_of(&tree, b"."))?;
    let root = inode(&stat, xattrs.opaque);
    let (diffs, shown, scratch) = (vec![diff.clone()], xattrs.shown(), || place.scratch());
    let mut builder = Builder::new(Scope::Layer, diffs, &root, shown, scratch)?;
    let mut usage = Usage::default();
    let mut count = |stat: &Stat, is_first_name: bool| {
        usage.entries += 1;
        if is_first_name {
            usage.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
    };
    count(&stat, true);
    // Numbers of files with several names, by their inode number on the disk.
    let mut linked: HashMap<u64, u32> = HashMap::new();
    let mut directories = Directories::below(tree);
    // The numbers of those that are still to be read. (`directories` numbers directories alone.)
    let mut pending = VecDeque::from([0]);
    let mut nth = 0;
    while let Some(parent) = pending.pop_front() {
        let directory = directories.open(nth)?;
        for name in Names::of(&directory)?.sorted() {
            let stat = stat_at(&*directory, name.to_bytes())?;
            if stat.st_dev != device {
                // Something is mounted there: not the layer's.
                continue;
            }
            let file_type = FileType::from_raw_mode(stat.st_mode);
            if let Some(first) = linked.get(&stat.st_ino) {
                builder.link(parent, name.to_bytes(), *first)?;
                count(&stat, false);
                continue;
            }
            count(&stat, true);
            let is_whiteout = file_type == FileType::CharacterDevice && stat.st_rdev == 0;
            let xattrs = match is_whiteout {
                true => Xattrs::default(),
                false => Xattrs::of(&proc_path_of(&directory, name.to_bytes()))?,
            };
            let target = match file_type {
                FileType::Symlink => readlinkat(&*directory, name, Vec::new())?.into_bytes(),
                _ => Vec::new(),
            };
            let inode = inode(&stat, xattrs.opaque);
            let number = builder.add(parent, name.to_bytes(), &inode, &target, xattrs.shown())?;
            if file_type == FileType::Directory {
                directories.add(nth, name);
                pending.push_back(number);
            } else if stat.st_nlink > 1 {
                linked.insert(stat.st_ino, number);
            }
        }
        nth += 1;
    }
    Ok(Walked {
        index: builder,
        usage,
    })
}

/// The names in a directory, close together: there may be a million.
#[derive(Default)]
struct Names {
    /// One after the other, each with a zero at its end.
    text: Vec<u8>,
    begins: Vec<usize>,
}

impl Names {
    /// What is in an open directory.
    fn of(directory: &OwnedFd) -> Result<Names, Errno> {
        let mut names = Names::default();
        for entry in list(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if !matches!(name.to_bytes(), b"." | b"..") {
                names.begins.push(names.text.len());
                names.text.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        let text = &names.text;
        names.begins.sort_unstable_by_key(|begin| at(text, *begin));
        Ok(names)
    }

    fn sorted(&self) -> impl Iterator<Item = &CStr> {
        self.begins.iter().map(|begin| at(&self.text, *begin))
    }
}

/// The name that begins there.
fn at(text: &[u8], begin: usize) -> &CStr {
    let rest = text.get(begin..).unwrap_or_default();
    CStr::from_bytes_until_nul(rest).unwrap_or_default()
}

/// What `stat` says, as an index has it.
fn inode(stat: &Stat, opaque: bool) -> Inode {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::CharacterDevice if stat.st_rdev == 0 => Kind::Whiteout,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => Kind::File,
    };
    let time = |secs, nanos: u64| Time {
        secs,
        nanos: u32::try_from(nanos).unwrap_or(0),
    };
    Inode {
        kind,
        opaque: opaque && kind == Kind::Directory,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        nlink: 0,
        rdev: stat.st_rdev as u32,
        layer: 0,
    }
}
