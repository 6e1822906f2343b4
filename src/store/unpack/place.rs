//! Putting one entry after the other into the tree. See the rules in the [module above](super).

use std::borrow::Cow;
use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, XattrFlags, fsetxattr, ftruncate,
    futimens, linkat, mkdirat, mknodat, openat, statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::{Errno, pwrite};

use super::UnpackError;
use super::dress::{DEFAULT_ACL, dress_at, dress_fd, dress_new_parent, times};
use super::error::{Trouble, refused, with};
use super::later::{self, Later};
use super::name::{self, Place};
use super::record::Recorded;
use crate::model::tar::{Entry, Kind, Segment, TarError, TarReader, Time, shown};
use crate::sys::in_root::open_in_root;
use crate::sys::remove_tree::remove_tree;

const OPAQUE_VALUE: &[u8] = b"y";

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);
const PARENT: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Large enough that a small file is one read and one write.
const COPY_BUFFER: usize = 128 << 10;

/// The tree as it grows.
pub(super) struct Tree<'a> {
    root: BorrowedFd<'a>,
    /// The directory that the last entry went into: mostly the next one goes there as well. Forgotten
    /// whenever a name changes its meaning.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    later: later::List,
    has_root: bool,
    has_replaced: bool,
    buffer: Vec<u8>,
}

/// What stands at a name.
enum Found {
    Nothing,
    Directory,
    Whiteout,
    Other(FileType),
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: BorrowedFd<'a>) -> Tree<'a> {
        Tree {
            root,
            parent: None,
            later: later::List::default(),
            has_root: false,
            has_replaced: false,
            buffer: vec![0; COPY_BUFFER],
        }
    }

    /// Puts one entry, its data read from `tar`. False when it is no file of the layer: a whiteout,
    /// or something that has no effect.
    pub(super) fn put<W: Write>(
        &mut self,
        entry: &Entry,
        tar: &mut TarReader<Recorded<'_, W>>,
    ) -> Result<bool, Trouble> {
        match name::place(&entry.path).map_err(Trouble::Refused)? {
            Place::Nothing => return Ok(false),
            Place::Root if entry.kind == Kind::Directory => self.root(entry)?,
            Place::Root => return refused("a path that names the layer's root"),
            Place::Opaque { directory } => {
                if let Some(directory) = self.parent_of_whiteout(&directory)? {
                    self.make_opaque(directory.as_fd())?;
                }
                return Ok(false);
            }
            Place::Whiteout { parent, name } => {
                if let Some(parent) = self.parent_of_whiteout(&parent)? {
                    self.whiteout(parent.as_fd(), &name)?;
                }
                return Ok(false);
            }
            Place::Entry { parent, name } => {
                let at = self.parent(&parent)?;
                let at = at.as_fd();
                match entry.kind {
                    Kind::Directory => self.directory(at, &parent, &name, entry)?,
                    Kind::File => self.file(at, (&parent, &name), entry, tar)?,
                    Kind::HardLink => self.hard_link(at, &name, &entry.link)?,
                    Kind::CharDevice if entry.device == (0, 0) => {
                        self.whiteout(at, &name)?;
                        return Ok(false);
                    }
                    Kind::Symlink => {
                        let target = CString::new(entry.link.as_slice())
                            .or_else(|_| refused("a link target with a zero byte"))?;
                        if target.is_empty() {
                            return refused("a symbolic link without a target");
                        }
                        self.new_name(at, &name, "make the symbolic link", || {
                            symlinkat(&target, at, name.as_slice())
                        })?;
                        dress_at(at, &name, entry)?;
                    }
                    Kind::CharDevice => self.node(at, &name, entry, FileType::CharacterDevice)?,
                    Kind::BlockDevice => self.node(at, &name, entry, FileType::BlockDevice)?,
                    Kind::Fifo => self.node(at, &name, entry, FileType::Fifo)?,
                    Kind::Other(flag) => {
                        return refused(format!(
                            "an entry of the unknown type {:?}",
                            char::from(flag)
                        ));
                    }
                }
            }
        }
        Ok(true)
    }

    /// Whether something that was put has been replaced since.
    pub(super) fn has_replaced(&self) -> bool {
        self.has_replaced
    }

