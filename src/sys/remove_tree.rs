//! Physical deletion of directory trees.
//!
//! Everything is reached from an open directory by single names, symlinks are never followed: what
//! goes here was unpacked from an archive that anybody may have written, or written by a container.
//! Trees may be deeper than `PATH_MAX` and than the limit of open files: from a certain depth on, a
//! directory is moved up to the top before it is emptied.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, openat2, renameat, unlinkat};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

/// How many directories are open at once.
const DEEPEST: usize = 64;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Delete a name and all that is below it. Not there is well: what deletes is repeated after a
/// crash.
pub fn remove_tree(parent: impl AsFd, name: &[u8]) -> Result<()> {
    let why = match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // Of a directory POSIX says EPERM, Linux EISDIR.
        Err(e @ (Errno::ISDIR | Errno::PERM)) => e,
        Err(e) => return Err(e),
    };
    match open_child(parent.as_fd(), name) {
        Ok(directory) => empty(directory)?,
        Err(Errno::NOTDIR) => return Err(why),
        Err(e) => return Err(e),
    }
    match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Open a directory to empty it; EBUSY where something is mounted on it: what is mounted is not
/// ours to delete.
fn open_child(parent: BorrowedFd<'_>, name: impl Arg) -> Result<OwnedFd> {
    let inside = ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    match openat2(parent, name, DIRECTORY, Mode::empty(), inside) {
        Err(Errno::XDEV) => Err(Errno::BUSY),
        other => other,
    }
}

/// Delete all that is in an open directory.
pub fn empty(top: impl AsFd) -> Result<()> {
    let top = top.as_fd();
    let mut moved_up = 0_u64;
    // Each pass empties the directories that the pass before has moved up to the top.
    loop {
        let before = moved_up;
        empty_one(top, top, 0, &mut moved_up)?;
        if moved_up == before {
            return Ok(());
        }
    }
}

fn empty_one(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    depth: usize,
    moved_up: &mut u64,
) -> Result<()> {
    // The names first, the deletions then: what a directory lists while it is being emptied is
    // not defined. In portions, for a directory may have millions.
    loop {
        let portion = list(directory, 4096)?;
        if portion.is_empty() {
            return Ok(());
        }
        let mut gone = 0;
        for (name, is_directory) in portion {
            if !is_directory {
                match unlinkat(directory, &name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT) => gone += 1,
                    // The kind that the listing told was unknown or out of date.
                    Err(Errno::ISDIR) => {
                        gone += empty_child(top, directory, &name, depth, moved_up)?;
                    }
                    Err(e) => return Err(e),
                }
            } else {
                gone += empty_child(top, directory, &name, depth, moved_up)?;
            }
        }
        if gone == 0 {
            // All that is left are directories that were moved up into this one.
            return Ok(());
        }
    }
}

/// 1 if the child is no longer in `directory`.
fn empty_child(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    moved_up: &mut u64,
) -> Result<usize> {
    if depth >= DEEPEST {
        let new = format!(".layerctl-deep.{}.{moved_up}", std::process::id());
        *moved_up += 1;
        renameat(directory, name, top, new.as_str())?;
        return Ok(1);
    }
    let child: OwnedFd = match open_child(directory, name) {
        Ok(child) => child,
        Err(Errno::NOENT) => return Ok(1),
        Err(e) => return Err(e),
    };
    empty_one(top, child.as_fd(), depth + 1, moved_up)?;
    drop(child);
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(1),
        Err(e) => Err(e),
    }
}

/// Up to `most` names of a directory, and whether each is a directory.
fn list(directory: BorrowedFd<'_>, most: usize) -> Result<Vec<(CString, bool)>> {
    // Opened anew: the position of `directory` itself is not to be moved.
    let mut entries = Dir::read_from(directory)?;
    let mut names = Vec::new();
    while names.len() < most {
        match entries.read() {
            None => break,
            Some(entry) => {
                let entry = entry?;
                if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                    let is_directory = entry.file_type() == FileType::Directory;
                    names.push((entry.file_name().to_owned(), is_directory));
                }
            }
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, openat};
    use std::os::unix::fs::symlink;

    #[test]
    fn deletes_wide_and_deep_trees_and_follows_no_symlink() {
        let dir = tempfile::tempdir().unwrap();
        let keep = dir.path().join("keep");
        std::fs::create_dir(&keep).unwrap();
        std::fs::write(keep.join("file"), "x").unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        symlink(&keep, tree.join("link")).unwrap();
        for i in 0..5000 {
            std::fs::write(tree.join(format!("f{i}")), "").unwrap();
        }
        // Deeper than PATH_MAX: 300 directories of 100 characters.
        let name = "d".repeat(100);
        let parent = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
        let mut at = openat(&parent, "tree", DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..300 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            rustix::fs::openat(&at, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
            at = openat(
                &at,
                &name,
                OFlags::RDONLY | OFlags::DIRECTORY,
                Mode::empty(),
            )
            .unwrap();
        }
        drop(at);
        remove_tree(&parent, b"tree").unwrap();
        assert!(!tree.exists());
        assert!(keep.join("file").exists());
        remove_tree(&parent, b"tree").unwrap();
    }
}
