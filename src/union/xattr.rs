//! Extended attributes, on inodes of all types, without following symlinks.
//!
//! Everything goes through the magic link of a descriptor, never through a path that could lead
//! into the view itself. The union's own attributes are neither shown nor to be set.

use std::sync::atomic::Ordering;

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::attr::Kind;
use super::copy_up::Content;
use super::create::DEFAULT_ACL;
use super::error::{Error, Result};
use super::fs::Union;
use super::indexed::{Known, whole};
use super::layers::SELINUX;
use crate::model::xattr::is_private;
use crate::sys::dirfd;

const CAPABILITY: &[u8] = b"security.capability";

impl Union {
    /// Whether the view has attributes of this name, unless it is told to know none.
    ///
    /// It has no SELinux labels: where there is SELinux, the kernel labels what is in a FUSE mount
    /// itself, and never asks. Where there is none, programs ask for each file (`ls -l` does) until
    /// they are told, once, that there are none to be had.
    fn check_xattr(&self, name: &[u8]) -> Result<()> {
        let is_acl = name.starts_with(b"system.posix_acl_");
        match self.options.no_xattrs || name == SELINUX || (is_acl && !self.knows_acls()) {
            true => Err(Error::NotSupported),
            false => Ok(()),
        }
    }

    /// The value of an attribute.
    pub fn getxattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>> {
        self.check_xattr(name)?;
        if is_private(name) {
            return Err(Error::NoAttribute);
        }
        let _tree = self.tree.read();
        let node = match self.known(ino)? {
            Known::Indexed(index, at) => {
                let value = index.xattr(at, name).map(<[u8]>::to_vec);
                return whole(index, value)?.ok_or(Error::NoAttribute);
            }
            Known::Node(node) => node,
        };
        // Asked by the kernel before the first write, and before each change of owner.
        let is_capability = name == CAPABILITY && node.kind == Kind::File;
        if is_capability && node.lacks.load(Ordering::Relaxed) {
            return Err(Error::NoAttribute);
        }
        let unchanging = node.copy_up.try_lock();
        let fd = self.path_fd(&node)?;
        // Here "not supported" is an answer of its own.
        match dirfd::ask_xattr_fd(&*fd, name) {
            Err(Errno::NODATA) => {
                if is_capability && unchanging.is_some() {
                    node.lacks.store(true, Ordering::Relaxed);
                }
                Err(Error::NoAttribute)
            }
            other => Ok(other?),
        }
    }

    /// The names of all attributes, each followed by a NUL.
    pub fn listxattr(&self, ino: u64) -> Result<Vec<u8>> {
        let _tree = self.tree.read();
        let node = match self.known(ino)? {
            Known::Indexed(index, at) => {
                let names = index.xattrs(at).map(|(name, _)| name);
                let names = names.filter(|name| self.check_xattr(name).is_ok());
                let list = names.flat_map(|name| [name, &b"\0"[..]].concat()).collect();
                return whole(index, list);
            }
            Known::Node(node) => node,
        };
        let fd = self.path_fd(&node)?;
        let mut list = Vec::new();
        for name in dirfd::list_xattrs_fd(&*fd)? {
            if !is_private(&name) && self.check_xattr(&name).is_ok() {
                list.extend_from_slice(&name);
                list.push(0);
            }
        }
        Ok(list)
    }

    /// Sets an attribute, with the flags of `setxattr(2)`; the copy-up comes first.
    pub fn setxattr(&self, ino: u64, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        self.writable()?;
        self.check_xattr(name)?;
        if is_private(name) {
            return Err(Error::Reserved);
        }
        let node = self.node(ino)?;
        self.copy_up(&node, Content::Metadata)?;
        let _changing = node.copy_up.lock();
        let _tree = self.tree.read();
        if name == CAPABILITY || name == DEFAULT_ACL {
            node.lacks.store(false, Ordering::Relaxed);
        }
        Ok(dirfd::set_xattr_fd(
            &*self.path_fd(&node)?,
            name,
            value,
            flags,
        )?)
    }

    /// Removes an attribute; the copy-up comes first.
    pub fn removexattr(&self, ino: u64, name: &[u8]) -> Result<()> {
        self.writable()?;
        // No copy-up only to find that there is nothing to remove: the kernel asks for
        // security.capability before every change of owner.
        self.getxattr(ino, name)?;
        let node = self.node(ino)?;
        self.copy_up(&node, Content::Metadata)?;
        let _changing = node.copy_up.lock();
        let _tree = self.tree.read();
        Ok(dirfd::remove_xattr_fd(&*self.path_fd(&node)?, name)?)
    }
}
