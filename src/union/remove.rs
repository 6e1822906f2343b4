//! Removing names: unlink and rmdir.
//!
//! A name that the layers have is covered by a whiteout, in one step with the removal of what the
//! upper directory has there. What is still open lives on behind a descriptor of its node.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::AtFlags;

use super::attr::Kind;
use super::copy_up::Content;
use super::error::{Error, Result};
use super::fs::Union;
use super::layers::is_whiteout;
use super::lookup::check_name;
use super::node::{DirUpper, Node, NodeRef, Place};
use super::resolve::Shown;
use crate::sys::dirfd;

/// A node that is about to lose a name, with what keeps it reachable after that.
pub(super) struct Leaving {
    node: NodeRef,
    held: Option<Arc<OwnedFd>>,
}

impl Union {
    /// Removes the name of anything but a directory.
    pub fn unlink(&self, parent: u64, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let upper = self.writable()?;
        let parent = self.node(parent)?;
        loop {
            let tree = self.tree.write();
            let node = self.lookup_child(&parent, name)?;
            if node.kind == Kind::Directory {
                return Err(Error::IsADirectory);
            }
            if node.is_lower_hard_link() {
                // Then the number of its links is exact.
                drop(tree);
                self.copy_up(node.node(), Content::Metadata)?;
                continue;
            }
            let leaving = self.about_to_leave(node)?;
            self.cover(upper, &parent, name, &leaving.node)?;
            return self.has_left(leaving, &parent, name);
        }
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, parent: u64, name: &[u8]) -> Result<()> {
        check_name(name)?;
        let upper = self.writable()?;
        let parent = self.node(parent)?;
        let _tree = self.tree.write();
        let node = self.lookup_child(&parent, name)?;
        if node.kind != Kind::Directory {
            return Err(Error::NotADirectory);
        }
        if !self.merged_listing(node.node())?.is_empty() {
            return Err(Error::NotEmpty);
        }
        let leaving = self.about_to_leave(node)?;
        self.cover(upper, &parent, name, &leaving.node)?;
        self.hard_links.directories_moved();
        self.has_left(leaving, &parent, name)
    }

    /// Leaves nothing to be seen under the name of a node, in one step.
    fn cover(
        &self,
        upper: &super::fs::Upper,
        parent: &Arc<Node>,
        name: &[u8],
        node: &Node,
    ) -> Result<()> {
        let place = parent.dir().ok_or(Error::NotADirectory)?;
        let hidden = !matches!(self.lowers_show(&place, name)?, Shown::Nothing);
        self.copy_up_dirs(parent)?;
        let dir = self.upper_fd(parent)?;
        if hidden && !node.is_upper() {
            return upper.work.link_whiteout(&*dir, name);
        }
        match (dirfd::stat_at_opt(&*dir, name)?, hidden) {
            (Some(stat), _) if is_whiteout(&stat) => Err(Error::NotFound),
            (Some(_), true) => upper.work.replace_by_whiteout(&*dir, name),
            // With what is in it: a directory that shows nothing may hold whiteouts.
            (Some(stat), false) if super::layers::is_dir(&stat) => {
                upper.work.take_away(&*dir, name)
            }
            (Some(_), false) => Ok(rustix::fs::unlinkat(&*dir, name, AtFlags::empty())?),
            (None, true) => upper.work.link_whiteout(&*dir, name),
            (None, false) => Err(Error::NotFound),
        }
    }

    /// Gets hold of a node before it loses a name.
    pub(super) fn about_to_leave(&self, node: NodeRef) -> Result<Leaving> {
        let last = self.nodes.table.lock().names(node.ino).len() <= 1;
        let held = match node.place() {
            Place::Upper(_) if last => Some(self.path_fd(node.node())?),
            Place::Dir(dir) if matches!(dir.upper, DirUpper::Present) => {
                Some(self.path_fd(node.node())?)
            }
            Place::Upper(_) | Place::Held(..) | Place::Lower(_) | Place::Dir(_) => None,
        };
        Ok(Leaving { node, held })
    }

    /// A node has lost a name, on disk; the table follows.
    pub(super) fn has_left(&self, leaving: Leaving, parent: &Arc<Node>, name: &[u8]) -> Result<()> {
        let gone = self.nodes.table.lock().remove_name(parent.ino, name);
        self.nodes.bury(gone);
        self.settle(leaving)
    }

    /// Where a node is after it has lost a name that the table has already struck out.
    pub(super) fn settle(&self, leaving: Leaving) -> Result<()> {
        let Leaving { node, held } = leaving;
        if !self.nodes.table.lock().names(node.ino).is_empty() {
            return Ok(());
        }
        let links = match &held {
            Some(fd) if node.kind != Kind::Directory => rustix::fs::fstat(&**fd)?.st_nlink,
            Some(_) | None => 0,
        };
        let mut unlinked = true;
        {
            let mut state = node.state.lock();
            match (&mut state.place, held) {
                (Place::Dir(dir), Some(fd)) => dir.upper = DirUpper::Removed(fd),
                (place @ Place::Upper(_), Some(fd)) => {
                    // Other names, that nobody has asked for: found again by its identity.
                    unlinked = links == 0;
                    if let Place::Upper(data) = place {
                        *place = Place::Held(fd, data.clone());
                    }
                }
                (Place::Held(fd, _), _) => {
                    unlinked = rustix::fs::fstat(&**fd)?.st_nlink == 0;
                }
                (Place::Upper(_) | Place::Lower(_) | Place::Dir(_), _) => {}
            }
            state.gone = unlinked;
        }
        let mut table = self.nodes.table.lock();
        table.keep(node.ino);
        if unlinked {
            // The disk may give its number to another file once it is closed.
            table.set_identity(node.ino, None);
        }
        drop(table);
        Ok(())
    }
}
