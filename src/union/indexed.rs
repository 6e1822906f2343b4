//! What the index of the layers says, and how the inodes that it has come into the table.
//!
//! Most inodes of an image are looked up, listed and read about, but never changed: for them there is
//! no node and no system call, their number is their place in the index. One that is opened or changed
//! gets a node, under the names and parents that the index gives it or that the table knows better.
//!
//! Lock rule: what the index says of an inode without a node is true as long as the tree lock is held,
//! for every change begins with making its node, and is done under that lock.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;

use super::attr::{Attr, Kind};
use super::error::{Error, Result};
use super::find::{Found, Hit};
use super::fs::{Entry, Union};
use super::inode_table::{Ino, Name, indexed_ino};
use super::layers::{LowerIndex, LowerPath};
use super::merge::LayerEntry;
use super::node::{DirPlace, Node, NodeRef};
use super::resolve::{Further, Resolver, Seen};
use crate::sys::dirfd;

/// What is known of a number.
pub(super) enum Known<'a> {
    /// It has a node.
    Node(NodeRef),
    /// It is what the index has at this place.
    Indexed(&'a LowerIndex, u32),
}

impl Union {
    /// What a number that the kernel holds stands for.
    pub(super) fn known(&self, ino: Ino) -> Result<Known<'_>> {
        let mut table = self.nodes.table.lock();
        if let Some(node) = table.get(ino).cloned() {
            table.acquire(ino);
            drop(table);
            return Ok(Known::Node(NodeRef::adopt(node, &self.nodes)));
        }
        match (table.place_of(ino), &self.nodes.index) {
            (Some(at), Some(index)) => Ok(Known::Indexed(index, at)),
            _ => Err(Error::Stale),
        }
    }

    /// The node of a number that the kernel holds, counted.
    pub(super) fn node(&self, ino: Ino) -> Result<NodeRef> {
        match self.known(ino)? {
            Known::Node(node) => Ok(node),
            Known::Indexed(index, at) => self.make_node(index, at),
        }
    }

    /// A node for an inode of the index, and for the directories above it that have none.
    fn make_node(&self, index: &LowerIndex, at: u32) -> Result<NodeRef> {
        let mut missing = Vec::new();
        let mut next = at;
        let mut above = loop {
            match self.known(indexed_ino(next))? {
                Known::Node(node) => break node,
                Known::Indexed(..) => {
                    let (directory, name) =
                        whole(index, index.names(next).next())?.ok_or(Error::Stale)?;
                    missing.push((next, name));
                    next = directory;
                }
            }
        };
        for (at, name) in missing.into_iter().rev() {
            let Found { new, place, attr } = Found::indexed(index, at)?;
            let id = self.new_id();
            let make = |ino| Node::new(id, ino, attr.kind, place);
            let mut table = self.nodes.table.lock();
            let node = table.intern_indexed(at, above.ino, name, new, make);
            drop(table);
            above = NodeRef::adopt(node, &self.nodes);
        }
        Ok(above)
    }

    /// An inode of the index for the kernel, if it can do without a node.
    pub(super) fn hand_out(&self, index: &LowerIndex, at: u32) -> Result<Option<Entry>> {
        if at == 0 || needs_node(index, at) {
            return Ok(None);
        }
        let attr = self.shown(self.indexed_attr(at)?);
        let node = self.nodes.count_indexed(at);
        Ok(node.map(|node| Entry { node, attr }))
    }

    /// What is on disk of an inode of the index that has not changed.
    pub(super) fn indexed_attr(&self, at: u32) -> Result<Attr> {
        let index = self.index()?;
        let inode = whole(index, index.inode(at))?.ok_or(Error::Stale)?;
        let mut attr = Attr::indexed(indexed_ino(at), &inode);
        if attr.kind == Kind::Directory {
            // As of every directory that may be merged.
            attr.nlink = 1;
        }
        Ok(attr)
    }

    /// What the index has in a directory.
    pub(super) fn indexed_listing(&self, directory: u32) -> Result<Vec<LayerEntry>> {
        let index = self.index()?;
        let listing = index
            .children(directory)
            .map(|(name, at)| {
                let inode = index.inode(at).ok_or(Error::Stale)?;
                Ok(LayerEntry {
                    name: name.into(),
                    kind: Some(Kind::indexed(inode.kind)),
                })
            })
            .collect();
        whole(index, listing)?
    }

    /// The index, which is there for whoever asks for a place in it.
    pub(super) fn index(&self) -> Result<&LowerIndex> {
        self.nodes.index.as_ref().ok_or(Error::Stale)
    }

    /// Tells the resolver what the index has under a path. It is all the layers there are: nothing is
    /// below it.
    pub(super) fn search_index(
        &self,
        directory: u32,
        path: &[Name],
        resolver: &mut Resolver<Hit>,
    ) -> Result<Further> {
        let index = self.index()?;
        let mut at = directory;
        for name in path {
            match index.child(at, name) {
                Some(child) => at = child,
                None => return whole(index, Further::Look),
            }
        }
        let seen = match self.indexed_attr(at)?.kind {
            Kind::Directory => Seen::Dir { opaque: false },
            _ => Seen::File,
        };
        Ok(resolver.add(Hit::Indexed(at), seen))
    }

    /// Where the lower layers, without the upper one, show a directory that they have.
    pub(super) fn path_below(&self, dir: &DirPlace) -> Result<LowerPath> {
        use super::layers::LowerDir;
        match dir.lowers.first().map(|dir| &**dir) {
            Some(LowerDir::Indexed(at)) => indexed_path(self.index()?, *at),
            Some(LowerDir::Plain(_)) | None => Ok(dir.lower_path.clone()),
        }
    }

    /// A descriptor (`O_PATH`) of a directory of the index, in the topmost layer that has it.
    pub(super) fn indexed_dir_fd(&self, at: u32) -> Result<Arc<OwnedFd>> {
        let layer = self.index()?.inode(at).ok_or(Error::Stale)?.layer;
        self.dir_fd_in(layer, at)
    }

    /// A descriptor (`O_PATH`) of a file of the index.
    pub(super) fn indexed_file_fd(&self, at: u32) -> Result<Arc<OwnedFd>> {
        let (directory, name) = self.indexed_file(at)?;
        Ok(Arc::new(dirfd::open_path(&*directory, name)?))
    }

    /// Where a file of the index is: its layer's directory, and its name in it.
    pub(super) fn indexed_file(&self, at: u32) -> Result<(Arc<OwnedFd>, &[u8])> {
        let index = self.index()?;
        let layer = index.inode(at).ok_or(Error::Stale)?.layer;
        let (directory, name) = whole(index, index.names(at).next())?.ok_or(Error::Stale)?;
        Ok((self.dir_fd_in(layer, directory)?, name))
    }

    /// A descriptor of a directory of the index, in a layer that has it.
    fn dir_fd_in(&self, layer: u32, at: u32) -> Result<Arc<OwnedFd>> {
        let index = self.index()?;
        let mut to_open = Vec::new();
        let mut next = at;
        let mut fd = loop {
            if next == 0 {
                break self.lower_fds[layer as usize].clone();
            }
            let key = key_of(layer, next);
            if let Some(fd) = self.nodes.fds.get(key) {
                break fd;
            }
            let (directory, name) = whole(index, index.names(next).next())?.ok_or(Error::Stale)?;
            to_open.push((key, name));
            next = directory;
        };
        for (key, name) in to_open.into_iter().rev() {
            fd = Arc::new(dirfd::open_dir(&*fd, name)?);
            self.nodes.fds.put(key, fd.clone());
        }
        Ok(fd)
    }
}

