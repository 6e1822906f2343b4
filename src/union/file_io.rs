//! Open files: reading, writing and all that goes by a handle.
//!
//! The handles of a node share its descriptors, so they all see one file: after a copy-up the next
//! read of every handle, even one that was opened read-only before it, goes to the copy.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom};
use rustix::io::Errno;

use super::attr::{Caller, Kind};
use super::copy_up::Content;
use super::error::{Error, Result};
use super::fs::{Stale, Union};
use super::node::{Data, Node, NodeRef, Place};
use crate::sys::dirfd;

/// What is special about a write.
#[derive(Debug, Clone, Copy, Default)]
pub struct WriteHow {
    /// It comes from a mapped page, and the kernel has not noted the change of the modification
    /// time.
    pub delayed: bool,
    /// The writer may not leave the set-ID bits in place.
    pub drops_set_id: bool,
}

impl Union {
    /// Opens a regular file; for writing, it is copied up. Gives the handle.
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
        let opened = self.open_counted(&node, writes, truncates.then_some(caller));
        if let Err(e) = opened {
            node.close();
            return Err(e);
        }
        Ok(self.handles.add(node, wants_sync(flags)))
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
        let file = self.open_data(node, &mut node.files.lock(), write)?;
        match truncates {
            Some(caller) => truncate_at_open(&file, caller),
            None => Ok(()),
        }
    }

    /// A handle for a file that has just been made and is open already.
    pub(super) fn adopt_new_file(
        &self,
        node: NodeRef,
        file: Option<OwnedFd>,
        flags: OFlags,
    ) -> u64 {
        {
            let mut files = node.files.lock();
            files.opens += 1;
            if files.write.is_none() {
                files.write = file.map(Arc::new);
            }
        }
        self.handles.add(node, wants_sync(flags))
    }

    /// Makes sure that a descriptor of a node's data is open. Needs the tree lock.
    fn open_data(
        &self,
        node: &Arc<Node>,
        files: &mut super::node::OpenFiles,
        write: bool,
    ) -> Result<Arc<OwnedFd>> {
        if let Some(file) = &files.write {
            return Ok(file.clone());
        }
        if let (false, Some(file)) = (write, &files.read) {
            return Ok(file.clone());
        }
        if write {
            let location = self.path_fd(node)?;
            let file = Arc::new(dirfd::reopen(&*location, OFlags::RDWR)?);
            files.write = Some(file.clone());
            files.read = None;
            return Ok(file);
        }
        // The access times of layers are left alone.
        let file = match node.place() {
            Place::Lower(file) => {
                dirfd::reopen_noatime(&*self.lower_data_fd(&file)?, OFlags::RDONLY)?
            }
            Place::Upper(Data::Lower(it)) | Place::Held(_, Data::Lower(it)) => {
                dirfd::reopen_noatime(&*self.data_below(&it)?, OFlags::RDONLY)?
            }
            Place::Upper(Data::Own) | Place::Held(_, Data::Own) | Place::Dir(_) => {
                dirfd::reopen(&*self.path_fd(node)?, OFlags::RDONLY)?
            }
        };
        let file = Arc::new(file);
        files.read = Some(file.clone());
        Ok(file)
    }

    /// A descriptor of a node's data, kept only if a handle is open. Needs the tree lock.
    pub(super) fn data_fd(&self, node: &Arc<Node>, write: bool) -> Result<Arc<OwnedFd>> {
        let mut files = node.files.lock();
        let file = self.open_data(node, &mut files, write)?;
        if files.opens == 0 {
            files.read = None;
            files.write = None;
        }
        Ok(file)
    }

    /// The descriptor that a handle reads from now.
    fn readable(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        {
            let files = node.files.lock();
            if let Some(file) = files.write.as_ref().or(files.read.as_ref()) {
                return Ok(file.clone());
            }
        }
        // After a copy-up by attributes alone, the handles' descriptor was given up.
        let _tree = self.tree.read();
        self.data_fd(node, false)
    }

    /// The descriptor that a handle writes to.
    fn writable_file(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        if let Some(file) = &node.files.lock().write {
            return Ok(file.clone());
        }
        self.copy_up(node, Content::All)?;
        let _tree = self.tree.read();
        self.data_fd(node, true)
    }

    /// Reads up to `size` bytes; fewer only at the end of the file.
    pub fn read(&self, handle: u64, offset: u64, size: usize) -> Result<Vec<u8>> {
        let handle = self.handles.get(handle)?;
        let file = self.readable(handle.node.node())?;
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
    pub fn write(&self, handle: u64, offset: u64, data: &[u8], how: WriteHow) -> Result<usize> {
        let handle = self.handles.get(handle)?;
        let file = self.writable_file(handle.node.node())?;
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
            drop_set_id(&file)?;
        }
        if handle.sync && !self.options.no_fsync {
            rustix::fs::fsync(&*file)?;
        }
        if how.delayed {
            self.stale(Stale::Attributes(handle.node.ino));
        }
        Ok(done)
    }

    /// Closes a handle.
    pub fn release(&self, handle: u64) -> Result<()> {
        self.handles.remove(handle)?.node.close();
        Ok(())
    }

    /// Waits until a file's data, and its metadata unless `data_only`, is on disk.
    pub fn fsync(&self, handle: u64, data_only: bool) -> Result<()> {
        if self.options.no_fsync {
            return Ok(());
        }
        let handle = self.handles.get(handle)?;
        let node = handle.node.node();
        let file = match node.metacopy() {
            // Its data cannot be lost, but its metadata.
            Some(_) => {
                let _tree = self.tree.read();
                Arc::new(dirfd::reopen(&*self.path_fd(node)?, OFlags::RDONLY)?)
            }
            None => self.readable(node)?,
        };
        let synced = if data_only {
            rustix::fs::fdatasync(&*file)
        } else {
            rustix::fs::fsync(&*file)
        };
        Ok(synced?)
    }

    /// `fallocate` with the kernel's mode bits.
    pub fn fallocate(&self, handle: u64, offset: u64, len: u64, mode: u32) -> Result<()> {
        let handle = self.handles.get(handle)?;
        let file = self.writable_file(handle.node.node())?;
        let mode = FallocateFlags::from_bits_retain(mode);
        Ok(rustix::fs::fallocate(&*file, mode, offset, len)?)
    }

    /// `lseek` for data (`hole` false) or a hole.
    pub fn seek(&self, handle: u64, offset: u64, hole: bool) -> Result<u64> {
        let handle = self.handles.get(handle)?;
        let file = self.readable(handle.node.node())?;
        let whence = if hole {
            SeekFrom::Hole(offset)
        } else {
            SeekFrom::Data(offset)
        };
        Ok(rustix::fs::seek(&*file, whence)?)
    }

    /// Copies between two open files; may copy less than asked.
    pub fn copy_file_range(&self, from: (u64, u64), to: (u64, u64), len: usize) -> Result<usize> {
        let source = self.handles.get(from.0)?;
        let target = self.handles.get(to.0)?;
        let source = self.readable(source.node.node())?;
        let target = self.writable_file(target.node.node())?;
        let (mut from, mut to) = (from.1, to.1);
        let copied =
            rustix::fs::copy_file_range(&*source, Some(&mut from), &*target, Some(&mut to), len)?;
        Ok(copied)
    }
}

/// The kernel leaves O_TRUNC to us, and with it what a truncation does to the set-ID bits. (That
/// it takes capabilities, the disk's own truncation sees to.)
fn truncate_at_open(file: &OwnedFd, caller: Caller) -> Result<()> {
    rustix::fs::ftruncate(file, 0)?;
    match caller.keeps_set_id() {
        true => Ok(()),
        false => drop_set_id(file),
    }
}

/// Takes the set-user-ID bit off a file, and the set-group-ID bit where the group may execute it.
pub(super) fn drop_set_id(file: &OwnedFd) -> Result<()> {
    let mode = rustix::fs::fstat(file)?.st_mode as u32;
    let kept = mode & !0o4000 & if mode & 0o010 != 0 { !0o2000 } else { !0 };
    match kept == mode {
        true => Ok(()),
        false => Ok(dirfd::chmod_fd(file, kept)?),
    }
}

fn wants_sync(flags: OFlags) -> bool {
    flags.intersects(OFlags::SYNC | OFlags::DSYNC)
}
