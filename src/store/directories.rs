//! The directories of a tree that is being walked, of which only a few are open at once.
//!
//! They are found by descriptors and names, not by paths: a tree may be deeper than `PATH_MAX` is
//! long. And it may have more directories one in the other than a process may have files open: one
//! that was closed is opened again from the nearest one above it that is open.

use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{Dir, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

/// How many are kept open.
const OPEN: usize = 64;

/// The longest path that is given to the kernel, in bytes: less than `PATH_MAX`.
const MAX_PATH: usize = 4000;

/// The directories of a tree, by numbers; 0 is the top.
pub(super) struct Directories {
    top: Rc<OwnedFd>,
    /// Of each but the top: the one that it is in, and where its name begins in `names`.
    places: Vec<(usize, usize)>,
    /// One after the other, each with a zero at its end: there may be a million.
    names: Vec<u8>,
    /// The last one used at the end.
    open: VecDeque<(usize, Rc<OwnedFd>)>,
}

impl Directories {
    /// Those of the tree with this top, which is open.
    pub(super) fn below(top: OwnedFd) -> Directories {
        Directories {
            top: Rc::new(top),
            places: Vec::new(),
            names: Vec::new(),
            open: VecDeque::new(),
        }
    }

    /// Gives a number to the directory of that name in another one.
    pub(super) fn add(&mut self, parent: usize, name: &CStr) -> usize {
        self.places.push((parent, self.names.len()));
        self.names.extend_from_slice(name.to_bytes_with_nul());
        self.places.len()
    }

    /// A directory, open for reading.
    pub(super) fn open(&mut self, directory: usize) -> Result<Rc<OwnedFd>, Errno> {
        let mut closed = Vec::new();
        let mut at = directory;
        let mut fd = loop {
            if at == 0 {
                break Rc::clone(&self.top);
            }
            if let Some(found) = self.open.iter().rposition(|(number, _)| *number == at)
                && let Some((_, fd)) = self.open.remove(found)
            {
                self.keep(at, &fd);
                break fd;
            }
            closed.push(at);
            at = self.places[at - 1].0;
        };
        if closed.is_empty() {
            return Ok(fd);
        }
        // By few long paths, not one by one: who goes breadth first through a hundred deep
        // directories has none open of those above the next.
        let mut path = Vec::new();
        for at in closed.into_iter().rev() {
            let name = self.name(at);
            if path.len() + 1 + name.len() > MAX_PATH {
                fd = Rc::new(open_path(&fd, &path)?);
                path.clear();
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        fd = Rc::new(open_path(&fd, &path)?);
        self.keep(directory, &fd);
        Ok(fd)
    }

    fn name(&self, directory: usize) -> &[u8] {
        let begin = self.places[directory - 1].1;
        let name = CStr::from_bytes_until_nul(self.names.get(begin..).unwrap_or_default());
        name.unwrap_or_default().to_bytes()
    }

    fn keep(&mut self, directory: usize, fd: &Rc<OwnedFd>) {
        if self.open.len() >= OPEN {
            self.open.pop_front();
        }
        self.open.push_back((directory, Rc::clone(fd)));
    }
}

/// Opens a directory to read it, without following a symlink. Its access time stays what it is where
/// that may be asked for.
pub(super) fn open(above: &OwnedFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(above, name, flags | OFlags::NOATIME, Mode::empty()) {
        // Neither its owner nor root.
        Err(Errno::PERM) => openat(above, name, flags, Mode::empty()),
        other => other,
    }
}

/// The same by a path, none of which may be a symlink.
fn open_path(above: &OwnedFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let open = |flags| openat2(above, path, flags, Mode::empty(), inside);
    match open(flags | OFlags::NOATIME) {
        Err(Errno::PERM) => open(flags),
        other => other,
    }
}

/// What is in an open directory, `.` and `..` too, whatever was read of it before.
pub(super) fn list(directory: &OwnedFd) -> Result<Dir, Errno> {
    Dir::new(open(directory, c".")?)
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;
    use crate::store::layout::open_directory;
    use crate::store::usage::measure;

    #[test]
    fn as_deep_as_a_tree_may_be_only_a_few_are_open() {
        let dir = tempfile::tempdir().unwrap();
        let name = "d".repeat(100);
        let mut at = open_directory(dir.path()).unwrap();
        for _ in 0..300 {
            for name in [&name, "aside", "beside"] {
                rustix::fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            }
            at = open(&at, &CString::new(name.as_str()).unwrap()).unwrap();
        }
        drop(at);
        let mut directories = Directories::below(open_directory(dir.path()).unwrap());
        let mut chain = vec![0];
        for depth in 0..300 {
            chain.push(directories.add(chain[depth], &CString::new(name.as_str()).unwrap()));
        }
        let device = |fd: Rc<OwnedFd>| rustix::fs::fstat(&*fd).unwrap().st_ino;
        let deepest = device(directories.open(chain[300]).unwrap());
        let upmost = device(directories.open(chain[1]).unwrap());
        assert_eq!(device(directories.open(chain[300]).unwrap()), deepest);
        assert_eq!(device(directories.open(chain[1]).unwrap()), upmost);
        assert!(directories.open.len() <= OPEN);
        assert_eq!(measure(dir.path()).unwrap().entries, 901);
        crate::sys::remove_tree::empty(open_directory(dir.path()).unwrap()).unwrap();
    }
}
