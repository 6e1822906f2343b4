//! Making a hard link.

use rustix::fs::AtFlags;

use super::attr::Kind;
use super::error::{Error, Result};
use super::fs::{Entry, Union};
use super::whiteout::Cover;
use crate::sys::dirfd;

impl Union {
    /// Gives a node one more name.
    pub fn link(&self, ino: u64, new_parent: u64, new_name: &[u8]) -> Result<Entry> {
        self.check_new_name(new_name)?;
        let upper = self.writable()?;
        let node = self.node(ino)?;
        if node.kind == Kind::Directory {
            return Err(Error::Sys(rustix::io::Errno::PERM));
        }
        self.copy_up_to_move(&node)?;
        let _tree = self.tree.write();
        let parent = self.node(new_parent)?;
        if parent.is_gone() || node.is_gone() {
            return Err(Error::NotFound);
        }
        if self.lookup_child_opt(&parent, new_name)?.is_some() {
            return Err(Error::Exists);
        }
        self.copy_up_dirs(&parent)?;
        let dir = self.upper_fd(&parent)?;
        // Of what shows nothing, the upper directory can only have a whiteout.
        let cover = self.cover_of(&dir, new_name)?;
        let location = self.path_fd(&node)?;
        let source = dirfd::proc_path(&*location);
        // Through the magic link of the descriptor: right whatever name it has, or none that is
        // known here.
        let link = |dir: &dyn std::os::fd::AsFd, name: &[u8]| {
            let cwd = rustix::fs::CWD;
            rustix::fs::linkat(
                cwd,
                source.as_bytes(),
                dir.as_fd(),
                name,
                AtFlags::SYMLINK_FOLLOW,
            )
        };
        if cover != Cover::None {
            let temporary = upper.work.fresh();
            link(&upper.work, &temporary)?;
            let placed = self.place(upper, &temporary, &dir, new_name, cover, false);
            if placed.is_err() {
                upper.work.discard(&temporary);
            }
            placed?;
        } else {
            link(&dir, new_name)?;
        }
        self.nodes
            .table
            .lock()
            .add_name(node.ino, parent.ino, new_name);
        let attr = self.attr_of(&node)?;
        let node = node.number();
        Ok(Entry { node, attr })
    }
}
