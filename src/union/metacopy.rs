//! Files in the upper directory whose data are still in a layer: a change of owner, mode, times or
//! attributes, a rename and a link copy no data. The first change of the data completes the copy.
//!
//! On disk it is overlayfs's form (`metacopy=on`): the upper file is as large as the lower one but
//! without data, and marked. The layers are asked for the data under the path that the file would
//! have there, or under that of its redirect, which it gets before it is moved.
//!
//! The copy is completed in place, so that it keeps its inode and all names. The mark goes last: a
//! crash before leaves the metacopy, with a note of what writing disturbs (the modification time,
//! the set-ID bits, the capabilities), from which the next lookup restores it. The root of the upper
//! directory says from the first on that there may be such: kernel overlayfs knows nothing of them, so
//! they are looked for before it is mounted there ([`repair_all`]).

use std::collections::HashSet;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::{Errno, fcntl_dupfd_cloexec};

use super::attr::Kind;
use super::copy_data::copy_data;
use super::copy_up::Content;
use super::error::{Error, Result};
use super::find::upper_identity;
use super::fs::{Stale, Union};
use super::hard_links::Walk;
use super::indexed::indexed_path;
use super::inode_table::Identity;
use super::layers::{LowerData, LowerFile, LowerPath, PrivateXattrs, Redirect, parse_redirect};
use super::node::{Data, Node, Place};
use crate::sys::dirfd;

const CAPABILITY: &[u8] = b"security.capability";

/// What is known of a file without data of its own.
#[derive(Debug)]
pub(crate) struct Metacopy {
    /// Where its data are.
    pub(crate) data: LowerData,
    /// Where the lower layers, without the upper one, show it.
    pub(crate) path: LowerPath,
}

/// The marks on anything but a directory in the upper directory.
#[derive(Debug, Clone, Default)]
pub(super) struct FileMarks {
    /// The number that it had before it was copied up.
    pub(super) origin: Option<u64>,
    /// Its data are below.
    pub(super) metacopy: bool,
    /// Its data were being copied.
    completing: bool,
    /// Where they are below, if not under its own name.
    pub(super) redirect: Option<Redirect>,
}

/// The files whose copies are being completed: what their marks say at the moment is not what a
/// crash has left. A leaf lock, but held while a lookup restores what a crash did leave.
#[derive(Debug, Default)]
pub(super) struct Completing(Mutex<HashSet<Identity>>, AtomicBool);

/// One of them, until this is dropped.
struct Running<'a>(&'a Completing, Identity);

impl<'a> Running<'a> {
    fn new(all: &'a Completing, it: Identity) -> Running<'a> {
        all.0.lock().insert(it);
        Running(all, it)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.0.lock().remove(&self.1);
    }
}

/// What writing into a file disturbs of its metadata.
#[derive(Debug, PartialEq, Eq)]
struct Note {
    mode: u32,
    mtime: (i64, u32),
    capability: Vec<u8>,
}

impl Note {
    const VERSION: u8 = 1;

    fn of(file: impl AsFd) -> Result<Note> {
        let stat = rustix::fs::fstat(&file)?;
        let capability = dirfd::get_xattr_fd(file, CAPABILITY)?;
        Ok(Note {
            mode: stat.st_mode & 0o7777,
            mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
            capability: capability.unwrap_or_default(),
        })
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![Self::VERSION];
        bytes.extend(self.mode.to_le_bytes());
        bytes.extend(self.mtime.0.to_le_bytes());
        bytes.extend(self.mtime.1.to_le_bytes());
        bytes.extend(&self.capability);
        bytes
    }

    /// `None` for what no version of this program has written.
    fn parse(bytes: &[u8]) -> Option<Note> {
        let bytes = bytes.strip_prefix(&[Self::VERSION])?;
        let (mode, bytes) = bytes.split_first_chunk()?;
        let (secs, bytes) = bytes.split_first_chunk()?;
        let (nanos, capability) = bytes.split_first_chunk()?;
        Some(Note {
            mode: u32::from_le_bytes(*mode),
            mtime: (i64::from_le_bytes(*secs), u32::from_le_bytes(*nanos)),
            capability: capability.to_vec(),
        })
    }

