//! Pins: shared `flock`s on layer directories, held by view servers.
//!
//! The kernel drops a lock when the process that holds it ends, however it ends, so there are no
//! counts that could go stale. The reclaimer takes the same lock exclusively, without waiting: if
//! it gets it, nobody reads the layer, and nobody can begin to, because the name is gone from
//! `layers/` by then.
//!
//! Not here: the rows that say who pins what (`db`), and the renames (`store::layout`).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;

use crate::model::DiffId;
use crate::store::StoreError;
use crate::store::layout::{Store, open_directory};

/// A layer that cannot go as long as this lives.
#[derive(Debug)]
pub struct Pin {
    /// Holds the shared lock.
    directory: OwnedFd,
}

impl Pin {
    /// Pin the layer that is now in `layers/` for this diff; `None` where there is none.
    pub fn acquire(store: &Store, diff: &DiffId) -> Result<Option<Pin>, StoreError> {
        let path = store.layer(diff);
        loop {
            let directory = match open_directory(&path) {
                Ok(directory) => directory,
                Err(e) if e.is_not_found() => return Ok(None),
                Err(e) => return Err(e),
            };
            // Waiting is short: a load lets go of what it has published at once, and reclaimers
            // lock directories that have lost this name.
            flock(&directory, FlockOperation::LockShared).map_err(StoreError::at("lock", &path))?;
            // Lock, then look again: between open and lock the layer may have been marked, and
            // even reclaimed.
            if leads_to(&path, directory.as_fd())? {
                return Ok(Some(Pin { directory }));
            }
        }
    }

    /// Whether the layer that is now in `layers/` for this diff is the one that is pinned.
    pub fn is_current(&self, store: &Store, diff: &DiffId) -> Result<bool, StoreError> {
        leads_to(&store.layer(diff), self.directory.as_fd())
    }

    /// The layer's tree, opened.
    pub fn open_tree(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory, "tree", flags, Mode::empty())
    }
}

/// A marked layer that nobody can pin or reclaim as long as this lives.
#[derive(Debug)]
pub struct Exclusive {
    /// Holds the exclusive lock.
    _directory: OwnedFd,
}

/// What became of an attempt to lock a layer for reclaiming.
#[derive(Debug)]
pub enum Attempt {
    /// Nobody reads it.
    Locked(Exclusive),
    /// It is pinned, or being reclaimed by another process.
    Busy,
    /// It is not there.
    Gone,
}

impl Exclusive {
    /// Try to lock a directory in `marked/`.
    pub fn try_acquire(path: &Path) -> Result<Attempt, StoreError> {
        let directory = match open_directory(path) {
            Ok(directory) => directory,
            Err(e) if e.is_not_found() => return Ok(Attempt::Gone),
            Err(e) => return Err(e),
        };
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Attempt::Busy),
            Err(e) => return Err(StoreError::at("lock", path)(e)),
        }
        match leads_to(path, directory.as_fd())? {
            true => Ok(Attempt::Locked(Exclusive {
                _directory: directory,
            })),
            false => Ok(Attempt::Gone),
        }
    }
}

fn leads_to(path: &Path, directory: BorrowedFd<'_>) -> Result<bool, StoreError> {
    let here = rustix::fs::fstat(directory).map_err(StoreError::at("open", path))?;
    match rustix::fs::lstat(path) {
        Ok(there) => Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(StoreError::at("open", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_keeps_the_reclaimer_out_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        store.furnish().unwrap();
        let diff = DiffId::of(b"layer");
        assert!(Pin::acquire(&store, &diff).unwrap().is_none());
        std::fs::create_dir(store.layer(&diff)).unwrap();
        let first = Pin::acquire(&store, &diff).unwrap().unwrap();
        let second = Pin::acquire(&store, &diff).unwrap().unwrap();
        let marked = store.marked().join("x");
        std::fs::rename(store.layer(&diff), &marked).unwrap();
        let attempt = || Exclusive::try_acquire(&marked).unwrap();
        assert!(matches!(attempt(), Attempt::Busy));
        drop(first);
        assert!(matches!(attempt(), Attempt::Busy));
        drop(second);
        let held = attempt();
        assert!(matches!(held, Attempt::Locked(_)));
        assert!(matches!(attempt(), Attempt::Busy));
        drop(held);
        std::fs::remove_dir(&marked).unwrap();
        assert!(matches!(attempt(), Attempt::Gone));
    }
}