    /// Does what had to wait until everything is in place. Says whether the tar had the root.
    pub(super) fn finish(mut self) -> Result<bool, UnpackError> {
        let list = std::mem::take(&mut self.later);
        let io = |e: std::io::Error| {
            let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
            with("read back the list of directories")(errno).of(b"")
        };
        if !self.has_root {
            let root = Later {
                path: Vec::new(),
                mtime: Time::default(),
                default_acl: None,
            };
            self.do_later(&root).map_err(|t| t.of(b""))?;
        }
        for later in list.into_iter().map_err(io)? {
            let later = later.map_err(io)?;
            self.do_later(&later).map_err(|t| t.of(&later.path))?;
        }
        Ok(self.has_root)
    }

    fn do_later(&mut self, later: &Later) -> Result<(), Trouble> {
        let directory = match later.path.iter().rposition(|b| *b == b'/') {
            _ if later.path.is_empty() => self.open_root(),
            slash => {
                let (parent, name) = match slash {
                    Some(at) => (&later.path[..at], &later.path[at + 1..]),
                    None => (&b""[..], later.path.as_slice()),
                };
                // A later entry may have put something else in the place of a parent.
                match self.open_parent(parent) {
                    Ok(parent) => openat(parent, name, DIRECTORY, Mode::empty()),
                    Err(errno) => Err(errno),
                }
            }
        };
        let directory = match directory {
            Ok(directory) => directory,
            // It was replaced by a later entry of another type.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            Err(errno) => return Err(with("open the directory")(errno)),
        };
        if let Some(acl) = &later.default_acl {
            fsetxattr(&directory, DEFAULT_ACL, acl, XattrFlags::empty())
                .map_err(with("set the default ACL"))?;
        }
        futimens(&directory, &times(later.mtime)).map_err(with("set the times"))
    }

    fn open_root(&self) -> rustix::io::Result<OwnedFd> {
        openat(self.root, c".", DIRECTORY, Mode::empty())
    }

    fn open_parent(&mut self, path: &[u8]) -> rustix::io::Result<Rc<OwnedFd>> {
        if let Some((cached, fd)) = &self.parent
            && cached == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(open_in_root(self.root, path, PARENT)?);
        self.parent = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// The directory at `path`, made if it is missing.
    fn parent(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Trouble> {
        match self.open_parent(path) {
            Ok(fd) => Ok(fd),
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(path),
            Err(errno) => Err(with("open its parent directory")(errno)),
        }
    }

    /// The same for a whiteout. `None` where the layer has no directory there but a file or a whiteout: that hides
    /// all of a directory below, and umoci writes whiteouts for what was in it nevertheless.
    fn parent_of_whiteout(&mut self, path: &[u8]) -> Result<Option<Rc<OwnedFd>>, Trouble> {
        match self.open_parent(path) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOTDIR) => Ok(None),
            Err(Errno::NOENT) => self.make_parents(path).map(Some),
            Err(errno) => Err(with("open its parent directory")(errno)),
        }
    }

