//! By which way an open file is read and written: through the kernel's cache of the view and this
//! server, or directly ("passthrough"), from and to the file on disk.
//!
//! The kernel wants one way for all who have an inode open at a time, and refuses (EIO) an open by
//! the other; for the direct one it wants the same registered file. So the first open decides, and
//! the others follow until the last is closed. It has counted a close before it tells of it, so what
//! is counted here is never less than what the kernel counts.
//!
//! From the direct way an inode never comes back: a mapping may outlive all descriptors, unknown to
//! us, and what it writes would not show in the cache. That holds because a file that could be
//! opened directly once (it is in the upper directory) always can.
//!
//! Lock rule: one mutex, held over the registration of a file with the kernel.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::super::error::{Error, Result};

/// The way of one open.
#[derive(Debug)]
pub(super) enum Way<B> {
    /// Through the cache.
    Cached,
    /// Directly, by this registered file.
    Direct(Arc<B>),
}

/// The ways of the inodes that are open. `B` is what the kernel gives for a registered file.
#[derive(Debug)]
pub(super) struct IoModes<B> {
    state: Mutex<State<B>>,
}

#[derive(Debug)]
struct State<B> {
    inodes: HashMap<u64, Inode<B>>,
    passthrough: Passthrough,
}

#[derive(Debug)]
struct Inode<B> {
    opens: u64,
    backing: Option<Arc<B>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passthrough {
    Off,
    /// It may turn out that the kernel refuses it for this disk.
    Untried,
    Works,
}

impl<B> IoModes<B> {
    pub(super) fn new() -> IoModes<B> {
        IoModes {
            state: Mutex::new(State {
                inodes: HashMap::new(),
                passthrough: Passthrough::Off,
            }),
        }
    }

    /// From now on, files may be opened directly.
    pub(super) fn allow_direct(&self) {
        self.state.lock().passthrough = Passthrough::Untried;
    }

    /// Counts an open of an inode, and says by which way. `file` gives what can be opened directly,
    /// if anything can: asked here, so that a file that was copied up meanwhile is not missed.
    /// `register` tells the kernel of it.
    ///
    /// # Errors
    /// Those of `file`, and those of `register`, unless it was the first attempt of all: then all go
    /// through the cache.
    pub(super) fn open<F>(
        &self,
        ino: u64,
        file: impl FnOnce() -> Result<Option<F>>,
        register: impl FnOnce(F) -> io::Result<B>,
    ) -> Result<Way<B>> {
        let mut state = self.state.lock();
        if state.passthrough == Passthrough::Off {
            return Ok(Way::Cached);
        }
        if let Some(inode) = state.inodes.get_mut(&ino) {
            inode.opens += 1;
            return Ok(match &inode.backing {
                Some(backing) => Way::Direct(backing.clone()),
                None => Way::Cached,
            });
        }
        let backing = match file()?.map(register).transpose() {
            Ok(Some(backing)) => {
                state.passthrough = Passthrough::Works;
                Some(Arc::new(backing))
            }
            Ok(None) => None,
            Err(e) if state.passthrough == Passthrough::Untried => {
                tracing::info!(
                    "files cannot be passed through here ({e}): they go through the cache"
                );
                state.passthrough = Passthrough::Off;
                state.inodes.clear();
                return Ok(Way::Cached);
            }
            Err(e) => {
                let number = e.raw_os_error().unwrap_or(libc::EIO);
                return Err(Error::Sys(Errno::from_raw_os_error(number)));
            }
        };
        let way = match &backing {
            Some(backing) => Way::Direct(backing.clone()),
            None => Way::Cached,
        };
        state.inodes.insert(ino, Inode { opens: 1, backing });
        Ok(way)
    }

    /// Counts a close.
    pub(super) fn close(&self, ino: u64) {
        let mut state = self.state.lock();
        let Some(inode) = state.inodes.get_mut(&ino) else {
            return;
        };
        inode.opens -= 1;
        let last = (inode.opens == 0).then(|| state.inodes.remove(&ino));
        drop(state);
        // The kernel is told without the lock.
        drop(last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_direct(way: Result<Way<u8>>) -> Option<u8> {
        match way.unwrap() {
            Way::Cached => None,
            Way::Direct(backing) => Some(*backing),
        }
    }

    #[test]
    fn the_first_open_decides_for_all() {
        let modes = IoModes::new();
        let can = || Ok(Some(()));
        let cannot = || Ok(None);
        let no = |()| -> io::Result<u8> { panic!("asked without need") };
        assert_eq!(is_direct(modes.open(7, can, no)), None);
        modes.allow_direct();
        assert_eq!(is_direct(modes.open(1, can, |()| Ok(11))), Some(11));
        assert_eq!(is_direct(modes.open(1, can, no)), Some(11));
        assert_eq!(is_direct(modes.open(1, cannot, no)), Some(11));
        assert_eq!(is_direct(modes.open(2, cannot, no)), None);
        assert_eq!(is_direct(modes.open(2, can, no)), None);
        modes.close(2);
        assert_eq!(is_direct(modes.open(2, can, no)), None);
        modes.close(2);
        modes.close(2);
        assert_eq!(is_direct(modes.open(2, can, |()| Ok(12))), Some(12));
        for _ in 0..3 {
            modes.close(1);
        }
        assert_eq!(is_direct(modes.open(1, can, |()| Ok(13))), Some(13));
        // What works does not turn into something else.
        let full = |()| Err(io::Error::from_raw_os_error(libc::ENOMEM));
        let refused = modes.open(3, can, full).map(|way| is_direct(Ok(way)));
        assert_eq!(refused, Err(Error::Sys(Errno::NOMEM)));
        let failed = modes.open(3, || Err::<Option<()>, _>(Error::Stale), no);
        assert_eq!(failed.map(|way| is_direct(Ok(way))), Err(Error::Stale));
        assert_eq!(is_direct(modes.open(3, can, |()| Ok(14))), Some(14));
    }

    #[test]
    fn where_the_kernel_refuses_it() {
        let modes = IoModes::<u8>::new();
        modes.allow_direct();
        let can = || Ok(Some(()));
        let refused = |()| Err(io::ErrorKind::PermissionDenied.into());
        assert_eq!(is_direct(modes.open(1, can, refused)), None);
        assert_eq!(is_direct(modes.open(1, can, |()| Ok(1))), None);
        modes.close(1);
    }
}
