//! Files named by a directory descriptor and one name, never by a path string.
//!
//! A path string would break at `PATH_MAX`, could be redirected by a symlink planted in a layer,
//! and could lead through the mount that this very process serves (a deadlock). So every call here
//! takes an open directory and a single component, or a descriptor. Where the kernel only offers a
//! call by path (extended attributes, `chmod` of an `O_PATH` descriptor), `/proc/self/fd/N` is that
//! path: its magic link leads to the very inode and to nothing that anybody could replace.
//!
//! It does not own: any knowledge of layers, whiteouts or copy-up.

use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

/// What a system call gives or the kernel's error number.
pub type Result<T> = rustix::io::Result<T>;

/// One entry as `getdents64` gives it.
#[derive(Debug, Clone)]
pub struct RawEntry {
    /// The name: 1 to 255 bytes, any but `/` and NUL; never `.` or `..`.
    pub name: Box<[u8]>,
    /// The type, `Unknown` where the file system does not store it.
    pub file_type: FileType,
}

/// `fstatat` without following a symlink.
pub fn stat_at(dir: impl AsFd, name: &[u8]) -> Result<Stat> {
    rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// As [`stat_at`], with `None` for a name that is not there.
pub fn stat_at_opt(dir: impl AsFd, name: &[u8]) -> Result<Option<Stat>> {
    match stat_at(dir, name) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens a name as a mere location (`O_PATH`), a symlink as itself.
pub fn open_path(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens a directory as a mere location; `ENOTDIR` for anything else, a symlink to one included.
pub fn open_dir(dir: impl AsFd, name: &[u8]) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// Opens a name that is no symlink.
pub fn open(dir: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// As [`open`], without touching the access time, which only the owner or root may ask for.
pub fn open_noatime(dir: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    match open(&dir, name, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(dir, name, flags),
        other => other,
    }
}

/// A path below `/proc/self/fd`. It borrows the descriptor: the path of one that has been closed
/// meanwhile would lead nowhere, or to another file.
#[derive(Debug, Clone)]
pub struct ProcPath<'fd> {
    path: Vec<u8>,
    _fd: PhantomData<BorrowedFd<'fd>>,
}

impl ProcPath<'_> {
    /// The path's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.path
    }
}

/// The path of a descriptor's own inode.
pub fn proc_path(fd: &impl AsFd) -> ProcPath<'_> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into_bytes();
    ProcPath {
        path,
        _fd: PhantomData,
    }
}

/// The path of a name in an open directory, for the `l…xattr` calls (which do not follow a symlink
/// at the end).
pub fn proc_path_of<'fd>(dir: &'fd impl AsFd, name: &[u8]) -> ProcPath<'fd> {
    let mut path = proc_path(dir);
    path.path.push(b'/');
    path.path.extend_from_slice(name);
    path
}

