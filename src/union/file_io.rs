//! Open files: reading, writing and all that goes by a handle.
//!
//! The handles of a node share its descriptors, so they all see one file: after a copy-up the next
//! read of every handle, even one that was opened read-only before it, goes to the copy. Of files
//! that are used without a handle, some descriptors are kept; the least recently used go first.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::buffer::spare_capacity;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::attr::{Caller, Kind};
use super::copy_up::Content;
use super::error::{Error, Result};
use super::fs::{Stale, Union};
use super::handles::FileRef;
use super::indexed::Known;
use super::layers::LowerFile;
use super::node::{Data, Node, NodeRef, OpenFiles, Place};
use crate::sys::dirfd;

/// What is special about a write.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteHow {
    /// It comes from a mapped page, and the kernel has not noted the change of the modification
    /// time.
    pub delayed: bool,
    /// The writer may not leave the set-ID bits in place.
    pub drops_set_id: bool,
    /// It is to reach the disk before it is answered (`O_SYNC`, `O_DSYNC`).
    pub sync: bool,
}

impl Union {
    /// Opens a regular file; for writing, it is copied up. Gives the handle, to be given back with
    /// `release`.
    pub fn open(&self, ino: u64, flags: OFlags, caller: Caller) -> Result<u64> {
        let node = self.node(ino)?;
        match node.kind {
            Kind::File => {}
            Kind::Directory => return Err(Error::IsADirectory),
            // The kernel serves the others itself.
            _ => return Err(Error::Sys(Errno::NXIO)),
        }
        let writes = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        let truncates = flags.contains(OFlags::TRUNC);
        // Counted first: a copy-up leaves its descriptor to those who have the file open, so that
        // nothing can fail any more once a copy without data has its name.
        node.files.lock().opens += 1;
        match self.open_counted(&node, writes, truncates.then_some(caller)) {
            Ok(()) => Ok(self.handles.add(node)),
            Err(e) => {
                node.close();
                Err(e)
            }
        }
    }

    /// Makes a file that is counted as open ready for that; `truncates` says for whom to nothing.
    fn open_counted(
        &self,
        node: &Arc<Node>,
        writes: bool,
        truncates: Option<Caller>,
    ) -> Result<()> {
        if truncates.is_some() {
            self.copy_up(node, Content::None)?;
        } else if writes {
            self.copy_up(node, Content::All)?;
        }
        let _tree = self.tree.read();
        let write = writes || truncates.is_some();
        let file = self.data_fd(node, write)?;
        match truncates {
            Some(caller) => self.truncate_at_open(&file, caller),
            None => Ok(()),
        }
    }

    /// The file on disk, if it is the one that all reads and writes of an open file go to for as long
    /// as its node is known: nothing stands against using it directly.
    pub fn direct(&self, handle: u64) -> Result<Option<Arc<OwnedFd>>> {
        let node = self.handles.get(handle)?;
        let _tree = self.tree.read();
        match node.is_upper() && node.metacopy().is_none() {
            true => Ok(Some(self.data_fd(&node, false)?)),
            false => Ok(None),
        }
    }

    /// A handle for a file that has just been made and is open already.
    pub(super) fn adopt_new_file(&self, node: NodeRef, file: Arc<OwnedFd>) -> u64 {
        {
            let mut files = node.files.lock();
            files.opens += 1;
            files.write.get_or_insert(file);
        }
        self.handles.add(node)
    }

    /// The node of a file is changed by ways that this union does not see, such as a mapping of the
    /// file that was opened directly. Its attributes are `fleeting` from now on.
    pub fn changes_unseen(&self, ino: u64) {
        if let Ok(node) = self.node(ino)
            && !node.fleeting.swap(true, Ordering::Relaxed)
        {
            self.stale(Stale::Attributes(ino));
        }
    }

    /// The node of an open file.
    fn opened(&self, file: FileRef) -> Result<Arc<NodeRef>> {
        match file {
            FileRef::Handle(handle) => self.handles.get(handle),
            FileRef::Node(ino) => {
                let node = self.node(ino)?;
                match node.kind {
                    Kind::File => Ok(Arc::new(node)),
                    _ => Err(Error::BadHandle),
                }
            }
        }
    }

    /// The descriptor that is kept of a file of the index, which needs no node to be read.
    fn kept_of_index(&self, file: FileRef) -> Result<Option<Arc<OwnedFd>>> {
        match file {
            FileRef::Handle(_) => Ok(None),
            FileRef::Node(ino) => Ok(match self.known(ino)? {
                Known::Indexed(_, at) => self.nodes.files.get(indexed_key(at)),
                Known::Node(_) => None,
            }),
        }
    }

