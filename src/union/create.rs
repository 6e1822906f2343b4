//! Making files, directories, symlinks and devices.
//!
//! What one system call can make with its owner and mode is made under its name. All else is made in
//! the work directory and moved into place by one rename: nobody sees it half made, a crash leaves it
//! out, and a whiteout in its place is replaced at once, so that what it hid never shows through. The
//! server's own umask has no influence.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::{FileType, Mode, OFlags, RenameFlags, Stat, XattrFlags};
use rustix::io::Errno;

use super::attr::{Attr, Caller, Kind, STORED_NULL_DEVICE};
use super::error::{Error, Result};
use super::fs::{Entry, Server, Union, Upper};
use super::inode_table::Name;
use super::node::{Node, NodeRef};
use super::owner::NOBODY;
use super::resolve::Shown;
use super::whiteout::Cover;
use crate::sys::dirfd;

const S_ISGID: u32 = 0o2000;
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

/// What to make.
#[derive(Debug, Clone, Copy)]
pub enum What<'a> {
    /// An empty regular file.
    File,
    /// A directory.
    Directory,
    /// A symlink with that target.
    Symlink(&'a [u8]),
    /// A named pipe, socket or device with that number in the kernel's 32-bit form.
    Node(Kind, u32),
}

/// The name, owner and mode of something new.
#[derive(Debug, Clone, Copy)]
pub struct NewEntry<'a> {
    /// The directory it goes into.
    pub parent: u64,
    /// Its name.
    pub name: &'a [u8],
    /// Its owner; the group is the parent's if that is set-group-ID.
    pub caller: Caller,
    /// Its mode, before the umask.
    pub mode: u32,
    /// Taken off the mode, unless the parent has a default ACL.
    pub umask: u32,
}

/// Something new in the work directory, on its way to its name.
struct Made {
    /// Its name there.
    name: Name,
    /// A regular file, open for reading and writing; `O_PATH` of anything else.
    fd: OwnedFd,
}

impl Union {
    /// Makes something new; `EEXIST` if the name shows anything.
    pub fn make(&self, new: &NewEntry<'_>, what: What<'_>) -> Result<Entry> {
        let _tree = self.tree.write();
        let (node, attr, file) = self.make_locked(new, what)?;
        if let Some(file) = file {
            // It is most likely written at once.
            self.nodes.files.put(node.file_key(true), file);
        }
        let node = node.number();
        Ok(Entry { node, attr })
    }

    /// As [`make`](Self::make), under the tree lock. Gives the descriptor of a regular file.
    pub(super) fn make_locked(
        &self,
        new: &NewEntry<'_>,
        what: What<'_>,
    ) -> Result<(NodeRef, Attr, Option<Arc<OwnedFd>>)> {
        self.check_new_name(new.name)?;
        let upper = self.writable()?;
        let new = &NewEntry {
            caller: self.owner_on_disk(new.caller),
            ..*new
        };
        let what = match what {
            // It would be taken for a whiteout.
            What::Node(Kind::CharDevice, 0) => What::Node(Kind::CharDevice, STORED_NULL_DEVICE),
            What::Node(Kind::CharDevice, STORED_NULL_DEVICE) => return Err(Error::Reserved),
            other => other,
        };
        let parent = self.node(new.parent)?;
        if parent.is_gone() {
            return Err(Error::NotFound);
        }
        if let Some((node, stat, file)) = self.make_at_once(upper, &parent, new, what)? {
            let attr = self.attr_from(&node, Attr::new(node.ino, &stat));
            return Ok((node, attr, file.map(Arc::new)));
        }
        if self.lookup_child_opt(&parent, new.name)?.is_some() {
            return Err(Error::Exists);
        }
        self.copy_up_dirs(&parent)?;
        let dir = self.upper_fd(&parent)?;
        // Of what shows nothing, the upper directory can only have a whiteout.
        let cover = self.cover_of(&dir, new.name)?;
        let acl = match what {
            What::Symlink(_) => None,
            What::File | What::Directory | What::Node(..) => self.default_acl(&parent, &dir)?,
        };
        let made = self.make_in_work(upper, &dir, new, what, acl)?;
        let is_dir = matches!(what, What::Directory);
        let placed = self.place(upper, &made.name, &dir, new.name, cover, is_dir);
        if placed.is_err() {
            upper.work.discard(&made.name);
        }
        placed?;
        let node = self.intern_new(&parent, new.name, rustix::fs::fstat(&made.fd)?);
        let attr = self.attr_of(&node)?;
        let file = matches!(what, What::File).then(|| Arc::new(made.fd));
        Ok((node, attr, file))
    }

