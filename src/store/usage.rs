//! How much of the disk a tree takes: allocated blocks, hard links counted once, as `du` counts.

use std::collections::HashSet;
use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Stat, statat};
use rustix::io::Errno;

use super::StoreError;
use super::directories::{self, Directories, list};
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
    let Some((above, name)) = parent_of(path)? else {
        return Ok(Usage::default());
    };
    measure_in(&above, &name).map_err(StoreError::at("read", path))
}

fn measure_in(above: &OwnedFd, name: &CStr) -> Result<Usage, Errno> {
    let mut usage = Usage::default();
    let Some(top) = if_there(statat(above, name, AtFlags::SYMLINK_NOFOLLOW))? else {
        return Ok(usage);
    };
    let mut linked = HashSet::new();
    let mut count = |meta: &Stat| {
        usage.entries += 1;
        let is_directory = is_directory(meta);
        if is_directory || meta.st_nlink <= 1 || linked.insert(meta.st_ino) {
            usage.bytes += u64::try_from(meta.st_blocks).unwrap_or(0) * 512;
        }
        is_directory
    };
    if !count(&top) {
        return Ok(usage);
    }
    let Some(opened) = if_there(directories::open(above, name))? else {
        return Ok(usage);
    };
    let mut directories = Directories::below(opened);
    let mut pending = vec![0];
    while let Some(number) = pending.pop() {
        let Some(directory) = if_there(directories.open(number))? else {
            continue;
        };
        for entry in list(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let meta = statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW);
            if let Some(meta) = if_there(meta)?
                && meta.st_dev == top.st_dev
                && count(&meta)
            {
                pending.push(directories.add(number, name));
            }
        }
    }
    Ok(usage)
}

fn is_directory(meta: &Stat) -> bool {
    FileType::from_raw_mode(meta.st_mode) == FileType::Directory
}

/// What was found, or `None` if it has vanished. (ENOTCONN: the mount point of a server that died.)
fn if_there<T>(found: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTCONN) => Ok(None),
        Err(e) => Err(e),
    }
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

/// The allocated bytes of one file or directory, without what is in it.
pub fn measure_one(path: &Path) -> Result<u64, StoreError> {
    match fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.blocks() * 512),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(StoreError::at("read", path)(e)),
    }
}