    fn restore(&self, file: impl AsFd) -> Result<()> {
        if rustix::fs::fstat(&file)?.st_mode & 0o7777 != self.mode {
            dirfd::chmod_fd(&file, self.mode)?;
        }
        if !self.capability.is_empty() {
            dirfd::set_xattr_fd(&file, CAPABILITY, &self.capability, XattrFlags::empty())?;
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: rustix::fs::UTIME_OMIT as _,
            },
            last_modification: Timespec {
                tv_sec: self.mtime.0,
                tv_nsec: self.mtime.1 as _,
            },
        };
        Ok(dirfd::set_times_fd(file, &times)?)
    }
}

impl Union {
    /// A descriptor (`O_PATH`) of the data of a layer's file.
    pub(super) fn lower_data_fd(&self, file: &LowerFile) -> Result<Arc<OwnedFd>> {
        match file.data() {
            Some(data) => self.lower_file_fd(&data.file),
            None => self.lower_file_fd(file),
        }
    }

    /// A descriptor (`O_PATH`) of the data of a file that has none of its own.
    pub(super) fn data_below(&self, metacopy: &Metacopy) -> Result<Arc<OwnedFd>> {
        self.lower_file_fd(&metacopy.data.file)
            .map_err(|e| match e {
                // The name is there: it must not read as if it were not.
                Error::Sys(Errno::NOENT | Errno::NOTDIR) => no_data(&metacopy.path),
                other => other,
            })
    }

    /// The marks of anything but a directory in an open directory.
    pub(super) fn file_marks(&self, dir: &OwnedFd, name: &[u8]) -> Result<FileMarks> {
        let path = dirfd::proc_path_of(dir, name);
        let mut marks = FileMarks::default();
        // One question, and one more for each there is: mostly there is none.
        for key in dirfd::list_xattrs(&path)? {
            if key == self.xattrs.origin {
                let value = dirfd::get_xattr(&path, self.xattrs.origin)?;
                marks.origin = value
                    .and_then(|text| String::from_utf8(text).ok())
                    .and_then(|text| text.parse().ok());
            } else if key == self.xattrs.redirect {
                let value = dirfd::get_xattr(&path, self.xattrs.redirect)?;
                marks.redirect = value.map(|value| parse_redirect(&value)).transpose()?;
            }
            marks.metacopy |= key == self.xattrs.metacopy;
            marks.completing |= key == self.xattrs.completing;
        }
        Ok(marks)
    }

    /// Repairs what a crash has left of a metacopy. Gives what is there now.
    pub(super) fn repair(
        &self,
        dir: &OwnedFd,
        name: &[u8],
        stat: Stat,
        marks: FileMarks,
    ) -> Result<(Stat, FileMarks)> {
        if !marks.metacopy || !(marks.completing || stat.st_size == 0) {
            return Ok((stat, marks));
        }
        let all = self.completing.0.lock();
        if all.contains(&upper_identity(&stat)) {
            return Ok((stat, marks));
        }
        let file = dirfd::open_path(dir, name)?;
        repair_file(&file, &self.xattrs)?;
        Ok((rustix::fs::fstat(&file)?, self.file_marks(dir, name)?))
    }

    /// Where the lower layers show a node that has not been copied up; none if it has no name.
    pub(super) fn lower_path_of(&self, node: &Node) -> Result<LowerPath> {
        if let Place::Lower(LowerFile::Indexed { at, .. }) = node.place() {
            return indexed_path(self.index()?, at);
        }
        let shown = self.first_name(node);
        let path = shown.and_then(|(parent, name)| Some(parent.dir()?.lower_path.join(&name)));
        Ok(path.unwrap_or_default())
    }

