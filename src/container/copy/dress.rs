//! Owner, mode, extended attributes and time of a copy.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Stat, Timespec, Timestamps, UTIME_NOW, XattrFlags};
use rustix::io::Errno;

use super::Owner;
use crate::model::tar::Entry;
use crate::model::xattr::is_private;
use crate::sys::dirfd::{
    chmod_fd, chown_fd, get_xattr_fd, list_xattrs_fd, set_times_fd, set_xattr_fd,
};

/// What an original has, of which its copy gets some.
#[derive(Debug)]
pub(super) struct Dress {
    owner: (u32, u32),
    /// `None` for a symbolic link, which has none.
    mode: Option<u32>,
    mtime: Timespec,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What could not be done.
pub(super) type Failed = (&'static str, io::Error);

fn failed<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> Failed {
    move |e| (action, e.into())
}

impl Dress {
    /// That of an inode, open as a location.
    pub(super) fn of(fd: &OwnedFd, stat: &Stat) -> Result<Dress, Failed> {
        const READ: &str = "read the attributes of what is copied to";
        let mut xattrs = Vec::new();
        for name in list_xattrs_fd(fd).map_err(failed(READ))? {
            if let Some(value) = get_xattr_fd(fd, &name).map_err(failed(READ))? {
                xattrs.push((name, value));
            }
        }
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        Ok(Dress {
            owner: (stat.st_uid, stat.st_gid),
            mode: (!is_link).then_some(stat.st_mode),
            mtime: Timespec {
                tv_sec: stat.st_mtime,
                tv_nsec: stat.st_mtime_nsec as _,
            },
            xattrs,
        })
    }

    /// That of an entry of a tar.
    pub(super) fn of_entry(entry: &Entry) -> Result<Dress, Failed> {
        // The last number means "leave it" to chown.
        let id = |n: i64| u32::try_from(n).ok().filter(|n| *n != u32::MAX);
        let owner = id(entry.uid).zip(id(entry.gid));
        let owner = owner.ok_or(Errno::INVAL);
        Ok(Dress {
            owner: owner.map_err(failed("set the owner of"))?,
            mode: (entry.kind != crate::model::tar::Kind::Symlink).then_some(entry.mode),
            mtime: Timespec {
                tv_sec: entry.mtime.seconds,
                tv_nsec: entry.mtime.nanos.into(),
            },
            xattrs: entry.xattrs.clone(),
        })
    }

    /// Give it to a copy. In this order: chown clears set-user-ID and capabilities.
    pub(super) fn put_on(&self, made: &OwnedFd, owner: Owner) -> Result<(), Failed> {
        let ids = match owner {
            Owner::Kept => Some(self.owner),
            Owner::Root => Some((0, 0)),
            Owner::Caller => None,
        };
        if let Some((uid, gid)) = ids {
            chown_fd(made, Some(uid), Some(gid)).map_err(failed("set the owner of"))?;
        }
        if let Some(mode) = self.mode {
            chmod_fd(made, mode).map_err(failed("set the mode of"))?;
        }
        for (name, value) in self
            .xattrs
            .iter()
            .filter(|(name, _)| is_copied(name, owner))
        {
            match set_xattr_fd(made, name, value, XattrFlags::empty()) {
                // Not of this filesystem, or not for this user: as Docker, go on without.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(e) => return Err(failed("set the attributes of")(e)),
            }
        }
        let times = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            },
            last_modification: self.mtime,
        };
        set_times_fd(made, &times).map_err(failed("set the time of"))
    }
}

/// Access lists name users, who are others on the other side.
fn is_copied(name: &[u8], owner: Owner) -> bool {
    if is_private(name) || name == b"security.selinux" {
        return false;
    }
    owner == Owner::Kept || name == b"security.capability" || name.starts_with(b"user.")
}
