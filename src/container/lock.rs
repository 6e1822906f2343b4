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
    pub fn is_held(directory: &Path) -> Result<bool, StoreError> {
        let opened = match open_directory(directory) {
            Ok(opened) => opened,
            Err(e) if e.is_not_found() => return Ok(false),
            Err(e) => return Err(e),
        };
        match flock(&opened, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(Errno::WOULDBLOCK) => Ok(true),
            Err(e) => Err(StoreError::at("lock", directory)(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!ServerLock::is_held(dir.path()).unwrap());
        let lock = ServerLock::acquire(dir.path()).unwrap().unwrap();
        assert!(ServerLock::is_held(dir.path()).unwrap());
        assert!(ServerLock::acquire(dir.path()).unwrap().is_none());
        drop(lock);
        assert!(!ServerLock::is_held(dir.path()).unwrap());
    }
}
