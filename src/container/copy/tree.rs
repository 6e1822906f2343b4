//! Copying a tree by descriptors, from one directory to another.
//!
//! What is there already is treated as `docker cp` treats it: a directory is merged with one, anything
//! else is removed and made anew, and neither takes the place of the other.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, linkat, mkdirat, mknodat, openat, readlinkat,
    symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::dress::Dress;
use super::{CopyError, Owner, at, write_failed};
use crate::model::copy::split;
use crate::model::tar::shown;
use crate::sys::dirfd::{open_dir, open_path, read_dir, reopen_noatime, stat_at_opt};
use crate::sys::in_root::open_beneath;

/// The longest path. It bounds how deep a walk goes, too.
const MAX_PATH: usize = 4095;

/// Copy `source`, open as a location, as `name` into a directory; or, without a name, its contents.
/// `path` is what messages call the destination.
///
/// # Errors
/// The first thing that cannot be copied; what was copied before stays.
pub fn copy(
    source: &OwnedFd,
    directory: BorrowedFd<'_>,
    name: Option<&[u8]>,
    path: &[u8],
    owner: Owner,
) -> Result<(), CopyError> {
    let mut copy = Copy {
        owner,
        base: directory,
        below: Vec::new(),
        shown: path.to_vec(),
        linked: HashMap::new(),
        into: None,
    };
    match name {
        Some(name) => copy.entry(source, directory, name),
        None => {
            let stat = fstat(directory).map_err(at("open", path))?;
            copy.into = Some((stat.st_dev, stat.st_ino));
            copy.contents(source, directory)
        }
    }
}

struct Copy<'a> {
    owner: Owner,
    base: BorrowedFd<'a>,
    /// Where it is, below `base`.
    below: Vec<u8>,
    /// What messages call `base`.
    shown: Vec<u8>,
    /// Files with several links that are copied: device and inode number of the original, and where
    /// the copy is below `base`.
    linked: HashMap<(u64, u64), Vec<u8>>,
    /// The directory that is being filled, should it lie in the source.
    into: Option<(u64, u64)>,
}

impl Copy<'_> {
    fn path(&self) -> Vec<u8> {
        match self.below.is_empty() {
            true => self.shown.clone(),
            false if self.shown == b"/" => [b"/", self.below.as_slice()].concat(),
            false => [self.shown.as_slice(), b"/", &self.below].concat(),
        }
    }

    fn told<T>(
        &self,
        action: &'static str,
        result: Result<T, impl Into<io::Error>>,
    ) -> Result<T, CopyError> {
        result.map_err(|e| match self.owner {
            Owner::Caller => at(action, &self.path())(e),
            Owner::Kept | Owner::Root => write_failed(action, &self.path())(e),
        })
    }

    fn entry(
        &mut self,
        source: &OwnedFd,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), CopyError> {
        let length = self.below.len();
        if length > 0 {
            self.below.push(b'/');
        }
        self.below.extend_from_slice(name);
        let result = match self.below.len() > MAX_PATH {
            true => self.told("copy to", Err(Errno::NAMETOOLONG)),
            false => self.make(source, directory, name),
        };
        self.below.truncate(length);
        result
    }

    fn make(
        &mut self,
        source: &OwnedFd,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), CopyError> {
        let stat = self.told("copy to", fstat(source))?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        if file_type == FileType::Socket {
            // As in a tar, which is what Docker copies by.
            return Ok(());
        }
        let before = self.told("look at", stat_at_opt(directory, name))?;
        let was_directory =
            before.map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        if file_type == FileType::Directory {
            return match was_directory {
                Some(false) => Err(CopyError::OverFile(shown(&self.path()))),
                _ => self.directory(source, &stat, directory, name, was_directory.is_none()),
            };
        }
        match was_directory {
            Some(true) => return Err(CopyError::OverDirectory(shown(&self.path()))),
            Some(false) => self.told("replace", unlinkat(directory, name, AtFlags::empty()))?,
            None => {}
        }
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode) {
                return self.told("link", self.link(first, directory, name));
            }
            self.linked.insert(inode, self.below.clone());
        }
        let made = match file_type {
            FileType::RegularFile => {
                let made = self.file(source, &stat, directory, name);
                if made.is_err() {
                    // Half a file under its name would be taken for the whole.
                    unlinkat(directory, name, AtFlags::empty()).unwrap_or_default();
                }
                return made;
            }
            FileType::Symlink => readlinkat(source, "", Vec::new())
                .and_then(|target| symlinkat(target, directory, name)),
            kind => mknodat(directory, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev),
        };
        self.told("create", made)?;
        let made = self.told("open", open_path(directory, name))?;
        self.dress(source, &stat, &made)
    }

    fn directory(
        &mut self,
        source: &OwnedFd,
        stat: &Stat,
        directory: BorrowedFd<'_>,
        name: &[u8],
        is_new: bool,
    ) -> Result<(), CopyError> {
        if self.into == Some((stat.st_dev, stat.st_ino)) {
            return Err(CopyError::IntoItself(shown(&self.path())));
        }
        if is_new {
            self.told("create", mkdirat(directory, name, Mode::RWXU))?;
        }
        let made = self.told("open", open_dir(directory, name))?;
        if self.into.is_none() {
            let stat = self.told("open", fstat(&made))?;
            self.into = Some((stat.st_dev, stat.st_ino));
        }
        self.contents(source, made.as_fd())?;
        self.dress(source, stat, &made)
    }

    fn contents(&mut self, source: &OwnedFd, directory: BorrowedFd<'_>) -> Result<(), CopyError> {
        let mut entries = self.told("read what is copied to", read_dir(source))?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            match open_path(source, &entry.name) {
                Ok(fd) => self.entry(&fd, directory, &entry.name)?,
                // Removed meanwhile.
                Err(Errno::NOENT) => {}
                Err(e) => return self.told("read what is copied to", Err(e)),
            }
        }
        Ok(())
    }

    fn file(
        &self,
        source: &OwnedFd,
        stat: &Stat,
        directory: BorrowedFd<'_>,
        name: &[u8],
    ) -> Result<(), CopyError> {
        let from = reopen_noatime(source, OFlags::RDONLY);
        let from = File::from(self.told("read what is copied to", from)?);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = openat(directory, name, flags, Mode::RUSR | Mode::WUSR);
        let mut made = File::from(self.told("create", made)?);
        // No more than it has now: it may grow as fast as it is read.
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.told("write", io::copy(&mut from.take(size), &mut made))?;
        self.dress(source, stat, &OwnedFd::from(made))
    }

    fn link(&self, first: &[u8], directory: BorrowedFd<'_>, name: &[u8]) -> rustix::io::Result<()> {
        let (parent, first) = split(first);
        let parent = open_beneath(self.base, parent, OFlags::PATH | OFlags::DIRECTORY)?;
        linkat(&parent, first, directory, name, AtFlags::empty())
    }

    fn dress(&self, source: &OwnedFd, stat: &Stat, made: &OwnedFd) -> Result<(), CopyError> {
        let dress = Dress::of(source, stat);
        let put_on = dress.and_then(|dress| dress.put_on(made, self.owner));
        put_on.or_else(|(action, e)| self.told(action, Err(e)))
    }
}