    /// Walks to `path` one component at a time and makes what is missing.
    fn make_parents(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Trouble> {
        let mut at = open_in_root(self.root, b"", PARENT).map_err(with("open the root"))?;
        let mut end = 0;
        for part in path.split(|b| *b == b'/') {
            let upto = &path[..end + part.len()];
            end = upto.len() + 1;
            let found = look(at.as_fd(), part).map_err(with("look at its parent"))?;
            at = match found {
                Found::Directory => openat(&at, part, PARENT | OFlags::NOFOLLOW, Mode::empty()),
                Found::Nothing | Found::Whiteout => {
                    self.make_directory(at.as_fd(), part, found)?;
                    dress_new_parent(at.as_fd(), part)?;
                    self.do_it_later(upto, Time::default(), None)?;
                    openat(&at, part, PARENT | OFlags::NOFOLLOW, Mode::empty())
                }
                Found::Other(FileType::Symlink) => {
                    match open_in_root(self.root, upto, PARENT) {
                        Err(Errno::NOENT | Errno::NOTDIR) => {
                            return refused(format!(
                                "its parent {} is a symbolic link that leads to no directory of the layer",
                                shown(upto)
                            ));
                        }
                        other => other,
                    }
                }
                Found::Other(_) => {
                    return refused(format!("its parent {} is not a directory", shown(upto)));
                }
            }
            .map_err(with("open its parent directory"))?;
        }
        let fd = Rc::new(at);
        self.parent = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    fn do_it_later(
        &mut self,
        path: &[u8],
        mtime: Time,
        default_acl: Option<Vec<u8>>,
    ) -> Result<(), Trouble> {
        let later = Later {
            path: path.to_vec(),
            mtime,
            default_acl,
        };
        let place = format!("/proc/self/fd/{}", self.root.as_raw_fd());
        self.later
            .push(&later, || tempfile::tempfile_in(place))
            .map_err(|e| with("note its times")(Errno::from_io_error(&e).unwrap_or(Errno::IO)))
    }

    fn root(&mut self, entry: &Entry) -> Result<(), Trouble> {
        let root = self.open_root().map_err(with("open the root"))?;
        self.dress_directory(&root, b"", entry)?;
        self.has_root = true;
        Ok(())
    }

    fn directory(
        &mut self,
        at: BorrowedFd<'_>,
        parent: &[u8],
        name: &[u8],
        entry: &Entry,
    ) -> Result<(), Trouble> {
        let found = match mkdirat(at, name, Mode::RWXU) {
            Ok(()) => None,
            Err(Errno::EXIST) => Some(look(at, name).map_err(with("look at what is there"))?),
            Err(errno) => return Err(with("make the directory")(errno)),
        };
        match found {
            None | Some(Found::Directory) => {}
            Some(found) => self.make_directory(at, name, found)?,
        }
        let directory =
            openat(at, name, DIRECTORY, Mode::empty()).map_err(with("open the directory"))?;
        let path = name::joined(parent, name);
        self.dress_directory(&directory, &path, entry)
    }

    /// Makes a directory in the place of what was found there; of a whiteout it stays opaque.
    fn make_directory(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        found: Found,
    ) -> Result<(), Trouble> {
        if matches!(found, Found::Whiteout | Found::Other(_)) {
            self.parent = None;
            self.has_replaced |= matches!(found, Found::Other(_));
            unlinkat(at, name, AtFlags::empty()).map_err(with("replace what is there"))?;
        }
        mkdirat(at, name, Mode::RWXU).map_err(with("make the directory"))?;
        if matches!(found, Found::Whiteout) {
            let directory =
                openat(at, name, PARENT, Mode::empty()).map_err(with("open the directory"))?;
            self.make_opaque(directory.as_fd())?;
        }
        Ok(())
    }

    fn dress_directory(
        &mut self,
        directory: &OwnedFd,
        path: &[u8],
        entry: &Entry,
    ) -> Result<(), Trouble> {
        dress_fd(directory, entry)?;
        let acl = entry.xattrs.iter().find(|(name, _)| name == DEFAULT_ACL);
        self.do_it_later(path, entry.mtime, acl.map(|(_, value)| value.clone()))
    }

    fn file<W: Write>(
        &mut self,
        at: BorrowedFd<'_>,
        (parent, name): (&[u8], &[u8]),
        entry: &Entry,
        tar: &mut TarReader<Recorded<'_, W>>,
    ) -> Result<(), Trouble> {
        let file = self.new_name(at, name, "make the file", || {
            openat(at, name, NEW_FILE, Mode::RUSR | Mode::WUSR)
        })?;
        let path = name::joined(parent, name);
        let noted = |e| Trouble::Tar(TarError::Read(e));
        tar.inner_mut().begin_contents();
        for segment in segments(entry).iter() {
            let mut offset = segment.offset;
            let mut left = segment.length;
            tar.inner_mut()
                .contents(&path, offset, left)
                .map_err(noted)?;
            while left > 0 {
                let most = usize::try_from(left).map_or(COPY_BUFFER, |l| l.min(COPY_BUFFER));
                let read = tar
                    .read_data(&mut self.buffer[..most])
                    .map_err(Trouble::Tar)?;
                if read == 0 {
                    return refused("less data than its size says");
                }
                let mut part = &self.buffer[..read];
                while !part.is_empty() {
                    let written = match pwrite(&file, part, offset) {
                        Err(Errno::INTR) => continue,
                        other => other.map_err(with("write the file"))?,
                    };
                    part = &part[written..];
                    offset += written as u64;
                }
                left -= read as u64;
            }
        }
        tar.inner_mut().end_contents();
        if entry.sparse.is_some() {
            ftruncate(&file, entry.size).map_err(with("set the size of the sparse file"))?;
        }
        dress_fd(&file, entry)?;
        futimens(&file, &times(entry.mtime)).map_err(with("set the times"))
    }

    fn hard_link(&mut self, at: BorrowedFd<'_>, name: &[u8], link: &[u8]) -> Result<(), Trouble> {
        let missing =
            |why: &str| refused(format!("a hard link to {}, which is {why}", shown(link)));
        let Ok((parent, target)) = name::link_target(link) else {
            return missing("not a file of the layer");
        };
        let from = match open_in_root(self.root, &parent, PARENT) {
            Ok(from) => from,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                return missing("not in the layer before it");
            }
            Err(errno) => return Err(with("open the link's target")(errno)),
        };
        match look(from.as_fd(), &target).map_err(with("look at the link's target"))? {
            Found::Nothing | Found::Whiteout => return missing("not in the layer before it"),
            Found::Directory => return missing("a directory"),
            Found::Other(_) => {}
        }
        let stat = |fd: BorrowedFd<'_>, name: &[u8]| {
            statat(fd, name, AtFlags::SYMLINK_NOFOLLOW).map(|s| (s.st_dev, s.st_ino))
        };
        // Already the same file: removing the name first would lose it.
        if let (Ok(here), Ok(there)) = (stat(at, name), stat(from.as_fd(), &target))
            && here == there
        {
            return Ok(());
        }
        self.new_name(at, name, "make the hard link", || {
            linkat(&from, target.as_slice(), at, name, AtFlags::empty())
        })
    }