    /// A descriptor of a node's data. Needs the tree lock.
    pub(super) fn data_fd(&self, node: &Arc<Node>, write: bool) -> Result<Arc<OwnedFd>> {
        let mut files = node.files.lock();
        if let Some(file) = &files.write {
            return Ok(file.clone());
        }
        if let (false, Some(file)) = (write, &files.read) {
            return Ok(file.clone());
        }
        let key = key_of(node, write);
        let for_writing = self.nodes.files.get(node.file_key(true));
        let kept = for_writing.or_else(|| match write {
            true => None,
            false => self.nodes.files.get(key),
        });
        if let Some(file) = kept {
            return Ok(file);
        }
        let flags = if write { OFlags::RDWR } else { OFlags::RDONLY };
        let file = Arc::new(self.open_data(node, flags)?);
        if files.opens == 0 {
            self.nodes.files.put(key, file.clone());
        } else if write {
            files.write = Some(file.clone());
            files.read = None;
        } else {
            files.read = Some(file.clone());
        }
        Ok(file)
    }

    /// The descriptor by which a file's own data, and so the file itself, is written, if there is one.
    pub(super) fn written_file(&self, node: &Node) -> Option<Arc<OwnedFd>> {
        let files = node.files.lock();
        let open = files.write.clone();
        open.or_else(|| self.nodes.files.get(node.file_key(true)))
    }

    /// Opens a file's data by its name, if it has one: one call fewer than by its location.
    fn open_data(&self, node: &Arc<Node>, flags: OFlags) -> Result<OwnedFd> {
        match node.place() {
            Place::Lower(file) => self.open_lower(file.data().map_or(&file, |it| &it.file)),
            Place::Upper(Data::Own) => {
                let (parent, name) = self.first_name(node).ok_or(Error::Stale)?;
                Ok(dirfd::open(&*self.upper_fd(&parent)?, &name, flags)?)
            }
            Place::Upper(Data::Lower(it)) | Place::Held(_, Data::Lower(it)) => {
                Ok(dirfd::reopen_noatime(&*self.data_below(&it)?, flags)?)
            }
            Place::Held(_, Data::Own) | Place::Dir(_) => {
                Ok(dirfd::reopen(&*self.path_fd(node)?, flags)?)
            }
        }
    }

    /// Opens a layer's file for reading. The access times of layers are left alone.
    fn open_lower(&self, file: &LowerFile) -> Result<OwnedFd> {
        let flags = OFlags::RDONLY;
        match file {
            LowerFile::Plain(file) => {
                let dir = self.plain_fd(&file.dir)?;
                Ok(dirfd::open_noatime(&*dir, &file.name, flags)?)
            }
            LowerFile::Indexed { at, .. } => {
                let (dir, name) = self.indexed_file(*at)?;
                Ok(dirfd::open_noatime(&*dir, name, flags)?)
            }
        }
    }

    /// A node's data have been copied up: later reads of its open handles go to the copy. Needs the
    /// node's `files`.
    pub(super) fn data_is_now(&self, node: &Node, files: &mut OpenFiles, file: Arc<OwnedFd>) {
        self.nodes.give_up_files(node);
        if files.opens > 0 {
            files.read = None;
            files.write = Some(file);
        } else {
            self.nodes.files.put(key_of(node, true), file);
        }
    }

    /// The descriptor that is read from now.
    fn readable(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        {
            let files = node.files.lock();
            if let Some(file) = files.write.as_ref().or(files.read.as_ref()) {
                return Ok(file.clone());
            }
        }
        let _tree = self.tree.read();
        self.data_fd(node, false)
    }

    /// The descriptor that is written to.
    fn writable_file(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        if let Some(file) = &node.files.lock().write {
            return Ok(file.clone());
        }
        self.copy_up(node, Content::All)?;
        let _tree = self.tree.read();
        self.data_fd(node, true)
    }