    /// Makes something under its name if a single call does it, with its owner and mode: nobody, and
    /// no crash, ever finds it otherwise. `None` if it does not, or if the name is not free. Gives the
    /// descriptor of a regular file, too. Needs the tree lock exclusively.
    fn make_at_once(
        &self,
        upper: &Upper,
        parent: &Arc<Node>,
        new: &NewEntry<'_>,
        what: What<'_>,
    ) -> Result<Option<(NodeRef, Stat, Option<OwnedFd>)>> {
        let Server { uid, gid, umask } = upper.server;
        let mode = new.mode & !new.umask & 0o7777;
        let is_link = matches!(what, What::Symlink(_));
        // In a set-group-ID directory the disk gives its group, as it should.
        let is_owned = new.caller.uid == uid && new.caller.gid == gid;
        let is_made_so = is_link || mode & umask == 0;
        if !is_owned || !is_made_so || self.keepers.in_upper() || !parent.is_upper() {
            return Ok(None);
        }
        let place = parent.dir().ok_or(Error::NotADirectory)?;
        let dir = self.upper_fd(parent)?;
        let is_hidden = self.hides(&dir, new.name)?;
        if is_hidden || !matches!(self.lowers_show(&place, new.name)?, Shown::Nothing) {
            return Ok(None);
        }
        if !is_link && self.default_acl(parent, &dir)?.is_some() {
            return Ok(None);
        }
        // What the upper directory has, be it a whiteout, is in the way: EEXIST.
        let made = match what {
            What::File => make_file(&*dir, new.name, mode).map(Some),
            other => make_other(&*dir, new.name, mode, other).map(|()| None),
        };
        let file = match made {
            Ok(file) => file,
            Err(Errno::EXIST) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let stat = match &file {
            Some(file) => rustix::fs::fstat(file)?,
            None => dirfd::stat_at(&*dir, new.name)?,
        };
        let node = self.intern_new(parent, new.name, stat);
        if file.is_some() {
            // No security.capability.
            node.lacks.store(true, Ordering::Relaxed);
        }
        Ok(Some((node, stat, file)))
    }

    /// The default ACL of a directory. Needs the tree lock exclusively.
    fn default_acl(&self, node: &Node, dir: &OwnedFd) -> Result<Option<Vec<u8>>> {
        if !self.knows_acls() || node.lacks.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let acl = dirfd::get_xattr_fd(dir, DEFAULT_ACL)?;
        node.lacks.store(acl.is_none(), Ordering::Relaxed);
        Ok(acl)
    }

    /// Makes something in the work directory, with owner and mode, in place of a directory with that
    /// default ACL.
    fn make_in_work(
        &self,
        upper: &Upper,
        dir: &OwnedFd,
        new: &NewEntry<'_>,
        what: What<'_>,
        acl: Option<Vec<u8>>,
    ) -> Result<Made> {
        let work = &upper.work;
        let name = work.fresh();
        let has_acl = acl.is_some();
        let made = match acl {
            None => make_node(work, &name, new.mode & !new.umask, what),
            Some(acl) => {
                // The kernel knows best how an ACL is inherited: let it happen in a directory
                // with the parent's default ACL.
                let nursery = work.fresh();
                rustix::fs::mkdirat(work, &*nursery, Mode::RWXU)?;
                let made = dirfd::open_dir(work, &nursery)
                    .map_err(Error::from)
                    .and_then(|inside| {
                        dirfd::set_xattr_fd(&inside, DEFAULT_ACL, &acl, XattrFlags::empty())?;
                        let made = make_node(&inside, &name, new.mode, what)?;
                        rustix::fs::renameat(inside, &*name, work, &*name)?;
                        Ok(made)
                    });
                work.discard(&nursery);
                made
            }
        };
        let finished = made.and_then(|fd| {
            self.finish(&fd, dir, new, what, has_acl)?;
            Ok(fd)
        });
        match finished {
            Ok(fd) => Ok(Made { name, fd }),
            Err(e) => {
                work.discard(&name);
                Err(e)
            }
        }
    }

    /// Sets owner and mode of what has just been made, in a directory that has a default ACL or not.
    fn finish(
        &self,
        made: &OwnedFd,
        dir: &OwnedFd,
        new: &NewEntry<'_>,
        what: What<'_>,
        has_acl: bool,
    ) -> Result<()> {
        let parent = self.upper_stat(dir)?;
        let inherits = parent.st_mode & S_ISGID != 0;
        let gid = if inherits {
            parent.st_gid
        } else {
            new.caller.gid
        };
        let permissions = if has_acl {
            // As the ACL made it; a change would be one of its mask.
            rustix::fs::fstat(made)?.st_mode as u32 & 0o777
        } else {
            new.mode & !new.umask & 0o777
        };
        let mut special = new.mode & 0o7000;
        if inherits && matches!(what, What::Directory) {
            special |= S_ISGID;
        }
        self.give(made, new.caller.uid, gid, permissions | special)
    }

    /// Whose something new is on disk. Whoever has no place there makes files of nobody: that a
    /// file belongs to a stranger is better than that root outside cannot make one.
    fn owner_on_disk(&self, caller: Caller) -> Caller {
        let owners = &self.options.owners;
        Caller {
            uid: owners.uids.disk(caller.uid).unwrap_or(NOBODY),
            gid: owners.gids.disk(caller.gid).unwrap_or(NOBODY),
        }
    }

    /// Moves something made in the work directory to a name that shows nothing.
    pub(super) fn place(
        &self,
        upper: &Upper,
        temporary: &[u8],
        dir: &OwnedFd,
        name: &[u8],
        cover: Cover,
        is_dir: bool,
    ) -> Result<()> {
        let work = &upper.work;
        if is_dir && cover != Cover::None {
            self.make_opaque(&dirfd::open_dir(work, temporary)?)?;
        }
        if cover == Cover::Device && is_dir {
            // A directory cannot be renamed over the device node that a whiteout is.
            rustix::fs::renameat_with(work, temporary, dir, name, RenameFlags::EXCHANGE)?;
            work.discard(temporary);
        } else if cover == Cover::Device {
            rustix::fs::renameat(work, temporary, dir, name)?;
        } else {
            rustix::fs::renameat_with(work, temporary, dir, name, RenameFlags::NOREPLACE)?;
        }
        if cover == Cover::File {
            self.uncover(dir, name);
        }
        Ok(())
    }

    /// Opens a new regular file, or the one that is there unless `exclusive`.
    pub fn create(&self, new: &NewEntry<'_>, flags: OFlags) -> Result<(Entry, u64)> {
        let made = {
            let _tree = self.tree.write();
            self.make_locked(new, What::File)
        };
        let entry = match made {
            Ok((made, attr, Some(file))) => {
                let node = made.number();
                let handle = self.adopt_new_file(made, file);
                return Ok((Entry { node, attr }, handle));
            }
            Ok((node, attr, None)) => Entry {
                node: node.number(),
                attr,
            },
            // Another mount of the same name space cannot be, but two requests can.
            Err(Error::Exists) if !flags.contains(OFlags::EXCL) => {
                self.lookup(new.parent, new.name)?
            }
            Err(e) => return Err(e),
        };
        let handle = self.open(entry.node.ino(), flags, new.caller)?;
        Ok((entry, handle))
    }
}

/// Makes something and opens it: a regular file for reading and writing, anything else as a place.
fn make_node(dir: impl AsFd, name: &[u8], mode: u32, what: What<'_>) -> Result<OwnedFd> {
    let mode = mode & 0o777;
    match what {
        What::File => Ok(make_file(dir, name, mode)?),
        other => {
            make_other(&dir, name, mode, other)?;
            Ok(dirfd::open_path(dir, name)?)
        }
    }
}

fn make_file(dir: impl AsFd, name: &[u8], mode: u32) -> dirfd::Result<OwnedFd> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(mode);
    rustix::fs::openat(dir, name, flags | OFlags::NOFOLLOW, mode)
}

fn make_other(dir: impl AsFd, name: &[u8], mode: u32, what: What<'_>) -> dirfd::Result<()> {
    let mode = Mode::from_raw_mode(mode);
    match what {
        What::File => rustix::fs::mknodat(dir, name, FileType::RegularFile, mode, 0),
        What::Directory => rustix::fs::mkdirat(dir, name, mode),
        What::Symlink(target) => rustix::fs::symlinkat(target, dir, name),
        What::Node(kind, rdev) => {
            rustix::fs::mknodat(dir, name, kind.file_type(), mode, u64::from(rdev))
        }
    }
}
