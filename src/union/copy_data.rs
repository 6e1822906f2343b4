//! Copying a file whole: its data with its holes, and all of its metadata.
//!
//! It knows descriptors and nothing of layers. Every failure is an error: a copy that has quietly
//! lost an attribute is worse than none.

use std::os::fd::AsFd;

use rustix::fs::{SeekFrom, Stat, Timespec, Timestamps, XattrFlags, ftruncate, seek};
use rustix::io::Errno;

use super::error::Result;
use super::layers::SELINUX;
use crate::model::xattr::is_private;
use crate::sys::dirfd;
use crate::sys::writeback::begin_writeback;

/// How much is copied before the disk is asked to begin writing it, in bytes.
const PIECE: usize = 32 << 20;

/// Copies `size` bytes, sharing them with the source where the file system can, and leaving holes
/// where the source has them. What is to be synced after that is written while it is copied.
pub(super) fn copy_data(
    source: impl AsFd,
    target: impl AsFd,
    size: u64,
    to_sync: bool,
) -> Result<()> {
    if size == 0 || rustix::fs::ioctl_ficlone(&target, &source).is_ok() {
        return Ok(());
    }
    let mut at = 0;
    while at < size {
        let (start, end) = match next_data(&source, at, size)? {
            Some(range) => range,
            None => break,
        };
        copy_range(&source, &target, start, end, to_sync)?;
        at = end;
    }
    // A hole at the end.
    Ok(ftruncate(target, size)?)
}

/// The next range with data at or after `from`.
fn next_data(source: impl AsFd, from: u64, size: u64) -> Result<Option<(u64, u64)>> {
    let start = match seek(&source, SeekFrom::Data(from)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that knows no holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((from, size))),
        Err(e) => return Err(e.into()),
    };
    let end = seek(source, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

fn copy_range(
    source: impl AsFd,
    target: impl AsFd,
    start: u64,
    end: u64,
    to_sync: bool,
) -> Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let len = usize::try_from(end - from).unwrap_or(usize::MAX).min(PIECE);
        match rustix::fs::copy_file_range(&source, Some(&mut from), &target, Some(&mut to), len) {
            Ok(n) if n > 0 => {
                if to_sync && n == PIECE {
                    begin_writeback(&target, to - n as u64, n as u64);
                }
            }
            // None: some file systems cannot, and do not say so.
            Ok(_)
            | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS | Errno::PERM) => {
                return copy_by_hand(source, target, from, end);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

fn copy_by_hand(source: impl AsFd, target: impl AsFd, start: u64, end: u64) -> Result<()> {
    let mut buffer = vec![0_u8; 1 << 20];
    let mut at = start;
    while at < end {
        let len = usize::try_from(end - at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let got = match rustix::io::pread(&source, &mut buffer[..len], at) {
            // Shorter than its stat said: changed from outside. Zeros in its place would be a lie.
            Ok(0) => return Err(Errno::IO.into()),
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(e.into()),
        };
        write_all(&target, &buffer[..got], at)?;
        at += got as u64;
    }
    Ok(())
}

/// Writes all of `data` at an offset.
pub(super) fn write_all(target: impl AsFd, mut data: &[u8], mut at: u64) -> Result<()> {
    while !data.is_empty() {
        match rustix::io::pwrite(&target, data, at) {
            Ok(0) => return Err(Errno::IO.into()),
            Ok(n) => {
                data = &data[n..];
                at += n as u64;
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Copies the extended attributes but those of the union itself. Both may be `O_PATH`.
pub(super) fn copy_xattrs(source: impl AsFd, target: impl AsFd) -> Result<()> {
    for name in dirfd::list_xattrs_fd(&source)? {
        if is_private(&name) || *name == *SELINUX {
            continue;
        }
        // Gone between the two calls: nobody changes layers, but plain directories may be shared.
        if let Some(value) = dirfd::get_xattr_fd(&source, &name)? {
            dirfd::set_xattr_fd(&target, &name, &value, XattrFlags::empty())?;
        }
    }
    Ok(())
}

/// The access and modification times of a `stat`.
pub(super) fn times_of(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: stat.st_atime,
            tv_nsec: stat.st_atime_nsec as _,
        },
        last_modification: Timespec {
            tv_sec: stat.st_mtime,
            tv_nsec: stat.st_mtime_nsec as _,
        },
    }
}
