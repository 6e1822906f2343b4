//! Directory descriptors, as many as the process may keep open: the least recently used go first.
//!
//! It only maps a directory's number (never reused) to a descriptor; how a directory is opened
//! again is known to `lookup`. Lock rule: one mutex, a leaf, not held over a system call:
//! what is evicted is closed without it.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;

/// The cache.
#[derive(Debug)]
pub(crate) struct FdCache {
    inner: Mutex<Inner>,
    capacity: usize,
}

#[derive(Debug, Default)]
struct Inner {
    fds: HashMap<u64, (Arc<OwnedFd>, u64)>,
    by_age: BTreeMap<u64, u64>,
    clock: u64,
}

impl FdCache {
    /// A cache of so many descriptors.
    pub(crate) fn new(capacity: usize) -> Self {
        FdCache {
            inner: Mutex::default(),
            capacity: capacity.max(1),
        }
    }

    /// The descriptor of a directory, if it is still open.
    pub(crate) fn get(&self, id: u64) -> Option<Arc<OwnedFd>> {
        let mut inner = self.inner.lock();
        inner.clock += 1;
        let now = inner.clock;
        let (fd, used) = inner.fds.get_mut(&id)?;
        let fd = fd.clone();
        let before = std::mem::replace(used, now);
        inner.by_age.remove(&before);
        inner.by_age.insert(now, id);
        Some(fd)
    }

    /// Keeps a descriptor.
    pub(crate) fn put(&self, id: u64, fd: Arc<OwnedFd>) {
        let mut evicted = Vec::new();
        let mut inner = self.inner.lock();
        inner.clock += 1;
        let now = inner.clock;
        if let Some((old, used)) = inner.fds.insert(id, (fd, now)) {
            inner.by_age.remove(&used);
            evicted.push(old);
        }
        inner.by_age.insert(now, id);
        while inner.fds.len() > self.capacity {
            let Some((_, oldest)) = inner.by_age.pop_first() else {
                break;
            };
            evicted.extend(inner.fds.remove(&oldest).map(|(fd, _)| fd));
        }
        // Closed after the lock is given up.
        drop(inner);
    }

    /// Gives up the descriptor of a directory that is no more.
    pub(crate) fn forget(&self, id: u64) {
        let mut inner = self.inner.lock();
        let old = inner.fds.remove(&id);
        if let Some((_, used)) = &old {
            inner.by_age.remove(used);
        }
        drop(inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fd() -> Arc<OwnedFd> {
        Arc::new(std::fs::File::open("/dev/null").unwrap().into())
    }

    #[test]
    fn the_least_recently_used_goes() {
        let cache = FdCache::new(2);
        cache.put(1, fd());
        cache.put(2, fd());
        assert!(cache.get(1).is_some());
        cache.put(3, fd());
        assert!(cache.get(2).is_none());
        assert!(cache.get(1).is_some() && cache.get(3).is_some());
        cache.forget(1);
        assert!(cache.get(1).is_none());
        cache.put(3, fd());
        cache.put(4, fd());
        assert!(cache.get(3).is_some() && cache.get(4).is_some());
        assert_eq!(cache.inner.lock().by_age.len(), 2);
    }
}
