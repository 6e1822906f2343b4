//! Locks on directories of the store: `flock`, taken without waiting, and the second look.
//!
//! A lock is on a directory, and a directory may lose its name between being opened and being
//! locked: renamed to `marked/`, moved aside, deleted. So whoever has the lock looks again whether
//! the name still leads to what is locked. What each lock means is said in `store::layout`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, flock, fstat, lstat};
use rustix::io::Errno;

use super::StoreError;
use super::layout::open_directory;

/// What became of an attempt to lock the directory that has a name.
#[derive(Debug)]
pub enum Attempt<T = OwnedFd> {
    /// It is locked as long as this lives.
    Locked(T),
    /// Another process has a lock that is against it.
    Busy,
    /// No directory has that name, or no longer the one that had it.
    Gone,
}

impl<T> Attempt<T> {
    /// The same attempt, with the lock in a type of its own.
    pub fn map<U>(self, wrap: impl FnOnce(T) -> U) -> Attempt<U> {
        match self {
            Attempt::Locked(lock) => Attempt::Locked(wrap(lock)),
            Attempt::Busy => Attempt::Busy,
            Attempt::Gone => Attempt::Gone,
        }
    }
}

/// Try to be the only one who has a lock on the directory.
///
/// # Errors
/// What lies there cannot be opened or locked, or is no directory.
pub fn try_exclusive(path: &Path) -> Result<Attempt, StoreError> {
    attempt(path, FlockOperation::NonBlockingLockExclusive)
}

/// Try to lock the directory beside others who do the same.
pub fn try_shared(path: &Path) -> Result<Attempt, StoreError> {
    attempt(path, FlockOperation::NonBlockingLockShared)
}

/// Lock the directory beside others who do the same; who has it alone is waited for. `None` where no
/// directory has that name.
pub fn wait_shared(path: &Path) -> Result<Option<OwnedFd>, StoreError> {
    loop {
        match attempt(path, FlockOperation::LockShared)? {
            Attempt::Locked(directory) => return Ok(Some(directory)),
            // The name may have gone to another directory, which is then the one to be locked.
            Attempt::Gone if is_free(path)? => return Ok(None),
            Attempt::Gone | Attempt::Busy => {}
        }
    }
}

fn attempt(path: &Path, how: FlockOperation) -> Result<Attempt, StoreError> {
    let directory = match open_directory(path) {
        Ok(directory) => directory,
        Err(e) if e.is_not_found() => return Ok(Attempt::Gone),
        Err(e) => return Err(e),
    };
    match flock(&directory, how) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(Attempt::Busy),
        Err(e) => return Err(StoreError::at("lock", path)(e)),
    }
    Ok(match leads_to(path, &directory)? {
        true => Attempt::Locked(directory),
        false => Attempt::Gone,
    })
}

fn is_free(path: &Path) -> Result<bool, StoreError> {
    match lstat(path) {
        Ok(_) => Ok(false),
        Err(Errno::NOENT) => Ok(true),
        Err(e) => Err(StoreError::at("open", path)(e)),
    }
}

/// Whether a name leads to this directory.
pub fn leads_to(path: &Path, directory: impl AsFd) -> Result<bool, StoreError> {
    let here = fstat(directory).map_err(StoreError::at("open", path))?;
    match lstat(path) {
        Ok(there) => Ok((here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)),
        Err(Errno::NOENT) => Ok(false),
        Err(e) => Err(StoreError::at("open", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_has_it_alone_or_several_share_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d");
        assert!(matches!(try_exclusive(&path).unwrap(), Attempt::Gone));
        assert!(wait_shared(&path).unwrap().is_none());
        std::fs::create_dir(&path).unwrap();
        let alone = try_exclusive(&path).unwrap();
        assert!(matches!(alone, Attempt::Locked(_)));
        assert!(matches!(try_exclusive(&path).unwrap(), Attempt::Busy));
        assert!(matches!(try_shared(&path).unwrap(), Attempt::Busy));
        drop(alone);
        let (one, two) = (try_shared(&path).unwrap(), wait_shared(&path).unwrap());
        assert!(matches!(one, Attempt::Locked(_)) && two.is_some());
        assert!(matches!(try_exclusive(&path).unwrap(), Attempt::Busy));
    }

    #[test]
    fn a_name_leads_to_one_directory_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("d"), dir.path().join("aside"));
        std::fs::create_dir(&path).unwrap();
        let first = open_directory(&path).unwrap();
        assert!(leads_to(&path, &first).unwrap());
        std::fs::rename(&path, &aside).unwrap();
        assert!(!leads_to(&path, &first).unwrap());
        std::fs::create_dir(&path).unwrap();
        assert!(!leads_to(&path, &first).unwrap());
        assert!(leads_to(&aside, &first).unwrap());
    }
}
