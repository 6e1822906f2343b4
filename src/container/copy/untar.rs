//! Unpacking a tar in a container: `cp - CONTAINER:PATH`.
//!
//! Unlike a layer's, its names mean nothing but themselves: there are no whiteouts. The directories on
//! the way to an entry are resolved by the kernel inside the container's root, each time anew, so that
//! links of the tar and of the container are followed there and lead nowhere else.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, linkat, makedev, mkdirat, mknodat, openat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::dress::Dress;
use super::{CopyError, Owner, at, write_failed};
use crate::model::copy::{clean, split};
use crate::model::tar::{Entry, Kind, Segment, Skip, TarReader, shown};
use crate::sys::dirfd::{open_dir, open_path, stat_at_opt};
use crate::sys::in_root::open_in_root;

const BUFFER: usize = 128 << 10;

/// Unpack a tar, not compressed, into a directory of a container, of which the path is clean.
///
/// # Errors
/// The first thing that is wrong with the tar or cannot be made; what was made before stays.
pub fn untar(
    tar: impl Read,
    root: BorrowedFd<'_>,
    directory: &[u8],
    owner: Owner,
) -> Result<(), CopyError> {
    let mut tar = TarReader::new(Passed(tar));
    let mut to = Untar {
        root,
        directory,
        owner,
        directories: Vec::new(),
        buffer: vec![0; BUFFER],
    };
    while let Some(entry) = tar.next_entry().map_err(CopyError::Tar)? {
        to.entry(&entry, &mut tar)?;
    }
    // Last of all: what is put into a directory changes its time.
    for (path, dress) in std::mem::take(&mut to.directories).into_iter().rev() {
        let made = open_in_root(root, &path, OFlags::PATH | OFlags::DIRECTORY);
        let made = made.map_err(at("open", &path))?;
        to.dress(&dress, &made, &path)?;
    }
    Ok(())
}

/// A stream, in which one passes over bytes by reading them.
struct Passed<R>(R);

impl<R: Read> Read for Passed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Skip for Passed<R> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        io::copy(&mut self.0.by_ref().take(count), &mut io::sink())
    }
}

struct Untar<'a> {
    root: BorrowedFd<'a>,
    directory: &'a [u8],
    owner: Owner,
    /// Those that were made or merged.
    directories: Vec<(Vec<u8>, Dress)>,
    buffer: Vec<u8>,
}

impl Untar<'_> {
    /// Where a name of the tar is in the container.
    fn place(&self, name: &[u8]) -> Result<Vec<u8>, CopyError> {
        // Relative, whether it begins with a slash or not.
        let relative = clean(&[b"./", name].concat());
        match relative.as_slice() {
            b".." => Err(CopyError::Outside(shown(name))),
            path if path.starts_with(b"../") => Err(CopyError::Outside(shown(name))),
            path => Ok(clean(&[self.directory, b"/", path].concat())),
        }
    }

    fn entry<R: Skip>(&mut self, entry: &Entry, tar: &mut TarReader<R>) -> Result<(), CopyError> {
        let path = self.place(&entry.path)?;
        if path == clean(self.directory) || matches!(entry.kind, Kind::Other(_)) {
            // The destination itself stays what it is.
            return Ok(());
        }
        let (parent, name) = split(&path);
        let parent = self.parent(parent)?;
        let before = stat_at_opt(&parent, name).map_err(write_failed("look at", &path))?;
        let was_directory =
            before.map(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        match (entry.kind == Kind::Directory, was_directory) {
            (true, Some(false)) => return Err(CopyError::OverFile(shown(&path))),
            (true, Some(true)) | (_, None) => {}
            (false, Some(true)) => return Err(CopyError::OverDirectory(shown(&path))),
            (false, Some(false)) => {
                unlinkat(&parent, name, AtFlags::empty()).map_err(write_failed("replace", &path))?
            }
        }
        let dress = Dress::of_entry(entry).map_err(|(action, e)| at(action, &path)(e))?;
        match entry.kind {
            Kind::Directory => {
                if was_directory.is_none() {
                    mkdirat(&parent, name, Mode::RWXU).map_err(write_failed("create", &path))?;
                }
                self.directories.push((path, dress));
                return Ok(());
            }
            Kind::HardLink => {
                let target = self.place(&entry.link)?;
                let (from, first) = split(&target);
                let flags = OFlags::PATH | OFlags::DIRECTORY;
                let linked = open_in_root(self.root, from, flags)
                    .and_then(|from| linkat(&from, first, &parent, name, AtFlags::empty()));
                return linked.map_err(write_failed("link", &path));
            }
            Kind::File => {
                let made = self.file(&parent, name, entry, tar, &path);
                if made.is_err() {
                    // Half a file under its name would be taken for the whole.
                    unlinkat(&parent, name, AtFlags::empty()).unwrap_or_default();
                }
                made?;
            }
            Kind::Symlink => symlinkat(entry.link.as_slice(), &parent, name)
                .map_err(write_failed("create", &path))?,
            kind => {
                let file_type = match kind {
                    Kind::CharDevice => FileType::CharacterDevice,
                    Kind::BlockDevice => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let number = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
                let device = makedev(number(entry.device.0), number(entry.device.1));
                mknodat(&parent, name, file_type, Mode::RUSR | Mode::WUSR, device)
                    .map_err(write_failed("create", &path))?;
            }
        }
        let made = open_path(&parent, name).map_err(at("open", &path))?;
        self.dress(&dress, &made, &path)
    }

    fn dress(&self, dress: &Dress, made: &OwnedFd, path: &[u8]) -> Result<(), CopyError> {
        let put_on = dress.put_on(made, self.owner);
        put_on.map_err(|(action, e)| write_failed(action, path)(e))
    }

    /// The directory that an entry is in, made where it is missing.
    fn parent(&self, path: &[u8]) -> Result<OwnedFd, CopyError> {
        let open = |path: &[u8]| open_in_root(self.root, path, OFlags::PATH | OFlags::DIRECTORY);
        match open(path) {
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) => return Err(CopyError::OverFile(shown(path))),
            other => return other.map_err(at("open", path)),
        }
        let (above, name) = split(path);
        // It ends at the destination, which is there, or has been removed: then with an error.
        if name.is_empty() || path.len() <= self.directory.len() {
            return Err(at("open", path)(Errno::NOENT));
        }
        let above = self.parent(above)?;
        match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(write_failed("create", path)(e)),
        }
        open_dir(&above, name).map_err(at("open", path))
    }

    fn file<R: Skip>(
        &mut self,
        parent: &OwnedFd,
        name: &[u8],
        entry: &Entry,
        tar: &mut TarReader<R>,
        path: &[u8],
    ) -> Result<(), CopyError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = openat(parent.as_fd(), name, flags | OFlags::CLOEXEC, mode);
        let file = File::from(file.map_err(write_failed("create", path))?);
        let whole = [Segment {
            offset: 0,
            length: entry.stored,
        }];
        for segment in entry.sparse.as_deref().unwrap_or(&whole) {
            let (mut offset, mut left) = (segment.offset, segment.length);
            while left > 0 {
                let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
                let read = tar.read_data(&mut self.buffer[..most]);
                let read = read.map_err(CopyError::Tar)?;
                if read == 0 {
                    break;
                }
                file.write_all_at(&self.buffer[..read], offset)
                    .map_err(write_failed("write", path))?;
                offset += read as u64;
                left -= read as u64;
            }
        }
        match entry.sparse {
            Some(_) => file
                .set_len(entry.size)
                .map_err(write_failed("write", path)),
            None => Ok(()),
        }
    }
}
