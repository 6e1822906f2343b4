//! A file that takes room for nothing, so that there is some when the disk is full.
//!
//! Who removes an image because the disk is full needs room for that: SQLite appends to its log,
//! and its shared memory is a file, too. So a store keeps a file of allocated blocks, gives it up
//! when there is no other room left, and makes it anew when there is.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::StoreError;

/// The file's name in the store's root.
pub const NAME: &str = "reserve";

/// Its size, and the room below which it is given up.
const SIZE: u64 = 1 << 20;

/// The room without which the database is not opened: a file system with blocks smaller than a page
/// could otherwise run out of them under a page that SQLite has mapped, which is SIGBUS.
const LEAST: u64 = 64 << 10;

/// Make the reserve, or give it up, as there is room.
///
/// # Errors
/// ENOSPC if there is none left even so; otherwise what the system says.
pub fn keep(root: &Path) -> Result<(), StoreError> {
    let path = root.join(NAME);
    let reserved = path.exists();
    match (room(root)?, reserved) {
        (room, false) if room > 4 * SIZE => make(&path),
        (room, true) if room < SIZE => give_up(&path),
        _ => Ok(()),
    }?;
    // Given back blocks count as free a moment later on some file systems; what is there counts.
    match room(root)? + if reserved { SIZE } else { 0 } {
        room if room < LEAST => Err(StoreError::at("open the store", root)(
            rustix::io::Errno::NOSPC,
        )),
        _ => Ok(()),
    }
}

/// The bytes that this user can still write.
fn room(root: &Path) -> Result<u64, StoreError> {
    let stat = statvfs(root).map_err(StoreError::at("open the store", root))?;
    let blocks = match nix::unistd::geteuid().is_root() {
        true => stat.f_bfree,
        false => stat.f_bavail,
    };
    Ok(blocks.saturating_mul(stat.f_frsize))
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
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSPC) => Ok(()),
            Err(e) => Err(e.into()),
        }
    };
    made().map_err(StoreError::at("create", path))
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
    use crate::store::usage::measure_one;

    #[test]
    fn it_is_made_once_and_takes_its_room() {
        let dir = tempfile::tempdir().unwrap();
        keep(dir.path()).unwrap();
        keep(dir.path()).unwrap();
        assert!(measure_one(&dir.path().join(NAME)).unwrap() >= SIZE);
        give_up(&dir.path().join(NAME)).unwrap();
        give_up(&dir.path().join(NAME)).unwrap();
        assert!(!dir.path().join(NAME).exists());
    }
}
