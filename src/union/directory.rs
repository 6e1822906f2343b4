//! Open directories and their listings.
//!
//! A listing is taken when it is read from the beginning and kept with the handle: positions stay
//! true while the directory changes, and `rewinddir` sees the changes.

use std::sync::Arc;

use rustix::fs::{FileType, OFlags};

use super::attr::Kind;
use super::error::{Error, Result};
use super::fs::{Entry, Union};
use super::inode_table::ROOT;
use super::layers::is_whiteout;
use super::merge::{LayerEntry, MergedEntry, merge};
use super::node::{DirPlace, DirUpper, Node};
use crate::sys::dirfd;

/// One entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirItem {
    /// The name; `.` and `..` are the first two.
    pub name: Box<[u8]>,
    /// The type.
    pub kind: Kind,
    /// The inode number of `.` and `..`; 0 for the others, which are looked up.
    pub ino: u64,
}

impl Union {
    /// Opens a directory. Gives the handle.
    pub fn opendir(&self, ino: u64) -> Result<u64> {
        let node = self.node(ino)?;
        if node.kind != Kind::Directory {
            return Err(Error::NotADirectory);
        }
        Ok(self.handles.add_dir(self.nodes.count(node)))
    }

    /// Closes a directory.
    pub fn releasedir(&self, handle: u64) -> Result<()> {
        self.handles.remove_dir(handle)
    }

    /// The listing of an open directory; `fresh` (at position 0) takes it anew.
    pub fn listing(&self, handle: u64, fresh: bool) -> Result<Arc<Vec<DirItem>>> {
        let handle = self.handles.dir(handle)?;
        let mut listing = handle.listing.lock();
        match &*listing {
            Some(taken) if !fresh => Ok(taken.clone()),
            _ => {
                let taken = Arc::new(self.list(handle.node.node())?);
                *listing = Some(taken.clone());
                Ok(taken)
            }
        }
    }

    /// The node and attributes of an entry of a listing; `None` if it has gone since.
    pub fn listed(&self, handle: u64, item: &DirItem) -> Result<Option<Entry>> {
        let handle = self.handles.dir(handle)?;
        let _tree = self.tree.read();
        match self.lookup_entry(handle.node.node(), &item.name) {
            Ok(entry) => Ok(Some(entry)),
            Err(Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Waits until a directory's entries are on disk.
    pub fn fsyncdir(&self, handle: u64) -> Result<()> {
        if self.options.no_fsync {
            return Ok(());
        }
        let handle = self.handles.dir(handle)?;
        let dir = {
            let _tree = self.tree.read();
            match handle.node.dir() {
                Some(DirPlace {
                    upper: DirUpper::Present,
                    ..
                }) => self.upper_fd(handle.node.node())?,
                // Nothing there that could still be lost.
                _ => return Ok(()),
            }
        };
        let open = dirfd::reopen(&*dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
        Ok(rustix::fs::fsync(open)?)
    }

    fn list(&self, node: &Arc<Node>) -> Result<Vec<DirItem>> {
        let _tree = self.tree.read();
        let parent = match self.first_name(node) {
            Some((parent, _)) => parent.ino,
            None => ROOT,
        };
        let dots = [(&b"."[..], node.ino), (&b".."[..], parent)];
        let mut items: Vec<DirItem> = dots
            .into_iter()
            .map(|(name, ino)| DirItem {
                name: name.into(),
                kind: Kind::Directory,
                ino,
            })
            .collect();
        let merged = self.merged_listing(node)?;
        items.extend(merged.into_iter().map(|e| DirItem {
            name: e.name,
            kind: e.kind,
            ino: 0,
        }));
        Ok(items)
    }

    /// What a directory shows, without `.` and `..`. Needs the tree lock.
    pub(super) fn merged_listing(&self, node: &Arc<Node>) -> Result<Vec<MergedEntry>> {
        let dir = node.dir().ok_or(Error::NotADirectory)?;
        if node.is_gone() {
            return Ok(Vec::new());
        }
        let mut layers = Vec::new();
        if matches!(dir.upper, DirUpper::Present) {
            layers.push(read_layer(&*self.upper_fd(node)?)?);
        }
        for lower in dir.lowers.iter() {
            layers.push(read_layer(&*self.lower_fd(lower)?)?);
        }
        Ok(merge(layers))
    }
}

fn read_layer(fd: &std::os::fd::OwnedFd) -> Result<Vec<LayerEntry>> {
    let mut entries = Vec::new();
    for raw in dirfd::read_dir(fd)? {
        let kind = match raw.file_type {
            FileType::CharacterDevice | FileType::Unknown => {
                // A device may be a whiteout; and some file systems do not store the type.
                match dirfd::stat_at_opt(fd, &raw.name)? {
                    None => continue,
                    Some(stat) if is_whiteout(&stat) => None,
                    Some(stat) => Some(Kind::from_mode(stat.st_mode)),
                }
            }
            known => Some(Kind::from_file_type(known)),
        };
        entries.push(LayerEntry {
            name: raw.name,
            kind,
        });
    }
    Ok(entries)
}
