//! Writing a tree of files as a tar, as it lies on the disk: `export`, the layer of a `commit`, `cp`.
//!
//! ustar with PAX records for what does not fit into a header: long names, nanoseconds, extended
//! attributes (`SCHILY.xattr.`). Names are bytes. A file that has come under another name is a hard
//! link. Holes are written in full. Attributes that union filesystems keep for themselves are left out,
//! and `security.selinux`, which is the host's; sockets have no place in a tar.
//!
//! The tree may be hostile, and may change meanwhile: each name is opened by its directory's
//! descriptor, without following it; what vanishes is left out, a file that shrinks is filled with
//! zeros to the length that its header has. It does not cross into other mounts.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags, Stat, fstat, major, minor, readlinkat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use super::write::{fit, header, record};
use crate::model::tar::shown;
use crate::model::xattr::is_private;
use crate::sys::dirfd::{get_xattr_fd, list_xattrs_fd, open_path, read_dir, reopen_noatime};
use crate::sys::reason;

/// Why a tree cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum TreeTarError {
    /// Something of it cannot be read.
    #[error("cannot read {}: {}", shown(path), reason(source))]
    Read {
        /// Its path in the tar.
        path: Vec<u8>,
        /// The system's answer.
        source: io::Error,
    },
    /// A layer would have another meaning for its name.
    #[error("{}: a layer takes a name that begins with .wh. for a whiteout", shown(.0))]
    Name(Vec<u8>),
    /// The tar cannot be written.
    #[error("{}", reason(.0))]
    Write(io::Error),
}

/// The longest path that a header's reader takes. It bounds how deep a walk goes, too.
const MAX_PATH: usize = 4095;

/// Seconds that a header's field has room for.
const MAX_SECONDS: i64 = 0o77_777_777_777;

/// A tar that is being written.
pub struct TreeTar<W: Write> {
    tar: Builder<W>,
    /// Files with several links that are in it: device and inode number, and the name.
    linked: HashMap<(u64, u64), Vec<u8>>,
}