    fn node(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        entry: &Entry,
        kind: FileType,
    ) -> Result<(), Trouble> {
        let number = |n: i64| u32::try_from(n).ok();
        let (Some(major), Some(minor)) = (number(entry.device.0), number(entry.device.1)) else {
            return refused("an impossible device number");
        };
        let device = match kind {
            FileType::Fifo => 0,
            _ => rustix::fs::makedev(major, minor),
        };
        self.new_name(at, name, "make the device", || {
            mknodat(at, name, kind, Mode::RUSR | Mode::WUSR, device)
        })?;
        dress_at(at, name, entry)
    }

    /// Runs `make`, after removing what has this name already.
    fn new_name<T>(
        &mut self,
        at: BorrowedFd<'_>,
        name: &[u8],
        action: &str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Trouble> {
        match make() {
            Err(Errno::EXIST) => {}
            other => return other.map_err(with(action)),
        }
        self.parent = None;
        let found = look(at, name).map_err(with("look at what is there"))?;
        self.has_replaced |= matches!(found, Found::Directory | Found::Other(_));
        match found {
            Found::Nothing => Ok(()),
            Found::Directory => remove_tree(at, name),
            Found::Whiteout | Found::Other(_) => unlinkat(at, name, AtFlags::empty()),
        }
        .map_err(with("replace what is there"))?;
        make().map_err(with(action))
    }

    fn whiteout(&mut self, at: BorrowedFd<'_>, name: &[u8]) -> Result<(), Trouble> {
        match look(at, name).map_err(with("look at what is there"))? {
            Found::Nothing => {
                mknodat(at, name, FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(with("make the whiteout"))?;
                // So that a layer is the same however often it is unpacked.
                let epoch = Timespec {
                    tv_sec: 0,
                    tv_nsec: 0,
                };
                let times = Timestamps {
                    last_access: epoch,
                    last_modification: epoch,
                };
                utimensat(at, name, &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(with("set the time of the whiteout"))
            }
            Found::Directory => {
                let directory =
                    openat(at, name, PARENT, Mode::empty()).map_err(with("open the directory"))?;
                self.make_opaque(directory.as_fd())
            }
            Found::Whiteout | Found::Other(_) => Ok(()),
        }
    }

    fn make_opaque(&self, directory: BorrowedFd<'_>) -> Result<(), Trouble> {
        let directory = openat(directory, c".", DIRECTORY, Mode::empty())
            .map_err(with("open the directory"))?;
        let set = |key| fsetxattr(&directory, key, OPAQUE_VALUE, XattrFlags::empty());
        match set(c"trusted.overlay.opaque") {
            Err(Errno::PERM) => set(c"user.overlay.opaque"),
            other => other,
        }
        .map_err(with("make the directory opaque"))
    }
}

/// Where the stored bytes of a file go: to its beginning, all of them, if it is not sparse.
pub(super) fn segments(entry: &Entry) -> Cow<'_, [Segment]> {
    match &entry.sparse {
        Some(map) => Cow::Borrowed(map),
        None => Cow::Owned(vec![Segment {
            offset: 0,
            length: entry.stored,
        }]),
    }
}

fn look(at: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<Found> {
    let stat = match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Found::Nothing),
        Err(errno) => return Err(errno),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Found::Directory,
        FileType::CharacterDevice if stat.st_rdev == 0 => Found::Whiteout,
        other => Found::Other(other),
    })
}
