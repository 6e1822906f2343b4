//! A file that takes room for nothing, so that there is some when the disk is full.
//!
//! Who removes an image because the disk is full needs room for that: SQLite appends to its log,
//! and its shared memory is a file, too. So a store keeps a file of allocated blocks, gives it up
//! when there is no other room left, and makes it anew when there is.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

use super::StoreError;
use super::usage::measure_one;

/// The file's name in the store's root.
pub const NAME: &str = "reserve";

/// Its size, and the room below which it is given up.
const SIZE: u64 = 1 << 20;

/// The room without which the database is not opened: a file system with blocks smaller than a page
/// could otherwise run out of them under a page that SQLite has mapped, which is SIGBUS.
const LEAST: u64 = 64 << 10;

/// The size of SQLite's shared memory as long as its log is short.
const SHARED: u64 = 32 << 10;

/// Give the reserve up where the database would not have the room to be opened without.
///
/// # Errors
/// ENOSPC if there is none left even so; otherwise what the system says.
pub fn spend(root: &Path) -> Result<(), StoreError> {
    if is_roomy(root)? {
        return Ok(());
    }
    // What statvfs(3) counts as free is not always to be had: root may use more than others, but
    // not what ext4 keeps for itself. So it is tried.
    if can_allocate(root, SIZE)? {
        return Ok(());
    }
    give_up(&root.join(NAME))?;
    // As long as a view is served, its server has SQLite's shared memory open, with all its blocks.
    let shared = measure_one(&root.join("store.db-shm"))? >= SHARED;
    match shared || can_allocate(root, LEAST)? {
        true => Ok(()),
        false => Err(StoreError::at("open the store", root)(Errno::NOSPC)),
    }
}

/// Make the reserve if it is missing and there is room.
pub fn keep(root: &Path) -> Result<(), StoreError> {
    let path = root.join(NAME);
    // One that a crash or a full disk has left without its blocks is none.
    match measure_one(&path)? >= SIZE || !is_roomy(root)? {
        true => Ok(()),
        false => make(&path),
    }
}

/// Whether the file system has so much room that nobody need think of the reserve.
fn is_roomy(root: &Path) -> Result<bool, StoreError> {
    let stat = statvfs(root).map_err(StoreError::at("open the store", root))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize) > 4 * SIZE)
}

/// Whether a file of this size can be had now.
fn can_allocate(root: &Path, size: u64) -> Result<bool, StoreError> {
    let try_it = || -> io::Result<bool> {
        let file = tempfile::tempfile_in(root)?;
        match fallocate(&file, FallocateFlags::empty(), 0, size) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(true),
            Err(Errno::NOSPC | Errno::DQUOT) => Ok(false),
            Err(e) => Err(e.into()),
        }
    };
    match try_it() {
        Err(e) if e.kind() == io::ErrorKind::StorageFull => Ok(false),
        other => other.map_err(StoreError::at("open the store", root)),
    }
}

fn make(path: &Path) -> Result<(), StoreError> {
    let made = || -> io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, SIZE) {
            // Without it the store is as good as others.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSPC | Errno::DQUOT) => Ok(()),
            Err(e) => Err(e.into()),
        }
    };
    match made() {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ) =>
        {
            Ok(())
        }
        other => other.map_err(StoreError::at("create", path)),
    }
}

fn give_up(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::at("delete", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_takes_its_room() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path()).unwrap();
        keep(dir.path()).unwrap();
        std::fs::write(dir.path().join(NAME), "").unwrap();
        keep(dir.path()).unwrap();
        assert!(measure_one(&dir.path().join(NAME)).unwrap() >= SIZE);
        give_up(&dir.path().join(NAME)).unwrap();
        give_up(&dir.path().join(NAME)).unwrap();
        assert!(!dir.path().join(NAME).exists());
    }
}
