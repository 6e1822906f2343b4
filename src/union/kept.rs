//! Owner and mode that are kept in an attribute and not in the inode (`xattr_permissions`, Podman's
//! `force_mask`): for file systems and users that cannot give files away.
//!
//! A layer whose root has such an attribute has them on its regular files and directories (others
//! take no `user` attributes); a file without one shows what its inode has. In the upper directory changes of owner and
//! mode then go to the attribute, and the inode stays the server's own. Access control lists are
//! not known in such a view: they would speak of another mode.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Stat, XattrFlags};
use rustix::io::Errno;

use super::attr::{Attr, Kind};
use super::copy_data::{copy_xattrs, times_of};
use super::error::Result;
use super::fs::{Union, Upper};
use super::layers::{LowerDir, LowerFile};
use super::node::{DirUpper, Node, Place};
use super::owner::{OVERRIDES, Permissions};
use crate::sys::dirfd;

/// The name of the attribute.
type Keeper = &'static [u8];

/// Which attribute the files of each directory have.
#[derive(Debug, Default)]
pub(super) struct Keepers {
    upper: Option<Keeper>,
    lowers: Vec<Option<Keeper>>,
    /// Whether there is any.
    pub(super) any: bool,
}

/// The value of the attribute: `UID:GID:MODE[:TYPE]`, the mode in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    uid: u32,
    gid: u32,
    mode: u32,
}

impl Kept {
    /// `None` if it is malformed.
    fn parse(value: &[u8]) -> Option<Kept> {
        let mut parts = std::str::from_utf8(value).ok()?.split(':');
        let uid = parts.next()?.parse().ok()?;
        let gid = parts.next()?.parse().ok()?;
        let mode = u32::from_str_radix(parts.next()?, 8).ok()?;
        Some(Kept {
            uid,
            gid,
            mode: mode & 0o7777,
        })
    }

    fn of(stat: &Stat) -> Kept {
        Kept {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
        }
    }

    fn to_value(self, kind: Kind) -> String {
        let Kept { uid, gid, mode } = self;
        let kind = match kind {
            Kind::File => "file",
            Kind::Directory => "dir",
            _ => return format!("{uid}:{gid}:{mode:04o}"),
        };
        format!("{uid}:{gid}:{mode:04o}:{kind}")
    }
}

impl Keepers {
    /// Whether owners and modes in the upper directory are other ones than the disk's.
    pub(super) fn in_upper(&self) -> bool {
        self.upper.is_some()
    }

    /// Looks at the roots. The upper directory has what was asked for, and is marked with it.
    pub(super) fn find(
        upper: Option<&Upper>,
        lowers: &[std::sync::Arc<OwnedFd>],
        permissions: Permissions,
    ) -> Result<Keepers> {
        let asked = match permissions {
            Permissions::OnDisk => None,
            Permissions::Privileged => Some(OVERRIDES[0]),
            Permissions::Containers => Some(OVERRIDES[1]),
        };
        let upper = match (upper.map(|upper| &*upper.root), asked) {
            (None, _) => None,
            (Some(root), None) => of_root(root)?,
            (Some(root), Some(keeper)) => {
                if dirfd::get_xattr_fd(root, keeper)?.is_none() {
                    let kept = Kept::of(&rustix::fs::fstat(root)?);
                    write(root, keeper, kept, Kind::Directory)?;
                }
                Some(keeper)
            }
        };
        let lowers = lowers.iter().map(|root| of_root(root));
        let lowers: Vec<_> = lowers.collect::<Result<_>>()?;
        Ok(Keepers {
            any: upper.is_some() || lowers.iter().any(Option::is_some),
            upper,
            lowers,
        })
    }
}

fn of_root(root: impl AsFd) -> Result<Option<Keeper>> {
    for keeper in OVERRIDES {
        if dirfd::get_xattr_fd(&root, keeper)?.is_some() {
            return Ok(Some(keeper));
        }
    }
    Ok(None)
}

fn takes_attribute(kind: Kind) -> bool {
    matches!(kind, Kind::File | Kind::Directory)
}

fn write(fd: impl AsFd, keeper: Keeper, kept: Kept, kind: Kind) -> Result<()> {
    let value = kept.to_value(kind);
    Ok(dirfd::set_xattr_fd(
        fd,
        keeper,
        value.as_bytes(),
        XattrFlags::empty(),
    )?)
}