/// Opens a descriptor's inode anew, with other flags: the way from `O_PATH` to reading or writing.
pub fn reopen(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    rustix::fs::open(
        proc_path(&fd).as_bytes(),
        flags | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Opens for reading without touching the access time, which only the owner or root may ask for.
pub fn reopen_noatime(fd: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
    match reopen(&fd, flags | OFlags::NOATIME) {
        Err(Errno::PERM) => reopen(fd, flags),
        other => other,
    }
}

/// An extended attribute of the inode at `path`, not following a symlink at its end; `None` when
/// it has none of that name or the file system knows no extended attributes.
pub fn get_xattr(path: &ProcPath<'_>, name: &[u8]) -> Result<Option<Vec<u8>>> {
    let value = grown(256, |space| {
        rustix::fs::lgetxattr(path.as_bytes(), name, space)
    });
    none_if_absent(value)
}

/// An extended attribute of an open inode, by its magic link: works for `O_PATH` too, and for a
/// symlink opened as itself.
pub fn get_xattr_fd(fd: impl AsFd, name: &[u8]) -> Result<Option<Vec<u8>>> {
    none_if_absent(ask_xattr_fd(fd, name))
}

/// As [`get_xattr_fd`], with the kernel's own words, ENODATA and EOPNOTSUPP, for "none".
pub fn ask_xattr_fd(fd: impl AsFd, name: &[u8]) -> Result<Vec<u8>> {
    let path = proc_path(&fd);
    grown(256, |space| {
        rustix::fs::getxattr(path.as_bytes(), name, space)
    })
}

/// The names of an open inode's extended attributes; none where they are not supported.
pub fn list_xattrs_fd(fd: impl AsFd) -> Result<Vec<Vec<u8>>> {
    let path = proc_path(&fd);
    xattr_names(grown(1024, |space| {
        rustix::fs::listxattr(path.as_bytes(), space)
    }))
}

/// The names of the extended attributes of the inode at `path`, not following a symlink at its end;
/// none where they are not supported.
pub fn list_xattrs(path: &ProcPath<'_>) -> Result<Vec<Vec<u8>>> {
    xattr_names(grown(1024, |space| {
        rustix::fs::llistxattr(path.as_bytes(), space)
    }))
}

fn xattr_names(list: Result<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
    let list = none_if_absent(list)?.unwrap_or_default();
    let names = list.split(|b| *b == 0).filter(|n| !n.is_empty());
    Ok(names.map(<[u8]>::to_vec).collect())
}

/// What `ask` writes, with more space as long as it says that there is too little: what it is asked
/// for may be as large as 64 KiB, and grow between two calls.
fn grown(space: usize, mut ask: impl FnMut(&mut [u8]) -> Result<usize>) -> Result<Vec<u8>> {
    let mut value = vec![0; space];
    loop {
        match ask(&mut value) {
            Ok(len) => {
                value.truncate(len);
                return Ok(value);
            }
            Err(Errno::RANGE) => value.resize(value.len() * 4, 0),
            Err(e) => return Err(e),
        }
    }
}

fn none_if_absent(value: Result<Vec<u8>>) -> Result<Option<Vec<u8>>> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets an extended attribute of an open inode.
pub fn set_xattr_fd(fd: impl AsFd, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
    rustix::fs::setxattr(proc_path(&fd).as_bytes(), name, value, flags)
}

/// Sets an extended attribute of a name in an open directory, without following or opening it: a
/// device must not be opened, a symlink cannot. (`setxattrat(2)` is of Linux 6.13.)
pub fn set_xattr_at(dir: impl AsFd, name: &[u8], key: &[u8], value: &[u8]) -> Result<()> {
    let path = proc_path_of(&dir, name);
    rustix::fs::lsetxattr(path.as_bytes(), key, value, XattrFlags::empty())
}

/// Removes an extended attribute of an open inode.
pub fn remove_xattr_fd(fd: impl AsFd, name: &[u8]) -> Result<()> {
    rustix::fs::removexattr(proc_path(&fd).as_bytes(), name)
}

/// Changes the mode of an open inode (`fchmod` refuses `O_PATH`).
pub fn chmod_fd(fd: impl AsFd, mode: u32) -> Result<()> {
    rustix::fs::chmod(
        proc_path(&fd).as_bytes(),
        Mode::from_raw_mode(mode & 0o7777),
    )
}

/// Changes owner and group of an open inode; works for `O_PATH` and symlinks.
pub fn chown_fd(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    let uid = uid.map(rustix::fs::Uid::from_raw);
    let gid = gid.map(rustix::fs::Gid::from_raw);
    rustix::fs::chownat(fd, "", uid, gid, AtFlags::EMPTY_PATH)
}

/// Sets the times of an open inode; works for `O_PATH` and symlinks.
pub fn set_times_fd(fd: impl AsFd, times: &rustix::fs::Timestamps) -> Result<()> {
    rustix::fs::utimensat(fd, "", times, AtFlags::EMPTY_PATH)
}

/// Reads a whole directory given as a location, without touching its access time.
pub fn read_dir(dir: impl AsFd) -> Result<Vec<RawEntry>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut stream = Dir::new(reopen_noatime(dir, flags)?)?;
    let mut entries = Vec::new();
    while let Some(entry) = stream.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let file_type = entry.file_type();
        entries.push(RawEntry {
            name: name.into(),
            file_type,
        });
    }
    Ok(entries)
}

/// Whether a directory, given as a location, has no entries.
pub fn is_empty_dir(dir: impl AsFd) -> Result<bool> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let mut stream = Dir::new(reopen_noatime(dir, flags)?)?;
    while let Some(entry) = stream.read() {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
