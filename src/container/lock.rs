//! The lock of a view's server: an exclusive `flock` on the container's directory, from before the
//! view is on record until after its end is. Whoever can lock a directory whose view is on record
//! knows that the server is dead, whatever its process ID says.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::store::StoreError;
use crate::store::lock::{self, Attempt};

/// Held by the process that serves the view, or that removes the container.
#[derive(Debug)]
pub struct ServerLock {
    _directory: OwnedFd,
}

/// Those who only look hold the lock shared for a moment; a server that starts waits them out.
const PATIENCE: Duration = Duration::from_secs(2);

impl ServerLock {
    /// Take the lock. `Gone` is a container that was removed meanwhile, or by hand.
    pub fn acquire(directory: &Path) -> Result<Attempt<ServerLock>, StoreError> {
        let end = Instant::now() + PATIENCE;
        loop {
            match lock::try_exclusive(directory)? {
                Attempt::Busy if Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                attempt => {
                    return Ok(attempt.map(|directory| ServerLock {
                        _directory: directory,
                    }));
                }
            }
        }
    }

    /// Whether a process has the lock now.
    pub fn look(directory: &Path) -> Result<Look, StoreError> {
        Ok(match lock::try_shared(directory)? {
            Attempt::Locked(directory) => Look::Free(Some(directory)),
            Attempt::Busy => Look::Held,
            // Removed, or deleted by hand: nobody serves it.
            Attempt::Gone => Look::Free(None),
        })
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
        let acquire = || ServerLock::acquire(dir.path()).unwrap();
        let lock = acquire();
        assert!(matches!(lock, Attempt::Locked(_)));
        assert!(is_held());
        assert!(matches!(acquire(), Attempt::Busy));
        drop(lock);
        assert!(!is_held());
        let look = ServerLock::look(dir.path()).unwrap();
        assert!(matches!(acquire(), Attempt::Busy));
        drop(look);
        assert!(matches!(acquire(), Attempt::Locked(_)));
    }

    #[test]
    fn who_waits_while_the_container_is_removed_gets_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("container");
        std::fs::create_dir(&path).unwrap();
        let first = ServerLock::acquire(&path).unwrap();
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| ServerLock::acquire(&path).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            std::fs::remove_dir(&path).unwrap();
            drop(first);
            second.join().unwrap()
        });
        assert!(matches!(second, Attempt::Gone));
    }
}