    /// Reads up to `size` bytes; fewer only at the end of the file.
    pub fn read(&self, file: impl Into<FileRef>, offset: u64, size: usize) -> Result<Vec<u8>> {
        let file = file.into();
        let file = match self.kept_of_index(file)? {
            Some(kept) => kept,
            None => self.readable(self.opened(file)?.node())?,
        };
        // Not zeroed first: this is the way of every byte that is read.
        let mut buffer = Vec::with_capacity(size);
        while buffer.len() < size {
            let at = offset + buffer.len() as u64;
            match rustix::io::pread(&*file, spare_capacity(&mut buffer), at) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(buffer)
    }

    /// Writes `data`, and gives how many bytes of it: fewer where the disk got full on the way, as
    /// `write(2)`.
    pub fn write(
        &self,
        file: impl Into<FileRef>,
        offset: u64,
        data: &[u8],
        how: WriteHow,
    ) -> Result<usize> {
        let node = self.opened(file.into())?;
        let file = self.writable_file(&node)?;
        let mut done = 0;
        while done < data.len() {
            match rustix::io::pwrite(&*file, &data[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => {}
                Err(_) if done > 0 => break,
                Err(e) => return Err(e.into()),
            }
        }
        if how.drops_set_id {
            self.drop_set_id(&file)?;
        }
        if how.sync && !self.options.no_fsync {
            rustix::fs::fsync(&*file)?;
        }
        if how.delayed {
            self.stale(Stale::Attributes(node.ino));
        }
        Ok(done)
    }

    /// Closes a handle.
    pub fn release(&self, handle: u64) -> Result<()> {
        self.handles.remove(handle)?.close();
        Ok(())
    }

    /// Waits until a file's data, and its metadata unless `data_only`, is on disk.
    pub fn fsync(&self, file: impl Into<FileRef>, data_only: bool) -> Result<()> {
        if self.options.no_fsync {
            return Ok(());
        }
        let node = self.opened(file.into())?;
        let file = match node.metacopy() {
            // Its data cannot be lost, but its metadata.
            Some(_) => {
                let _tree = self.tree.read();
                Arc::new(dirfd::reopen(&*self.path_fd(&node)?, OFlags::RDONLY)?)
            }
            None => self.readable(&node)?,
        };
        let synced = if data_only {
            rustix::fs::fdatasync(&*file)
        } else {
            rustix::fs::fsync(&*file)
        };
        Ok(synced?)
    }

    /// `fallocate` with the kernel's mode bits.
    pub fn fallocate(
        &self,
        file: impl Into<FileRef>,
        offset: u64,
        len: u64,
        mode: u32,
    ) -> Result<()> {
        let file = self.writable_file(self.opened(file.into())?.node())?;
        let mode = FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(&*file, mode, offset, len)?)
    }

    /// `lseek` for data (`hole` false) or a hole.
    pub fn seek(&self, file: impl Into<FileRef>, offset: u64, hole: bool) -> Result<u64> {
        let file = self.readable(self.opened(file.into())?.node())?;
        let whence = if hole {
            SeekFrom::Hole(offset)
        } else {
            SeekFrom::Data(offset)
        };
        Ok(rustix::fs::seek(&*file, whence)?)
    }

    /// The kernel leaves O_TRUNC to us, and with it what a truncation does to the set-ID bits. (That
    /// it takes capabilities, the disk's own truncation sees to.)
    fn truncate_at_open(&self, file: &OwnedFd, caller: Caller) -> Result<()> {
        rustix::fs::ftruncate(file, 0)?;
        match caller.keeps_set_id() {
            true => Ok(()),
            false => self.drop_set_id(file),
        }
    }

    /// Copies between two open files; may copy less than asked.
    pub fn copy_file_range(
        &self,
        from: (FileRef, u64),
        to: (FileRef, u64),
        len: usize,
    ) -> Result<usize> {
        let (source, target) = (self.opened(from.0)?, self.opened(to.0)?);
        // The target first: its copy-up may be the source's.
        let target = self.writable_file(&target)?;
        let source = self.readable(&source)?;
        let (mut from, mut to) = (from.1, to.1);
        let copied =
            rustix::fs::copy_file_range(&*source, Some(&mut from), &*target, Some(&mut to), len)?;
        Ok(copied)
    }
}

/// The key of a kept descriptor: of a file of the index its place, for what is there never changes;
/// of all else the node, which is given up with it.
fn key_of(node: &Node, write: bool) -> u64 {
    match &node.state.lock().place {
        Place::Lower(LowerFile::Indexed { at, .. }) if !write => indexed_key(*at),
        _ => node.file_key(write),
    }
}

/// Above those of nodes, which are counted up from 1.
fn indexed_key(at: u32) -> u64 {
    1 << 63 | u64::from(at)
}
