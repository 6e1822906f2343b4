//! A second reading of a layer's tar, for its tar-split alone.
//!
//! Where a tar has an entry twice, the contents of the first are not in the tree. Which of them are
//! shows only at the end: so everything is compared then, and what the tree has not is kept.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::OFlags;

use super::name::{self, Place};
use super::place::segments;
use super::record::Recorded;
use super::{UnpackError, reading};
use crate::model::DiffId;
use crate::model::tar::{Entry, Kind, TarError, TarReader};
use crate::model::tar_split::TarSplitWriter;
use crate::sys::in_root::open_in_root;

const BUFFER: usize = 64 << 10;

/// Reads a layer's tar again that was unpacked into `tree`, and notes all of it that is not there.
///
/// Gives the digest of what was read: if it is not that of the first time, the notes are of another
/// tar.
pub fn split_again<W: Write>(
    reader: impl Read + Send,
    tree: BorrowedFd<'_>,
    split: &mut TarSplitWriter<W>,
    cancel: &(dyn Fn() -> bool + Sync),
) -> Result<DiffId, UnpackError> {
    let (diff_id, ()) = reading(reader, split, cancel, |tar| {
        let mut buffers = (vec![0; BUFFER], vec![0; BUFFER]);
        while let Some(entry) = tar.next_entry()? {
            if let Some((path, file)) = found(tree, &entry) {
                compare(tar, &entry, &path, &file, &mut buffers)?;
            }
        }
        Ok(())
    })?;
    Ok(diff_id)
}

/// The file in the tree that may have an entry's contents.
fn found(tree: BorrowedFd<'_>, entry: &Entry) -> Option<(Vec<u8>, File)> {
    if entry.kind != Kind::File || entry.stored == 0 {
        return None;
    }
    let Ok(Place::Entry { parent, name }) = name::place(&entry.path) else {
        return None;
    };
    let path = name::joined(&parent, &name);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(open_in_root(tree.as_fd(), &path, flags).ok()?);
    file.metadata().ok()?.is_file().then_some((path, file))
}

fn compare<W: Write>(
    tar: &mut TarReader<Recorded<'_, W>>,
    entry: &Entry,
    path: &[u8],
    file: &File,
    (stored, there): &mut (Vec<u8>, Vec<u8>),
) -> Result<(), TarError> {
    tar.inner_mut().begin_contents();
    for segment in segments(entry).iter() {
        let (mut offset, mut left) = (segment.offset, segment.length);
        while left > 0 {
            let most = usize::try_from(left).map_or(BUFFER, |l| l.min(BUFFER));
            let n = tar.read_data(&mut stored[..most])?;
            if n == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            let is_there = file.read_exact_at(&mut there[..n], offset).is_ok();
            match is_there && stored[..n] == there[..n] {
                true => tar.inner_mut().contents(path, offset, n as u64)?,
                false => tar.inner_mut().bytes(&stored[..n])?,
            }
            offset += n as u64;
            left -= n as u64;
        }
    }
    tar.inner_mut().end_contents();
    Ok(())
}
