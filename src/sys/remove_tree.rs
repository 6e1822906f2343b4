//! Physical deletion of directory trees.
//!
//! Everything is reached from an open directory by single names, symlinks are never followed: what
//! goes here was unpacked from an archive that anybody may have written, or written by a container.
//! Trees may be deeper than `PATH_MAX` and than the limit of open files: from a certain depth on, a
//! directory is moved up to the top before it is emptied.
//!
//! How fast it goes may be steered: whoever does is asked before each step, and may wait. Large files
//! are then cut down in portions before their names go.

use std::ffi::{CStr, CString};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags, fstat, openat2, renameat_with,
    statat, unlinkat,
};
use rustix::io::{Errno, Result};
use rustix::path::Arg;

use super::shrink::{Shrinking, allocated};

/// How many directories are open at once.
const DEEPEST: usize = 64;

/// How many names of a directory are read at once: a few megabytes of them.
const PORTION: usize = if cfg!(test) { 1000 } else { 1 << 15 };

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What a step of a deletion gives back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Step {
    /// Names: 1, or 0 where a file is only cut.
    pub entries: u64,
    /// Allocated bytes, those of a hard link with its last name; 0 where nobody asks for them.
    pub bytes: u64,
}

/// What steers a deletion.
pub trait Steer {
    /// How many allocated bytes of a file may go in one step. `None`: bytes are of no interest. Only
    /// where they are, each entry is looked at before it goes, and files of more are cut.
    fn portion(&self) -> Option<NonZeroU64>;

    /// Called before each step: the moment to wait.
    fn before(&mut self, step: Step);
}

/// As fast as it goes.
#[derive(Debug, Clone, Copy)]
pub struct Unsteered;

impl Steer for Unsteered {
    fn portion(&self) -> Option<NonZeroU64> {
        None
    }

    fn before(&mut self, _: Step) {}
}

/// Delete a name and all that is below it, as fast as it goes. Not there is well: what deletes is
/// repeated after a crash.
pub fn remove_tree(parent: impl AsFd, name: &[u8]) -> Result<()> {
    remove_tree_steered(parent, name, &mut Unsteered)
}

/// The same, steered. No other process may rely on what is below the name: files are cut before they
/// go, unless they have other names or are open.
pub fn remove_tree_steered(parent: impl AsFd, name: &[u8], steer: &mut dyn Steer) -> Result<()> {
    let (parent, name) = (
        parent.as_fd(),
        CString::new(name).map_err(|_| Errno::INVAL)?,
    );
    let found = match statat(parent, &name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(found) => found,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e),
    };
    if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
        match unlink(parent, &name, steer) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Another has the name since.
            Err(Errno::ISDIR) => {}
            Err(e) => return Err(e),
        }
    }
    let mut attempts = 3;
    loop {
        let bytes = match open_child(parent, &name) {
            Ok(directory) => {
                empty_one(directory.as_fd(), directory.as_fd(), 0, &mut 0, steer)?;
                bytes_of_directory(directory.as_fd(), steer)?
            }
            Err(Errno::NOENT) => return Ok(()),
            Err(e) => return Err(e),
        };
        attempts -= 1;
        steer.before(Step { entries: 1, bytes });
        match unlinkat(parent, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // A view that just starts has put its image's index there since.
            Err(Errno::NOTEMPTY) if attempts > 0 => {}
            Err(e) => return Err(e),
        }
    }
}

/// Delete a name that is no directory's; EISDIR where it is one. Nothing that looks at the file before
/// may keep it from being deleted.
fn unlink(directory: BorrowedFd<'_>, name: &CStr, steer: &mut dyn Steer) -> Result<()> {
    let mut step = Step {
        entries: 1,
        bytes: 0,
    };
    if let Some(portion) = steer.portion() {
        let found = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        if found.st_nlink <= 1 {
            step.bytes = allocated(&found);
        }
        if let Some(mut file) = Shrinking::open(directory, name, &found, portion) {
            // What cannot be cut goes whole; and if it cannot, it is the deletion that says why.
            while let Ok(Some(bytes)) = file.next_cut() {
                steer.before(Step { entries: 0, bytes });
                if file.cut().is_err() {
                    break;
                }
            }
            step.bytes = file.left()?;
        }
    }
    steer.before(step);
    unlinkat(directory, name, AtFlags::empty())
}