/// Gives a stat what an attribute says of its file.
fn apply(keeper: Option<Keeper>, fd: impl AsFd, mut stat: Stat) -> Result<Stat> {
    let Some(keeper) = keeper.filter(|_| takes_attribute(Kind::from_mode(stat.st_mode))) else {
        return Ok(stat);
    };
    if let Some(value) = dirfd::get_xattr_fd(fd, keeper)? {
        // Not guessed: it may be the one thing that keeps a file from everybody.
        let kept = Kept::parse(&value).ok_or(Errno::IO)?;
        stat.st_uid = kept.uid;
        stat.st_gid = kept.gid;
        stat.st_mode = (stat.st_mode & !0o7777) | kept.mode;
    }
    Ok(stat)
}

impl Union {
    /// Whether the modes of files are not all those of their inodes.
    pub(super) fn keeps_modes_aside(&self) -> bool {
        self.keepers.any
    }

    /// The attribute that a node's file has at its place now.
    fn keeper_of(&self, node: &Node) -> Option<Keeper> {
        let of_layer = |layer: u32| self.keepers.lowers.get(layer as usize).copied().flatten();
        match node.place() {
            Place::Upper(_) | Place::Held(..) => self.keepers.upper,
            Place::Lower(LowerFile::Plain(file)) => of_layer(file.dir.layer),
            Place::Lower(LowerFile::Indexed { .. }) => None,
            Place::Dir(dir) => match (&dir.upper, dir.lowers.first().map(|dir| &**dir)) {
                (DirUpper::Absent, Some(LowerDir::Plain(dir))) => of_layer(dir.layer),
                (DirUpper::Absent, _) => None,
                (DirUpper::Present | DirUpper::Removed(_), _) => self.keepers.upper,
            },
        }
    }

    /// What is known of a node whose inode is known. Needs the tree lock.
    pub(super) fn with_kept(&self, node: &std::sync::Arc<Node>, attr: Attr) -> Result<Attr> {
        if !self.keepers.any {
            return Ok(attr);
        }
        let Some(keeper) = self.keeper_of(node) else {
            return Ok(attr);
        };
        let fd = self.path_fd(node)?;
        let stat = apply(Some(keeper), &*fd, rustix::fs::fstat(&*fd)?)?;
        Ok(Attr {
            uid: stat.st_uid,
            gid: stat.st_gid,
            mode: stat.st_mode & 0o7777,
            ..attr
        })
    }

    /// The stat of a node's file, given a descriptor of it.
    pub(super) fn stat_with_kept(&self, node: &Node, fd: impl AsFd) -> Result<Stat> {
        let stat = rustix::fs::fstat(&fd)?;
        apply(self.keeper_of(node), fd, stat)
    }

    /// The stat of something in the upper directory.
    pub(super) fn upper_stat(&self, fd: impl AsFd) -> Result<Stat> {
        let stat = rustix::fs::fstat(&fd)?;
        apply(self.keepers.upper, fd, stat)
    }

