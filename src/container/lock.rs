//! The lock of a view's server: an exclusive `flock` on the container's directory, from before the
//! view is on record until after its end is. Whoever can lock a directory whose view is on record
//! knows that the server is dead, whatever its process ID says.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::store::StoreError;
use crate::store::layout::open_directory;

/// Held by the process that serves the view, or that removes the container.
#[derive(Debug)]
pub struct ServerLock {
    _directory: OwnedFd,
}

/// Those who only look hold the lock shared for a moment; a server that starts waits them out.
const PATIENCE: Duration = Duration::from_secs(2);

impl ServerLock {
    /// Take the lock; `None` if another process has it.
    pub fn acquire(directory: &Path) -> Result<Option<ServerLock>, StoreError> {
        let opened = open_directory(directory)?;
        let end = Instant::now() + PATIENCE;
        loop {
            match flock(&opened, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(ServerLock { _directory: opened })),
                Err(Errno::WOULDBLOCK) if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(e) => return Err(StoreError::at("lock", directory)(e)),
            }
        }
    }

    /// Whether a process has the lock now.
    pub fn look(directory: &Path) -> Result<Look, StoreError> {
        let opened = match open_directory(directory) {
            Ok(opened) => opened,
            // Deleted by hand: nobody serves it.
            Err(e) if e.is_not_found() => return Ok(Look::Free(None)),
            Err(e) => return Err(e),
        };
        match flock(&opened, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Look::Free(Some(opened))),
            Err(Errno::WOULDBLOCK) => Ok(Look::Held),
            Err(e) => Err(StoreError::at("lock", directory)(e)),
        }
    }
}

/// What there is to see of a lock.
#[derive(Debug)]
pub enum Look {
    /// A process has it.
    Held,
    /// Nobody has it, and as long as this lives nobody gets it.
    Free(Option<OwnedFd>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder() {
        let dir = tempfile::tempdir().unwrap();
        let is_held = || matches!(ServerLock::look(dir.path()).unwrap(), Look::Held);
        assert!(!is_held());
        let lock = ServerLock::acquire(dir.path()).unwrap().unwrap();
        assert!(is_held());
        assert!(ServerLock::acquire(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(!is_held());
        let look = ServerLock::look(dir.path()).unwrap();
        assert!(ServerLock::acquire(dir.path()).unwrap().is_none());
        drop(look);
        assert!(ServerLock::acquire(dir.path()).unwrap().is_some());
    }
}
