//! Names to nodes, and to numbers for the kernel.
//!
//! All of this needs the tree lock, shared at least. A name that has been found is remembered in the
//! inode table: the view is the only way in, so what is known there needs no system call.

use std::sync::Arc;

use rustix::fs::Stat;

use super::attr::Kind;
use super::error::{Error, Result};
use super::find::{Found, upper_identity};
use super::fs::{Entry, Union};
use super::indexed::{Known, whole};
use super::inode_table::Name;
use super::layers::{LowerPath, is_dir};
use super::node::{Data, DirPlace, DirUpper, Node, NodeRef, Place};

impl Union {
    /// Looks a name up, for the kernel.
    pub fn lookup(&self, parent: u64, name: &[u8]) -> Result<Entry> {
        check_name(name)?;
        let _tree = self.tree.read();
        match self.known(parent)? {
            Known::Node(parent) => self.lookup_entry(parent.node(), name),
            // What has no node has not changed, nor has anything in it.
            Known::Indexed(index, at) => {
                let directory = whole(index, index.inode(at))?.ok_or(Error::Stale)?;
                if Kind::indexed(directory.kind) != Kind::Directory {
                    return Err(Error::NotADirectory);
                }
                let child = whole(index, index.child(at, name))?.ok_or(Error::NotFound)?;
                match self.hand_out(index, child)? {
                    Some(entry) => Ok(entry),
                    None => self.lookup_entry(self.node(parent)?.node(), name),
                }
            }
        }
    }

    /// As [`lookup`](Self::lookup), under the tree lock.
    pub(super) fn lookup_entry(&self, parent: &Arc<Node>, name: &[u8]) -> Result<Entry> {
        if let Some(node) = self.known_child(parent, name) {
            let attr = self.attr_of(node.node())?;
            let node = node.number();
            return Ok(Entry { node, attr });
        }
        let found = self.find(parent, name)?.ok_or(Error::NotFound)?;
        if let (Some(index), Some(at)) = (&self.nodes.index, found.unchanged())
            && let Some(entry) = self.hand_out(index, at)?
        {
            return Ok(entry);
        }
        let attr = found.attr;
        let node = self.intern(parent, name, found);
        // A node of the same identity may be elsewhere by now (held, or copied up).
        let attr = match self.keepers.any {
            false => self.attr_from(&node, attr),
            true => self.attr_of(&node)?,
        };
        let node = node.number();
        Ok(Entry { node, attr })
    }

    /// The node of a name, counted.
    pub(super) fn lookup_child(&self, parent: &Arc<Node>, name: &[u8]) -> Result<NodeRef> {
        if let Some(node) = self.known_child(parent, name) {
            return Ok(node);
        }
        let found = self.find(parent, name)?.ok_or(Error::NotFound)?;
        Ok(self.intern(parent, name, found))
    }

    /// As [`lookup_child`](Self::lookup_child), with `None` for a name that shows nothing.
    pub(super) fn lookup_child_opt(
        &self,
        parent: &Arc<Node>,
        name: &[u8],
    ) -> Result<Option<NodeRef>> {
        match self.lookup_child(parent, name) {
            Ok(node) => Ok(Some(node)),
            Err(Error::NotFound) => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn known_child(&self, parent: &Node, name: &[u8]) -> Option<NodeRef> {
        let mut table = self.nodes.table.lock();
        let node = table.child(parent.ino, name)?.clone();
        table.acquire(node.ino);
        drop(table);
        Some(NodeRef::adopt(node, &self.nodes))
    }

    fn intern(&self, parent: &Arc<Node>, name: &[u8], found: Found) -> NodeRef {
        let id = self.new_id();
        let Found { new, place, attr } = found;
        let make = |ino| Node::new(id, ino, attr.kind, place);
        let mut table = self.nodes.table.lock();
        let node = table.intern(parent.ino, name, new, make);
        drop(table);
        NodeRef::adopt(node, &self.nodes)
    }

    /// The node of what has just been put under a name of the upper directory, counted.
    pub(super) fn intern_new(&self, parent: &Arc<Node>, name: &[u8], stat: Stat) -> NodeRef {
        let (identity, place) = match is_dir(&stat) {
            true => (
                None,
                Place::Dir(DirPlace {
                    upper: DirUpper::Present,
                    lowers: Arc::default(),
                    lower_path: LowerPath::default(),
                }),
            ),
            false => (Some(upper_identity(&stat)), Place::Upper(Data::Own)),
        };
        let found = Found::on_disk(identity, stat.st_ino, place, &stat);
        self.intern(parent, name, found)
    }

    /// The node at a path from the root, counted.
    pub(super) fn lookup_path(&self, path: &[Name]) -> Result<Option<NodeRef>> {
        let mut at = self.node(super::inode_table::ROOT)?;
        for name in path {
            if at.kind != Kind::Directory {
                return Ok(None);
            }
            match self.lookup_child_opt(at.node(), name)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

/// Refuses what cannot be a name.
pub(super) fn check_name(name: &[u8]) -> Result<()> {
    let bad = name.is_empty() || name == b"." || name == b"..";
    if bad || name.contains(&b'/') || name.contains(&0) {
        return Err(Error::Invalid);
    }
    Ok(())
}
