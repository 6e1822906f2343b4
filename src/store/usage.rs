//! How much of the disk a tree takes: allocated blocks, hard links counted once, as `du` counts.

use std::collections::HashSet;
use std::ffi::{CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};
use rustix::io::Errno;

use super::StoreError;
use super::layout::open_directory;

/// What a tree takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Allocated bytes.
    pub bytes: u64,
    /// Entries, the top included.
    pub entries: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.bytes += other.bytes;
        self.entries += other.entries;
    }
}

/// Measure what lies at `path`, other file systems mounted below it left out. What vanishes while
/// it is counted is not counted; nothing there counts nothing.
///
/// Data that was written but has no blocks yet (delayed allocation) does not count: sync first
/// where it should.
pub fn measure(path: &Path) -> Result<Usage, StoreError> {
    let mut usage = Usage::default();
    let Some((above, name)) = parent_of(path)? else {
        return Ok(usage);
    };
    let mut linked = HashSet::new();
    let mut device = None;
    // Names with the directory they are in, not paths: a tree may be deeper than PATH_MAX. A
    // directory is closed when the last of its entries has been looked at.
    let mut pending = vec![(Rc::new(above), name)];
    while let Some((directory, name)) = pending.pop() {
        let meta = match statat(&*directory, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(meta) => meta,
            // ENOTCONN: the mount point of a server that died.
            Err(Errno::NOENT | Errno::NOTCONN) => continue,
            Err(e) => return Err(StoreError::at("read", path)(e)),
        };
        if *device.get_or_insert(meta.st_dev) != meta.st_dev {
            continue;
        }
        usage.entries += 1;
        if FileType::from_raw_mode(meta.st_mode) == FileType::Directory {
            match list(&directory, &name) {
                Ok((child, names)) => {
                    let child = Rc::new(child);
                    pending.extend(names.into_iter().map(|n| (Rc::clone(&child), n)));
                }
                Err(Errno::NOENT | Errno::NOTCONN) => {}
                Err(e) => return Err(StoreError::at("read", path)(e)),
            }
        } else if meta.st_nlink > 1 && !linked.insert(meta.st_ino) {
            continue;
        }
        usage.bytes += u64::try_from(meta.st_blocks).unwrap_or(0) * 512;
    }
    Ok(usage)
}

/// The directory above `path`, opened, and `path`'s name in it.
fn parent_of(path: &Path) -> Result<Option<(OwnedFd, CString)>, StoreError> {
    let (above, name) = match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => (above, name),
        _ => (path, OsStr::new(".")),
    };
    let name = CString::new(name.as_bytes()).map_err(StoreError::at("read", path))?;
    match open_directory(above) {
        Ok(above) => Ok(Some((above, name))),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e),
    }
}

fn list(directory: &OwnedFd, name: &CString) -> Result<(OwnedFd, Vec<CString>), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let child = openat(directory, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&child)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok((child, names))
}

/// The allocated bytes of one file or directory, without what is in it.
pub fn measure_one(path: &Path) -> Result<u64, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.blocks() * 512),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(StoreError::at("read", path)(e)),
    }
}