    /// Marks a new, empty file as one whose data are in the layers; with the redirect if the path
    /// to them is not that of the file. `false` if the marks do not fit into the file system.
    pub(super) fn mark_metacopy(
        &self,
        file: impl AsFd,
        redirect: Option<&LowerPath>,
    ) -> Result<bool> {
        let flags = XattrFlags::empty();
        let marked = dirfd::set_xattr_fd(&file, self.xattrs.metacopy, b"", flags)
            .map_err(Error::from)
            .and_then(|()| match redirect {
                Some(path) => self.set_redirect(&file, path),
                None => Ok(()),
            });
        match marked {
            Ok(()) => Ok(true),
            Err(Error::NoRedirect) | Err(Error::Sys(Errno::NOSPC | Errno::OPNOTSUPP)) => {
                drop_mark(file, self.xattrs.metacopy)?;
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Says where in the layers a file or directory is found.
    pub(super) fn set_redirect(&self, fd: impl AsFd, path: &LowerPath) -> Result<()> {
        if self.options.no_redirects {
            return Err(Error::NoRedirect);
        }
        let value = path.to_redirect();
        match dirfd::set_xattr_fd(fd, self.xattrs.redirect, &value, XattrFlags::empty()) {
            // Longer than the file system stores.
            Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::OPNOTSUPP) => {
                Err(Error::NoRedirect)
            }
            other => Ok(other?),
        }
    }

    /// As [`copy_up`](Self::copy_up) of the metadata, of what is to get another name: its data are
    /// found after that, too.
    pub(super) fn copy_up_to_move(&self, node: &Arc<Node>) -> Result<()> {
        self.copy_up(node, Content::Metadata)?;
        if node.metacopy().is_none() {
            return Ok(());
        }
        let _once = node.copy_up.lock();
        let redirected = {
            let _tree = self.tree.read();
            let Some(metacopy) = node.metacopy() else {
                return Ok(());
            };
            let fd = self.path_fd(node)?;
            let redirect = dirfd::get_xattr_fd(&*fd, self.xattrs.redirect)?;
            if redirect.is_some_and(|value| value == metacopy.path.to_redirect()) {
                return Ok(());
            }
            self.set_redirect(&*fd, &metacopy.path)
        };
        match redirected {
            Err(Error::NoRedirect) => self.complete(node, Content::All),
            other => other,
        }
    }

    /// Gives a file whose metadata have been copied up its data. Needs the node's `copy_up`, and
    /// takes the tree lock itself.
    pub(super) fn complete(&self, node: &Arc<Node>, content: Content) -> Result<()> {
        let (metacopy, location) = {
            let _tree = self.tree.read();
            match node.metacopy().filter(|_| content != Content::Metadata) {
                Some(metacopy) => (metacopy, self.path_fd(node)?),
                None => return Ok(()),
            }
        };
        let file = dirfd::reopen(&*location, OFlags::RDWR)?;
        let stat = rustix::fs::fstat(&file)?;
        self.mark_completing();
        let _running = Running::new(&self.completing, upper_identity(&stat));
        match content {
            Content::Metadata => return Ok(()),
            Content::None => rustix::fs::ftruncate(&file, 0)?,
            Content::All => self.fill(&file, &stat, &metacopy)?,
        }
        drop_mark(&file, self.xattrs.metacopy)?;
        if let Err(e) = drop_mark(&file, self.xattrs.completing) {
            // Without the other mark it means nothing.
            tracing::debug!("a note stays on inode {}: {e}", stat.st_ino);
        }
        let file = Arc::new(file);
        {
            let mut files = node.files.lock();
            self.data_is_now(node, &mut files, file.clone());
            match &mut node.state.lock().place {
                Place::Upper(data) | Place::Held(_, data) => *data = Data::Own,
                Place::Lower(_) | Place::Dir(_) => {}
            }
        }
        self.stale(Stale::Attributes(node.ino));
        if !self.options.volatile {
            // The crash that this is for: the mark comes back, and hides what is written and
            // synced (by `fdatasync`, which does not wait for marks) from now on.
            rustix::fs::fsync(&*file)?;
        }
        Ok(())
    }

    /// Leaves the mark that copies are being completed, once. Where there is no space for it the copy is
    /// made all the same: what it is for is a crash, and another driver after that.
    fn mark_completing(&self) {
        if self.completing.1.swap(true, Ordering::Relaxed) {
            return;
        }
        let flags = XattrFlags::empty();
        let marked = self.writable().and_then(|upper| {
            let key = self.xattrs.completing;
            Ok(dirfd::set_xattr_fd(&*upper.root, key, b"y", flags)?)
        });
        if let Err(e) = marked {
            tracing::debug!("no mark on the upper directory: {e}");
        }
    }

    /// Copies the data, or leaves the file as it was.
    fn fill(&self, file: &OwnedFd, stat: &Stat, metacopy: &Metacopy) -> Result<()> {
        let note = Note::of(file)?;
        let flags = XattrFlags::empty();
        if let Err(e) = dirfd::set_xattr_fd(file, self.xattrs.completing, &note.to_bytes(), flags) {
            // No space for it, perhaps: what it is for is a crash in the next moment.
            tracing::debug!("no note on inode {}: {e}", stat.st_ino);
        }
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let filled = self.data_below(metacopy).and_then(|source| {
            let source = dirfd::reopen_noatime(&*source, OFlags::RDONLY)?;
            if rustix::fs::fstat(&source)?.st_size != stat.st_size {
                let path = String::from_utf8_lossy(&metacopy.path.to_redirect()).into_owned();
                tracing::error!("{path} of the layers is not the file that was copied up");
                return Err(Errno::IO.into());
            }
            copy_data(source, file, size, !self.options.volatile)?;
            note.restore(file)?;
            if !self.options.volatile {
                // Before the mark that the data are elsewhere goes.
                rustix::fs::fdatasync(file)?;
            }
            Ok(())
        });
        if filled.is_err() {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let undone = rustix::fs::fallocate(file, punch, 0, size)
                .map_err(Error::from)
                .and_then(|()| note.restore(file))
                .and_then(|()| drop_mark(file, self.xattrs.completing));
            if let Err(e) = undone {
                // It is marked still: nobody reads what is in it.
                tracing::warn!("half a copy stays in inode {}: {e}", stat.st_ino);
            }
        }
        filled
    }
}

fn drop_mark(file: impl AsFd, mark: &[u8]) -> Result<()> {
    match dirfd::remove_xattr_fd(file, mark) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Repairs what a crash has left of a file, if it is a metacopy still.
fn repair_file(file: &OwnedFd, xattrs: &PrivateXattrs) -> Result<()> {
    if dirfd::get_xattr_fd(file, xattrs.metacopy)?.is_none() {
        return Ok(());
    }
    if let Some(note) = dirfd::get_xattr_fd(file, xattrs.completing)? {
        if let Some(note) = Note::parse(&note) {
            note.restore(file)?;
        }
        drop_mark(file, xattrs.completing)?;
    }
    if rustix::fs::fstat(file)?.st_size == 0 {
        // Truncated, but for the mark.
        drop_mark(file, xattrs.metacopy)?;
    }
    Ok(())
}

/// Repairs what crashes have left in an upper directory that nobody uses. Costs a walk if a copy has ever
/// been completed in it since the last time.
pub(super) fn repair_all(upper: &OwnedFd, xattrs: &PrivateXattrs) -> Result<()> {
    if dirfd::get_xattr_fd(upper, xattrs.completing)?.is_none() {
        return Ok(());
    }
    let mut walk = Walk::new(Arc::new(fcntl_dupfd_cloexec(upper, 3)?), (), true);
    while let Some((dir, ())) = walk.next()? {
        for (name, stat) in walk.enter(&dir, |_| ())? {
            if Kind::from_mode(stat.st_mode) == Kind::File {
                repair_file(&dirfd::open_path(&*dir, &name)?, xattrs)?;
            }
        }
    }
    drop_mark(upper, xattrs.completing)
}

/// What overlayfs says to it, too.
pub(super) fn no_data(path: &LowerPath) -> Error {
    let path = String::from_utf8_lossy(&path.to_redirect()).into_owned();
    tracing::error!("no layer has the data of {path}, whose metadata alone have been copied up");
    Error::Sys(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes() {
        for capability in [&b""[..], b"\x01\x00\x00\x02"] {
            let note = Note {
                mode: 0o4755,
                mtime: (-5, 999_999_999),
                capability: capability.to_vec(),
            };
            let bytes = note.to_bytes();
            assert_eq!(Note::parse(&bytes), Some(note));
            assert_eq!(Note::parse(&bytes[..16]), None);
            assert_eq!(Note::parse(&[&[2], &bytes[1..]].concat()), None);
        }
        assert_eq!(Note::parse(b""), None);
    }
}
