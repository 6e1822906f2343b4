//! Pins: shared `flock`s on layer directories, held by view servers.
//!
//! The kernel drops a lock when the process that holds it ends, however it ends, so there are no
//! counts that could go stale. The reclaimer takes the same lock exclusively, without waiting: if
//! it gets it, nobody reads the layer, and nobody can begin to, because the name is gone from
//! `layers/` by then.
//!
//! Not here: the rows that say who pins what (`db`), the renames (`store::layout`), and how a lock is
//! taken (`store::lock`).

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::model::DiffId;
use crate::store::{Store, StoreError, lock};

/// A layer that cannot go as long as this lives.
#[derive(Debug)]
pub struct Pin {
    /// Holds the shared lock.
    directory: OwnedFd,
}

impl Pin {
    /// Pin the layer that is now in `layers/` for this diff; `None` where there is none.
    pub fn acquire(store: &Store, diff: &DiffId) -> Result<Option<Pin>, StoreError> {
        // Waiting is short: a load lets go of what it has published at once, and reclaimers lock
        // directories that have lost this name.
        let directory = lock::wait_shared(&store.layer(diff))?;
        Ok(directory.map(|directory| Pin { directory }))
    }

    /// Whether the layer that is now in `layers/` for this diff is the one that is pinned.
    pub fn is_current(&self, store: &Store, diff: &DiffId) -> Result<bool, StoreError> {
        lock::leads_to(&store.layer(diff), &self.directory)
    }

    /// The layer's directory, whatever name it has by now.
    pub fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// The layer's tree, opened.
    pub fn open_tree(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.directory, "tree", flags, Mode::empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::lock::Attempt;

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
        let attempt = || lock::try_exclusive(&marked).unwrap();
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
