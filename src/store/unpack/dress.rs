//! Dressing what was put into the tree: owner, mode, attributes, times.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, statat, utimensat,
};
use rustix::io::Errno;

use super::error::{SET_OWNER, Trouble, refused, with};
use crate::model::tar::{Entry, Kind, Time, shown};
use crate::model::xattr::is_private;
use crate::sys::dirfd::set_xattr_at;

/// Left to the end, see [`later`](super::later).
pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

pub(super) fn times(mtime: Time) -> Timestamps {
    let time = Timespec {
        tv_sec: mtime.seconds,
        tv_nsec: mtime.nanos.into(),
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

fn owner(entry: &Entry) -> Result<(Option<Uid>, Option<Gid>), Trouble> {
    // The last number means "leave it" to chown.
    let id = |n: i64| u32::try_from(n).ok().filter(|n| *n != u32::MAX);
    match (id(entry.uid), id(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))),
        _ => refused(format!("an impossible owner, {}:{}", entry.uid, entry.gid)),
    }
}

/// Owner, mode, attributes of an open file or directory. In this order: chown clears suid and
/// capabilities, and an access ACL says more than the mode does.
pub(super) fn dress_fd(fd: &OwnedFd, entry: &Entry) -> Result<(), Trouble> {
    let (uid, gid) = owner(entry)?;
    fchown(fd, uid, gid).map_err(with(SET_OWNER))?;
    fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(with("set the mode"))?;
    for (key, value) in &entry.xattrs {
        if !is_private(key) && key != DEFAULT_ACL {
            let set = fsetxattr(fd, key.as_slice(), value, XattrFlags::empty());
            xattr_result(set, key)?;
        }
    }
    Ok(())
}

/// The same for what cannot be opened, and its times.
pub(super) fn dress_at(at: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Trouble> {
    let (uid, gid) = owner(entry)?;
    chownat(at, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW).map_err(with(SET_OWNER))?;
    if entry.kind != Kind::Symlink {
        // It was just made and nobody else changes the tree: there is no link to follow.
        chmodat(at, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(with("set the mode"))?;
    }
    for (key, value) in &entry.xattrs {
        if !is_private(key) {
            xattr_result(set_xattr_at(at, name, key, value), key)?;
        }
    }
    utimensat(at, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(with("set the times"))
}

fn xattr_result(result: rustix::io::Result<()>, key: &[u8]) -> Result<(), Trouble> {
    match result {
        Err(Errno::OPNOTSUPP | Errno::PERM) if key == b"security.selinux" => Ok(()),
        other => other.map_err(with(&format!("set its attribute {}", shown(key)))),
    }
}

/// A parent that the tar does not have: root's, whatever it would inherit from the directory it is in, but for the
/// setgid bit, which Docker leaves as the kernel made it.
pub(super) fn dress_new_parent(at: BorrowedFd<'_>, name: &[u8]) -> Result<(), Trouble> {
    let made = statat(at, name, AtFlags::SYMLINK_NOFOLLOW).map_err(with("look at it"))?;
    let mode = Mode::from_raw_mode(made.st_mode) & Mode::SGID | Mode::from_raw_mode(0o755);
    chownat(
        at,
        name,
        Some(Uid::ROOT),
        Some(Gid::ROOT),
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(with(SET_OWNER))?;
    chmodat(at, name, mode, AtFlags::empty()).map_err(with("set the mode"))
}