/// What was read from the index, if that is still one: an index that was cut short, or that the disk
/// cannot read any more, must not look like one in which things are missing.
pub(super) fn whole<T>(index: &LowerIndex, read: T) -> Result<T> {
    static TOLD: AtomicBool = AtomicBool::new(false);
    if index.is_whole() {
        return Ok(read);
    }
    if !TOLD.swap(true, Ordering::Relaxed) {
        tracing::error!(
            "the index of the layers was cut short, or cannot be read any more: what is in it fails \
             until the view is mounted again"
        );
    }
    Err(Error::Sys(Errno::IO))
}

/// Whether an inode of the index must have a node from its first lookup on: of several names it matters
/// by which it was found.
pub(super) fn needs_node(index: &LowerIndex, at: u32) -> bool {
    index.names(at).nth(1).is_some()
}

/// The path of an inode of the index, by its first name.
pub(super) fn indexed_path(index: &LowerIndex, at: u32) -> Result<LowerPath> {
    let mut names = Vec::new();
    let mut next = at;
    while next != 0 {
        let (directory, name) = whole(index, index.names(next).next())?.ok_or(Error::Stale)?;
        names.push(name);
        next = directory;
    }
    let names = names.into_iter().rev();
    Ok(names.fold(LowerPath::default(), |path, name| path.join(name)))
}

/// The paths of all names of an inode of the index.
pub(super) fn indexed_paths(index: &LowerIndex, at: u32) -> Result<Vec<LowerPath>> {
    let paths = index
        .names(at)
        .map(|(directory, name)| Ok(indexed_path(index, directory)?.join(name)))
        .collect();
    whole(index, paths)?
}

/// The key of a layer's directory in the descriptor cache: above the numbers of nodes and of the
/// directories of plain layers, which are counted up from 1.
fn key_of(layer: u32, at: u32) -> u64 {
    1 << 63 | u64::from(layer) << 32 | u64::from(at)
}