/// The allocated bytes of an empty directory, where they are asked for.
fn bytes_of_directory(directory: BorrowedFd<'_>, steer: &dyn Steer) -> Result<u64> {
    match steer.portion() {
        Some(_) => fstat(directory).map(|found| allocated(&found)),
        None => Ok(0),
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
    empty_one(top, top, 0, &mut 0, &mut Unsteered)
}

fn empty_one(
    top: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    depth: usize,
    moved_up: &mut u64,
    steer: &mut dyn Steer,
) -> Result<()> {
    // The names first, the deletions then: what a directory lists while it is being emptied is
    // not defined. In portions, for a directory may have millions.
    loop {
        let portion = list(directory, PORTION)?;
        if portion.is_empty() {
            return Ok(());
        }
        for (name, is_directory) in portion {
            let unlinked = match is_directory {
                true => Err(Errno::ISDIR),
                false => unlink(directory, &name, steer),
            };
            match unlinked {
                Ok(()) | Err(Errno::NOENT) => {}
                // Also where the kind that the listing told was unknown or out of date.
                Err(Errno::ISDIR) if depth < DEEPEST => {
                    empty_child(top, directory, &name, depth, moved_up, steer)?;
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
    steer: &mut dyn Steer,
) -> Result<()> {
    let child: OwnedFd = match open_child(directory, name) {
        Ok(child) => child,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e),
    };
    empty_one(top, child.as_fd(), depth + 1, moved_up, steer)?;
    let bytes = bytes_of_directory(child.as_fd(), steer)?;
    drop(child);
    steer.before(Step { entries: 1, bytes });
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

/// Up to `most` names of a directory, and whether each is a directory; in the order of their inodes, as far
/// as may be in that of the disk: a wide directory of ext4 lists its names by their hashes.
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
                    names.push((entry.ino(), entry.file_name().to_owned(), is_directory));
                }
            }
        }
    }
    names.sort_unstable_by_key(|(inode, ..)| *inode);
    let named = |(_, name, is_directory)| (name, is_directory);
    Ok(names.into_iter().map(named).collect())
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

    /// Writes down what it is told.
    struct Witness(Option<NonZeroU64>, Vec<Step>);

    impl Steer for Witness {
        fn portion(&self) -> Option<NonZeroU64> {
            self.0
        }

        fn before(&mut self, step: Step) {
            self.1.push(step);
        }
    }

    #[test]
    fn each_step_is_told_before_it_is_made() {
        let portion = 256 << 10;
        for steered in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join("tree");
            std::fs::create_dir_all(tree.join("sub")).unwrap();
            std::fs::write(tree.join("small"), "x").unwrap();
            std::fs::write(tree.join("sub/large"), vec![1; 1 << 20]).unwrap();
            std::fs::write(tree.join("linked"), vec![1; 1 << 20]).unwrap();
            std::fs::hard_link(tree.join("linked"), tree.join("sub/link")).unwrap();
            symlink("small", tree.join("symlink")).unwrap();
            let parent = openat(CWD, dir.path(), DIRECTORY, Mode::empty()).unwrap();
            rustix::fs::syncfs(&parent).unwrap();
            let mut all = 0;
            for name in [".", "small", "sub", "sub/large", "linked", "symlink"] {
                let found = std::fs::symlink_metadata(tree.join(name)).unwrap();
                all += std::os::unix::fs::MetadataExt::blocks(&found) * 512;
            }
            let mut witness = Witness(NonZeroU64::new(portion).filter(|_| steered), Vec::new());
            remove_tree_steered(&parent, b"tree", &mut witness).unwrap();
            assert!(!tree.exists());
            let steps = witness.1;
            let entries: u64 = steps.iter().map(|step| step.entries).sum();
            let bytes: u64 = steps.iter().map(|step| step.bytes).sum();
            let cuts: Vec<&Step> = steps.iter().filter(|step| step.entries == 0).collect();
            match steered {
                true => {
                    // Both large files, the one with the links when one is left.
                    assert_eq!((entries, bytes, cuts.len()), (7, all, 6));
                    assert!(cuts.iter().all(|cut| cut.bytes == portion));
                }
                false => assert_eq!((entries, bytes, cuts.len()), (7, 0, 0)),
            }
        }
    }
}
