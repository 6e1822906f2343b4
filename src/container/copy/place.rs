//! Where a copy begins and where it ends: paths become descriptors.

use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::{Errno, Result};

use super::{CopyError, at};
use crate::model::copy::{Found, Path, clean, split};
use crate::model::tar::shown;
use crate::sys::dirfd::open_path;
use crate::sys::in_root::open_in_root;

/// How many symbolic links one after the other lead to a destination.
const MAX_LINKS: usize = 10;

/// Where paths are resolved.
#[derive(Debug, Clone, Copy)]
pub enum Side<'a> {
    /// This machine.
    Here,
    /// In a container.
    Container {
        /// As the user names it.
        name: &'a str,
        /// Its root directory: no path leads out of it.
        root: BorrowedFd<'a>,
    },
}

/// What is copied.
#[derive(Debug)]
pub struct Source {
    /// Open as a location.
    pub fd: OwnedFd,
    /// What it is.
    pub stat: Stat,
    /// What it is called; empty for a root directory.
    pub name: Vec<u8>,
}

/// Where it goes.
#[derive(Debug)]
pub struct Destination {
    /// What is there now.
    pub found: Found,
    /// It, if it is a directory; else the directory that it is or will be in. Open as a location.
    pub directory: OwnedFd,
    /// Its name in that directory; empty if it is one itself.
    pub name: Vec<u8>,
}

impl<'a> Side<'a> {
    fn open(self, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::PATH | OFlags::CLOEXEC;
        match self {
            Side::Here => openat(CWD, path, flags, Mode::empty()),
            Side::Container { root, .. } => open_in_root(root, path, flags),
        }
    }

    /// Reads a path of this side.
    pub fn path(self, path: &[u8]) -> Path {
        match self {
            Side::Here => Path::of(path),
            Side::Container { .. } => Path::in_container(path),
        }
    }

    fn missing(self, path: &[u8]) -> CopyError {
        match self {
            Side::Here => CopyError::NotHere(shown(path)),
            Side::Container { name, .. } => CopyError::NotInContainer {
                path: shown(path),
                container: name.to_owned(),
            },
        }
    }

    /// Finds a source. A symbolic link is the source itself, unless `follow` says otherwise or the path
    /// says that a directory is meant; it gives its name all the same. `given` is for messages.
    pub fn source(
        self,
        path: &Path,
        given: &[u8],
        follow: bool,
    ) -> std::result::Result<Source, CopyError> {
        let flags = match follow || path.must_be_directory {
            true => OFlags::empty(),
            false => OFlags::NOFOLLOW,
        };
        let fd = match self.open(&path.clean, flags) {
            Err(Errno::NOENT) => return Err(self.missing(given)),
            other => other.map_err(at("open", given))?,
        };
        let stat = fstat(&fd).map_err(at("open", given))?;
        let name = match path.split() {
            // Of this machine, the current directory or one above it.
            (_, b"." | b"..") => absolute_name(&path.clean).map_err(at("open", given))?,
            (_, name) => name.to_vec(),
        };
        Ok(Source { fd, stat, name })
    }

    /// Finds a destination, which may not be there yet. Symbolic links are followed, also those that
    /// lead to nothing. `given` is for messages.
    pub fn destination(
        self,
        path: &Path,
        given: &[u8],
    ) -> std::result::Result<Destination, CopyError> {
        let mut path = path.clean.clone();
        for _ in 0..MAX_LINKS {
            match self.open(&path, OFlags::empty()) {
                Ok(fd) => return self.found(fd, &path, given),
                Err(Errno::NOENT) => {}
                Err(Errno::NOTDIR) => return Err(CopyError::NotADirectory),
                Err(e) => return Err(at("open", given)(e)),
            }
            let (parent, name) = split(&path);
            let directory = match self.open(parent, OFlags::DIRECTORY) {
                Err(Errno::NOENT) => return Err(self.missing(parent)),
                Err(Errno::NOTDIR) => return Err(CopyError::NotADirectory),
                other => other.map_err(at("open", parent))?,
            };
            let target = match open_path(&directory, name) {
                Ok(link) => match readlinkat(&link, "", Vec::new()) {
                    Ok(target) => target.into_bytes(),
                    // Made since the first look: once more.
                    Err(_) => continue,
                },
                Err(Errno::NOENT) => {
                    return Ok(Destination {
                        found: Found::Nothing,
                        directory,
                        name: name.to_vec(),
                    });
                }
                Err(e) => return Err(at("open", given)(e)),
            };
            path = match target.starts_with(b"/") {
                true => clean(&target),
                false => clean(&[parent, b"/", target.as_slice()].concat()),
            };
        }
        Err(at("open", given)(Errno::LOOP))
    }

    /// What there is at a destination. A file is known by the directory that it is in: links to it
    /// are followed once more, to there.
    fn found(
        self,
        fd: OwnedFd,
        path: &[u8],
        given: &[u8],
    ) -> std::result::Result<Destination, CopyError> {
        let stat = fstat(&fd).map_err(at("open", given))?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                return Ok(Destination {
                    found: Found::Directory,
                    directory: fd,
                    name: Vec::new(),
                });
            }
            FileType::RegularFile => {}
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Err(self.irregular(given, "a device"));
            }
            _ => return Err(self.irregular(given, "an irregular file")),
        }
        let mut path = path.to_vec();
        for _ in 0..MAX_LINKS {
            let (parent, name) = split(&path);
            let directory = self.open(parent, OFlags::DIRECTORY);
            let directory = directory.map_err(at("open", parent))?;
            let at_end = open_path(&directory, name).map_err(at("open", given))?;
            match readlinkat(&at_end, "", Vec::new()) {
                Ok(target) => {
                    let target = target.into_bytes();
                    path = match target.starts_with(b"/") {
                        true => clean(&target),
                        false => clean(&[parent, b"/", target.as_slice()].concat()),
                    };
                }
                Err(_) => {
                    return Ok(Destination {
                        found: Found::Other,
                        directory,
                        name: name.to_vec(),
                    });
                }
            }
        }
        Err(at("open", given)(Errno::LOOP))
    }

    fn irregular(self, given: &[u8], got: &'static str) -> CopyError {
        let given = shown(given);
        let place = match self {
            Side::Here => format!("invalid output path: \"{given}\""),
            Side::Container { name, .. } => format!("destination \"{name}:{given}\""),
        };
        CopyError::Irregular { place, got }
    }
}

/// What the current directory, or one above it, is called.
fn absolute_name(path: &[u8]) -> std::io::Result<Vec<u8>> {
    let absolute = std::path::Path::new(OsStr::from_bytes(path)).canonicalize()?;
    Ok(absolute.file_name().unwrap_or_default().as_bytes().to_vec())
}