impl<W: Write> TreeTar<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> TreeTar<W> {
        TreeTar {
            tar: Builder::new(out),
            linked: HashMap::new(),
        }
    }

    /// Everything in a directory; `prefix` is its own path in the tar, empty for the root.
    ///
    /// # Errors
    /// What cannot be read or written, and a path of more than 4,095 bytes.
    pub fn tree(&mut self, directory: impl AsFd, prefix: &[u8]) -> Result<(), TreeTarError> {
        let directory = directory.as_fd();
        let device = fstat(directory).map_err(read(prefix))?.st_dev;
        self.below(directory, &mut prefix.to_vec(), device)
    }

    fn below(
        &mut self,
        directory: BorrowedFd<'_>,
        path: &mut Vec<u8>,
        device: u64,
    ) -> Result<(), TreeTarError> {
        let mut entries = read_dir(directory).map_err(read(path))?;
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(&entry.name);
            match open_path(directory, &entry.name) {
                Ok(fd) => {
                    let stat = self.entry(&fd, path)?;
                    if is_dir(&stat) && stat.st_dev == device {
                        self.below(fd.as_fd(), path, device)?;
                    }
                }
                Err(Errno::NOENT) => {}
                Err(e) => return Err(read(path)(e)),
            }
            path.truncate(length);
        }
        Ok(())
    }

    /// One inode, open as a location, without what is in it. `path` is relative, without a slash at its
    /// end. Nothing is written for a socket.
    pub fn entry(&mut self, fd: impl AsFd, path: &[u8]) -> Result<Stat, TreeTarError> {
        let fd = fd.as_fd();
        if path.len() > MAX_PATH {
            return Err(read(path)(Errno::NAMETOOLONG));
        }
        let stat = fstat(fd).map_err(read(path))?;
        let file_type = FileType::from_raw_mode(stat.st_mode);
        let kind = match file_type {
            FileType::RegularFile => EntryType::Regular,
            FileType::Directory => EntryType::Directory,
            FileType::Symlink => EntryType::Symlink,
            FileType::Fifo => EntryType::Fifo,
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Socket | FileType::Unknown => return Ok(stat),
        };
        if stat.st_nlink > 1 && !is_dir(&stat) {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.linked.get(&inode).cloned() {
                let empty = header(EntryType::Link, 0);
                self.put(empty, path, &first, &stat, Vec::new(), io::empty())?;
                return Ok(stat);
            }
            self.linked.insert(inode, path.to_vec());
        }
        let target = match kind {
            EntryType::Symlink => readlinkat(fd, "", Vec::new())
                .map_err(read(path))?
                .into_bytes(),
            _ => Vec::new(),
        };
        let mut records = Vec::new();
        xattrs(fd, &mut records).map_err(read(path))?;
        if kind != EntryType::Regular {
            self.put(header(kind, 0), path, &target, &stat, records, io::empty())?;
            return Ok(stat);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let file = reopen_noatime(fd, OFlags::RDONLY).map_err(read(path))?;
        let mut contents = Contents {
            file: File::from(file),
            left: size,
            failed: None,
        };
        let header = header(kind, size);
        match self.put(header, path, &target, &stat, records, &mut contents) {
            Err(_) if let Some(source) = contents.failed => {
                let path = path.to_vec();
                Err(TreeTarError::Read { path, source })
            }
            other => other.map(|()| stat),
        }
    }

    /// A whiteout: hides a name of the layers below.
    pub fn whiteout(&mut self, path: &[u8]) -> Result<(), TreeTarError> {
        let name = path.iter().rposition(|b| *b == b'/').map_or(0, |at| at + 1);
        let hidden = [&path[..name], b".wh.", &path[name..]].concat();
        let mut header = header(EntryType::Regular, 0);
        header.set_mode(0);
        self.append(header, &hidden, b"", Vec::new(), io::empty())
    }

    /// Ends the tar.
    pub fn finish(self) -> Result<W, TreeTarError> {
        self.tar.into_inner().map_err(TreeTarError::Write)
    }

    fn put(
        &mut self,
        mut header: Header,
        path: &[u8],
        target: &[u8],
        stat: &Stat,
        mut records: Vec<u8>,
        data: impl Read,
    ) -> Result<(), TreeTarError> {
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        let (seconds, nanos) = (stat.st_mtime, stat.st_mtime_nsec);
        if nanos > 0 || !(0..=MAX_SECONDS).contains(&seconds) {
            record(&mut records, "mtime", time(seconds, nanos).as_bytes());
        }
        header.set_mtime(seconds.clamp(0, MAX_SECONDS).unsigned_abs());
        if matches!(header.entry_type(), EntryType::Char | EntryType::Block) {
            let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
            header
                .set_device_major(major)
                .map_err(TreeTarError::Write)?;
            header
                .set_device_minor(minor)
                .map_err(TreeTarError::Write)?;
        }
        let directory = [path, b"/"].concat();
        let path = match header.entry_type() {
            EntryType::Directory => &directory,
            _ => path,
        };
        self.append(header, path, target, records, data)
    }

    /// A header with its names, after the PAX records for what does not fit into it.
    fn append(
        &mut self,
        mut header: Header,
        path: &[u8],
        target: &[u8],
        mut records: Vec<u8>,
        data: impl Read,
    ) -> Result<(), TreeTarError> {
        let fields = header.as_old_mut();
        fit(&mut fields.name, path, "path", &mut records);
        fit(&mut fields.linkname, target, "linkpath", &mut records);
        header.set_cksum();
        let written = if records.is_empty() {
            Ok(())
        } else {
            let mut extension = self::header(EntryType::XHeader, records.len() as u64);
            extension.set_cksum();
            self.tar.append(&extension, records.as_slice())
        };
        let written = written.and_then(|()| self.tar.append(&header, data));
        written.map_err(TreeTarError::Write)
    }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

fn read<E: Into<io::Error>>(path: &[u8]) -> impl FnOnce(E) -> TreeTarError {
    let path = match path {
        b"" => b"/".to_vec(),
        path => path.to_vec(),
    };
    move |source| TreeTarError::Read {
        path,
        source: source.into(),
    }
}

/// A point in time as a PAX record has it: a decimal number of seconds since 1970.
fn time(seconds: i64, nanos: u64) -> String {
    match (seconds, nanos) {
        (seconds, 0) => seconds.to_string(),
        (0.., nanos) => format!("{seconds}.{nanos:09}"),
        // `seconds` is rounded down: -2 and 0.75 are -1.25.
        (seconds, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
    }
}

fn xattrs(fd: BorrowedFd<'_>, records: &mut Vec<u8>) -> rustix::io::Result<()> {
    let mut names = list_xattrs_fd(fd)?;
    names.sort();
    for name in names {
        if is_private(&name) || name == b"security.selinux" {
            continue;
        }
        // The first `=` ends the key of a record.
        if name.contains(&b'=') {
            tracing::warn!(
                "the extended attribute {} is left out: a tar has no place for its name",
                shown(&name)
            );
            continue;
        }
        if let Some(value) = get_xattr_fd(fd, &name)? {
            record(
                records,
                [b"SCHILY.xattr.", name.as_slice()].concat(),
                &value,
            );
        }
    }
    Ok(())
}

/// A file's contents, exactly as long as its header says.
struct Contents {
    file: File,
    left: u64,
    /// Tells what cannot be read from what cannot be written.
    failed: Option<io::Error>,
}

impl Read for Contents {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let buffer = &mut buffer[..most];
        let n = match self.file.read(buffer) {
            Ok(0) => {
                buffer.fill(0);
                most
            }
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            Err(e) => {
                self.failed = Some(e);
                return Err(io::ErrorKind::Other.into());
            }
        };
        self.left -= n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (5, 0, "5"),
            (5, 1, "5.000000001"),
            (-1, 0, "-1"),
            (-2, 750_000_000, "-1.250000000"),
            (-1, 999_999_999, "-0.000000001"),
        ] {
            assert_eq!(time(seconds, nanos), text);
        }
    }
}
