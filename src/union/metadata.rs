//! Attributes: getattr, setattr, readlink, statfs.

use rustix::fs::{StatVfs, Timespec, Timestamps};
use rustix::io::Errno;

use super::attr::{Attr, Caller, Kind, SetAttr, SetTime};
use super::copy_up::Content;
use super::error::{Error, Result};
use super::fs::Union;
use super::indexed::{Known, whole};
use super::inode_table::ROOT;
use super::owner::IdMap;
use crate::sys::dirfd;

impl Union {
    /// What `stat` shows of a node, be it unlinked.
    pub fn getattr(&self, ino: u64) -> Result<Attr> {
        let _tree = self.tree.read();
        match self.known(ino)? {
            Known::Node(node) => self.attr_of(&node),
            Known::Indexed(_, at) => Ok(self.shown(self.indexed_attr(at)?)),
        }
    }

    /// Changes attributes; the copy-up comes first. A change of nothing is what the kernel asks for
    /// before it changes a file's contents by another way: it takes the set-ID bits, too, where the
    /// caller may not leave them. (A change of owner takes them in any case, and a change of the
    /// contents the capabilities: the disk's own sees to that.)
    pub fn setattr(&self, ino: u64, set: &SetAttr, caller: Caller) -> Result<Attr> {
        let node = self.node(ino)?;
        self.writable()?;
        if set.size.is_some() {
            match node.kind {
                Kind::File => {}
                Kind::Directory => return Err(Error::IsADirectory),
                _ => return Err(Error::Invalid),
            }
        }
        let content = match set.size {
            None => Content::Metadata,
            // Truncated to nothing: no data to copy.
            Some(0) => Content::None,
            Some(_) => Content::All,
        };
        let changes_contents = set.size.is_some() || *set == SetAttr::default();
        self.copy_up(&node, content)?;
        // Completing its data restores what that disturbs: not what is changed here.
        let _changing = node.copy_up.lock();
        let _tree = self.tree.read();
        if let Some(size) = set.size {
            let file = self.data_fd(&node, true)?;
            rustix::fs::ftruncate(&*file, size)?;
        }
        // Mostly of a file that is open, or was written a moment ago.
        let file = self.written_file(&node);
        let is_open = file.is_some();
        let fd = match file {
            Some(file) => file,
            None => self.path_fd(&node)?,
        };
        if changes_contents && node.kind == Kind::File && !caller.keeps_set_id() {
            self.drop_set_id(&fd)?;
        }
        if set.uid.is_some() || set.gid.is_some() {
            let owners = &self.options.owners;
            let uid = on_disk(&owners.uids, set.uid)?;
            let gid = on_disk(&owners.gids, set.gid)?;
            self.set_owner(&*fd, uid, gid)?;
        }
        // After the owner, whose change clears the set-ID bits: the kernel has said which remain.
        if let Some(mode) = set.mode {
            if node.kind == Kind::Symlink {
                return Err(Error::NotSupported);
            }
            self.set_mode(&*fd, mode)?;
        }
        if set.atime.is_some() || set.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(set.atime),
                last_modification: timespec(set.mtime),
            };
            dirfd::set_times_fd(&*fd, &times)?;
        }
        match is_open {
            true => {
                let attr = Attr::new(node.ino, &self.upper_stat(&*fd)?);
                Ok(self.attr_from(&node, attr))
            }
            false => self.attr_of(&node),
        }
    }

    /// The target of a symlink.
    pub fn readlink(&self, ino: u64) -> Result<Vec<u8>> {
        let _tree = self.tree.read();
        let node = match self.known(ino)? {
            Known::Indexed(index, at) => {
                let target = index.target(at).map(<[u8]>::to_vec);
                return whole(index, target)?.ok_or(Error::Invalid);
            }
            Known::Node(node) => node,
        };
        if node.kind != Kind::Symlink {
            return Err(Error::Invalid);
        }
        let target = rustix::fs::readlinkat(&*self.path_fd(&node)?, "", Vec::new())?;
        Ok(target.into_bytes())
    }

    /// The file system that changes go to, or that the top layer is on.
    pub fn statfs(&self) -> Result<StatVfs> {
        let _tree = self.tree.read();
        let root = self.node(ROOT)?;
        let root = self.path_fd(&root)?;
        Ok(rustix::fs::fstatvfs(&*root)?)
    }
}

/// The ID to write for one that is to be shown. One that has no place on disk is refused as the
/// kernel does it on an ID-mapped mount.
fn on_disk(map: &IdMap, shown: Option<u32>) -> Result<Option<u32>> {
    match shown.map(|id| map.disk(id)) {
        None => Ok(None),
        Some(Some(id)) => Ok(Some(id)),
        Some(None) => Err(Error::Sys(Errno::OVERFLOW)),
    }
}

fn timespec(set: Option<SetTime>) -> Timespec {
    match set {
        None => Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT as _,
        },
        Some(SetTime::Now) => Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_NOW as _,
        },
        Some(SetTime::At(time)) => Timespec {
            tv_sec: time.secs,
            tv_nsec: time.nanos as _,
        },
    }
}
