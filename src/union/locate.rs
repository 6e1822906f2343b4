//! Where things are on disk: the descriptors that lead to a node or a directory of a layer, and what
//! `stat` shows there.
//!
//! All of this needs the tree lock, shared at least, but for what is about the layers alone.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::Stat;

use super::attr::Attr;
use super::error::{Error, Result};
use super::fs::Union;
use super::inode_table::Name;
use super::layers::{LowerDir, LowerFile, PlainDir};
use super::node::{DirPlace, DirUpper, Node, Place};
use crate::sys::dirfd;

impl Union {
    /// A descriptor (`O_PATH`) of a layer's directory.
    pub(super) fn lower_fd(&self, dir: &LowerDir) -> Result<Arc<OwnedFd>> {
        match dir {
            LowerDir::Plain(dir) => self.plain_fd(dir),
            LowerDir::Indexed(at) => self.indexed_dir_fd(*at),
        }
    }

    /// A descriptor (`O_PATH`) of a plain layer's directory.
    pub(super) fn plain_fd(&self, dir: &PlainDir) -> Result<Arc<OwnedFd>> {
        let mut to_open = Vec::new();
        let mut at = dir;
        let mut fd = loop {
            match &at.at {
                None => break self.lower_fds[at.layer as usize].clone(),
                Some((parent, name)) => {
                    if let Some(fd) = self.nodes.fds.get(at.id) {
                        break fd;
                    }
                    to_open.push((at.id, name));
                    at = parent;
                }
            }
        };
        for (id, name) in to_open.into_iter().rev() {
            fd = Arc::new(dirfd::open_dir(&*fd, name)?);
            self.nodes.fds.put(id, fd.clone());
        }
        Ok(fd)
    }

    /// A descriptor (`O_PATH`) of a layer's file.
    pub(super) fn lower_file_fd(&self, file: &LowerFile) -> Result<Arc<OwnedFd>> {
        match file {
            LowerFile::Plain(file) => {
                let dir = self.plain_fd(&file.dir)?;
                Ok(Arc::new(dirfd::open_path(&*dir, &file.name)?))
            }
            LowerFile::Indexed { at, .. } => self.indexed_file_fd(*at),
        }
    }

    /// A descriptor (`O_PATH`) of a directory's part in the upper directory, which it must have.
    pub(super) fn upper_fd(&self, dir: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        let mut to_open = Vec::new();
        let mut at = dir.clone();
        let mut fd = loop {
            if at.ino == super::inode_table::ROOT {
                break self.writable()?.root.clone();
            }
            if let Some(fd) = self.nodes.fds.get(at.id) {
                break fd;
            }
            if let Some(DirPlace {
                upper: DirUpper::Removed(fd),
                ..
            }) = at.dir()
            {
                break fd;
            }
            let (parent, name) = self.first_name(&at).ok_or(Error::NotFound)?;
            to_open.push((at.id, name));
            at = parent;
        };
        for (id, name) in to_open.into_iter().rev() {
            fd = Arc::new(dirfd::open_dir(&*fd, &name)?);
            self.nodes.fds.put(id, fd.clone());
        }
        Ok(fd)
    }

    /// A name that a node is known under.
    pub(super) fn first_name(&self, node: &Node) -> Option<(Arc<Node>, Name)> {
        let table = self.nodes.table.lock();
        let (parent, name) = table.names(node.ino).first()?;
        Some((table.get(*parent)?.clone(), name.clone()))
    }

    /// A descriptor (`O_PATH`) of a node, wherever it is; a symlink as itself.
    pub(super) fn path_fd(&self, node: &Arc<Node>) -> Result<Arc<OwnedFd>> {
        match node.place() {
            Place::Held(fd, _) => Ok(fd),
            Place::Lower(file) => self.lower_file_fd(&file),
            Place::Upper(_) => {
                let (parent, name) = self.first_name(node).ok_or(Error::Stale)?;
                Ok(Arc::new(dirfd::open_path(
                    &*self.upper_fd(&parent)?,
                    &name,
                )?))
            }
            Place::Dir(dir) => match dir.upper {
                DirUpper::Present => self.upper_fd(node),
                DirUpper::Removed(fd) => Ok(fd),
                DirUpper::Absent => {
                    let first = dir.lowers.first().ok_or(Error::Stale)?;
                    self.lower_fd(first)
                }
            },
        }
    }

    /// The attributes of a node.
    pub(super) fn attr_of(&self, node: &Arc<Node>) -> Result<Attr> {
        let on_disk = |stat: Stat| Attr::new(node.ino, &stat);
        let attr = match node.place() {
            Place::Held(fd, _) => on_disk(rustix::fs::fstat(&*fd)?),
            Place::Lower(LowerFile::Indexed { at, .. }) => self.indexed_attr(at)?,
            Place::Lower(LowerFile::Plain(file)) => {
                let dir = self.plain_fd(&file.dir)?;
                on_disk(dirfd::stat_at(&*dir, &file.name)?)
            }
            Place::Upper(_) => {
                let (parent, name) = self.first_name(node).ok_or(Error::Stale)?;
                on_disk(dirfd::stat_at(&*self.upper_fd(&parent)?, &name)?)
            }
            Place::Dir(dir) => match (&dir.upper, dir.lowers.first().map(|dir| &**dir)) {
                (DirUpper::Absent, Some(LowerDir::Indexed(at))) => self.indexed_attr(*at)?,
                _ => on_disk(rustix::fs::fstat(&*self.path_fd(node)?)?),
            },
        };
        let attr = self.with_kept(node, attr)?;
        Ok(self.attr_from(node, attr))
    }
}
