//! Physical deletion of directory trees.
//!
//! Everything is reached from an open directory by single names, symlinks are never followed: what
//! goes here was unpacked from an archive that anybody may have written, or written by a container.
//! Trees may be deeper than `PATH_MAX` and than the limit of open files: from a certain depth on, a
//! directory is moved up to the top before it is emptied.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with,
    unlinkat,
};
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
    let mut attempts = 3;
    loop {
        match open_child(parent.as_fd(), name) {
            Ok(directory) => empty(directory)?,
            Err(Errno::NOENT) => return Ok(()),
            Err(Errno::NOTDIR) => return Err(why),
            Err(e) => return Err(e),
        }
        attempts -= 1;
        match unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // A view that just starts has put its image's index there since.
            Err(Errno::NOTEMPTY) if attempts > 0 => {}
            Err(e) => return Err(e),
        }
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
    // What is moved up is in the listings of the top that follow.
    empty_one(top, top, 0, &mut 0)
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
        for (name, is_directory) in portion {
            let unlinked = match is_directory {
                true => Err(Errno::ISDIR),
                false => unlinkat(directory, &name, AtFlags::empty()),
            };
            match unlinked {
                Ok(()) | Err(Errno::NOENT) => {}
                // Also where the kind that the listing told was unknown or out of date.
                Err(Errno::ISDIR) if depth < DEEPEST => {
                    empty_child(top, directory, &name, depth, moved_up)?;
                }
                Err(Errno::ISDIR) => move_up(top, directory, &name, moved_up)?,
                Err(e) => return Err(e),
            }
        }
    }
}

fn empty_child(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &CStr,
    depth: usize,
    moved_up: &mut u64,
) -> Result<()> {
    let child: OwnedFd = match open_child(directory, name) {
        Ok(child) => child,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e),
    };
    empty_one(top, child.as_fd(), depth + 1, moved_up)?;
    drop(child);
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Move a directory up to the top, under a name that is free: an archive may have any, and a killed
/// process of the same ID may have left one.
fn move_up(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    name: &CStr,
    moved_up: &mut u64,
) -> Result<()> {
    loop {
        let new = format!(".layerctl-deep.{moved_up}");
        *moved_up += 1;
        match renameat_with(directory, name, top, new.as_str(), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return other,
        }
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
        // Names that this needs itself for a while.
        std::fs::create_dir_all(tree.join(".layerctl-deep.0/filled")).unwrap();
        std::fs::write(tree.join(".layerctl-deep.1"), "").unwrap();
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
