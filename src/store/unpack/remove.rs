//! Removing a directory with everything in it, for a later entry that takes its name.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat, unlinkat};
use rustix::io::{Errno, Result};

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Removes the directory `name` of `parent`. However deep it is, it takes two descriptors and no
/// recursion; going up by `..` is safe because nobody else changes a layer that is being unpacked.
pub(super) fn remove_tree(parent: BorrowedFd<'_>, name: &[u8]) -> Result<()> {
    let mut at = openat(parent, name, DIRECTORY, Mode::empty())?;
    let mut names = vec![name.to_vec()];
    while let Some(here) = names.last() {
        if let Some(sub) = empty_but_for_a_directory(&at)? {
            at = openat(&at, sub.as_slice(), DIRECTORY, Mode::empty())?;
            names.push(sub);
            continue;
        }
        if names.len() == 1 {
            return unlinkat(parent, here.as_slice(), AtFlags::REMOVEDIR);
        }
        let up = openat(&at, c"..", DIRECTORY, Mode::empty())?;
        unlinkat(&up, here.as_slice(), AtFlags::REMOVEDIR)?;
        at = up;
        names.pop();
    }
    Ok(())
}

/// Unlinks everything up to the first directory, which it returns; without one, the directory is empty.
fn empty_but_for_a_directory(at: &OwnedFd) -> Result<Option<Vec<u8>>> {
    loop {
        let mut removed = false;
        for entry in Dir::read_from(at)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => {
                    let stat = statat(at.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW)?;
                    FileType::from_raw_mode(stat.st_mode)
                }
                kind => kind,
            };
            if kind == FileType::Directory {
                return Ok(Some(name.to_bytes().to_vec()));
            }
            match unlinkat(at, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => removed = true,
                Err(e) => return Err(e),
            }
        }
        // A file system may leave out entries when others are removed while it is read.
        if !removed {
            return Ok(None);
        }
    }
}