    /// Changes the owner of something in the upper directory, which takes a program's set-ID bits.
    pub(super) fn set_owner(
        &self,
        fd: impl AsFd,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<()> {
        let Some(keeper) = self.keepers.upper else {
            return Ok(dirfd::chown_fd(fd, uid, gid)?);
        };
        let stat = self.upper_stat(&fd)?;
        let kind = Kind::from_mode(stat.st_mode);
        if !takes_attribute(kind) {
            return chown_if_allowed(fd, uid, gid);
        }
        let mut kept = Kept::of(&stat);
        kept.uid = uid.unwrap_or(kept.uid);
        kept.gid = gid.unwrap_or(kept.gid);
        if kind == Kind::File {
            kept.mode = without_set_id(kept.mode);
        }
        write(fd, keeper, kept, kind)
    }

    /// Changes the mode of something in the upper directory.
    pub(super) fn set_mode(&self, fd: impl AsFd, mode: u32) -> Result<()> {
        let Some(keeper) = self.keepers.upper else {
            return Ok(dirfd::chmod_fd(fd, mode)?);
        };
        let stat = self.upper_stat(&fd)?;
        let kind = Kind::from_mode(stat.st_mode);
        if !takes_attribute(kind) {
            return Ok(dirfd::chmod_fd(fd, mode)?);
        }
        let kept = Kept {
            mode: mode & 0o7777,
            ..Kept::of(&stat)
        };
        write(fd, keeper, kept, kind)
    }

    /// Gives something new its owner and mode; a symlink its owner.
    pub(super) fn give(&self, fd: impl AsFd, uid: u32, gid: u32, mode: u32) -> Result<()> {
        let kind = Kind::from_mode(rustix::fs::fstat(&fd)?.st_mode);
        match self.keepers.upper {
            Some(keeper) if takes_attribute(kind) => {
                // The server must get at it, whatever it is to be for others.
                let own = if kind == Kind::Directory {
                    0o700
                } else {
                    0o600
                };
                dirfd::chmod_fd(&fd, (mode & 0o777) | own)?;
                write(fd, keeper, Kept { uid, gid, mode }, kind)
            }
            keeper => {
                match keeper {
                    Some(_) => chown_if_allowed(&fd, Some(uid), Some(gid))?,
                    None => dirfd::chown_fd(&fd, Some(uid), Some(gid))?,
                }
                // After the change of owner, which clears the set-ID bits.
                match kind {
                    Kind::Symlink => Ok(()),
                    _ => Ok(dirfd::chmod_fd(fd, mode)?),
                }
            }
        }
    }

    /// Copies owner, mode, extended attributes (ACLs and capabilities among them) and times to the
    /// upper directory, by a `stat` of the source with what was kept of it. Both may be `O_PATH`.
    /// The union's own attributes are not copied: they are about the place, not the file.
    pub(super) fn copy_metadata(
        &self,
        source: impl AsFd,
        stat: &Stat,
        target: impl AsFd,
    ) -> Result<()> {
        if self.keepers.upper.is_some() {
            self.give(&target, stat.st_uid, stat.st_gid, stat.st_mode & 0o7777)?;
            copy_xattrs(source, &target)?;
        } else {
            // First the owner: a change of owner clears capabilities and the set-ID bits.
            dirfd::chown_fd(&target, Some(stat.st_uid), Some(stat.st_gid))?;
            copy_xattrs(source, &target)?;
            if Kind::from_mode(stat.st_mode) != Kind::Symlink {
                dirfd::chmod_fd(&target, stat.st_mode)?;
            }
        }
        Ok(dirfd::set_times_fd(target, &times_of(stat))?)
    }

    /// Takes the set-user-ID bit off a file of the upper directory, and the set-group-ID bit where
    /// the group may execute it.
    pub(super) fn drop_set_id(&self, file: &OwnedFd) -> Result<()> {
        let mode = self.upper_stat(file)?.st_mode & 0o7777;
        match without_set_id(mode) {
            kept if kept == mode => Ok(()),
            kept => self.set_mode(file, kept),
        }
    }
}

fn without_set_id(mode: u32) -> u32 {
    mode & !0o4000 & if mode & 0o010 != 0 { !0o2000 } else { !0 }
}

/// Of what takes no attribute: to whom a symlink or a pipe belongs is not worth an error.
fn chown_if_allowed(fd: impl AsFd, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    match dirfd::chown_fd(fd, uid, gid) {
        Ok(()) | Err(Errno::PERM | Errno::INVAL) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let kept = |uid, gid, mode| Some(Kept { uid, gid, mode });
        let table: [(&str, Option<Kept>); 9] = [
            ("0:0:0755", kept(0, 0, 0o755)),
            ("7:8:04755:file", kept(7, 8, 0o4755)),
            ("7:8:1777:dir", kept(7, 8, 0o1777)),
            ("7:8:040755:dir", kept(7, 8, 0o755)),
            ("7:8:644:char-1-3", kept(7, 8, 0o644)),
            ("7:8", None),
            ("7:8:9", None),
            ("-1:8:644", None),
            ("", None),
        ];
        for (value, expected) in table {
            assert_eq!(Kept::parse(value.as_bytes()), expected, "{value}");
        }
        let kept = kept(7, 8, 0o4711).unwrap();
        assert_eq!(kept.to_value(Kind::File), "7:8:4711:file");
        assert_eq!(kept.to_value(Kind::CharDevice), "7:8:4711");
        let plain = Kept { mode: 0o5, ..kept };
        assert_eq!(plain.to_value(Kind::Directory), "7:8:0005:dir");
    }
}
