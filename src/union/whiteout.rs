//! The forms of whiteouts and opaque marks on plain directories.
//!
//! overlayfs's own are known everywhere: a character device 0:0, an attribute on the directory. A
//! plain directory may have the other form as well, of AUFS and of layers' tars: an empty file
//! `.wh.NAME` hides what the layers below have as NAME, `.wh..wh..opq` in a directory all that they
//! have there. Podman unpacks layers in that form for a `mount_program`. In a view of plain
//! directories such names are neither shown nor to be made.
//!
//! A `.wh.NAME` hides nothing of its own directory. So it may stay where NAME is made again: a
//! directory NAME beside it is opaque, unless a redirect says where in the layers it belongs.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::fs::Union;
use super::inode_table::Name;
use super::layers::{PlainDir, is_whiteout};
use super::lookup::check_name;
use crate::sys::dirfd;

const PREFIX: &[u8] = b".wh.";
/// The file that makes its directory opaque.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The longest name.
const NAME_MAX: usize = 255;
/// What other programs mark opaque directories with.
const OPAQUE_XATTRS: [&[u8]; 3] = [
    b"trusted.overlay.opaque",
    b"user.overlay.opaque",
    b"user.fuseoverlayfs.opaque",
];

/// The name of the file that hides a name; `None` if it would be longer than names can be.
pub(super) fn hiding(name: &[u8]) -> Option<Name> {
    (PREFIX.len() + name.len() <= NAME_MAX).then(|| [PREFIX, name].concat().into())
}

/// Whether a name is one of this form's: of a whiteout, or of something else that AUFS keeps.
pub(super) fn is_mark(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// What a file of this name hides; nothing by itself if it is a mark of the whole directory.
pub(super) fn hidden(name: &[u8]) -> Option<&[u8]> {
    let name = name.strip_prefix(PREFIX)?;
    (!name.is_empty() && !is_mark(name)).then_some(name)
}

/// What the upper directory has in place of a name that shows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cover {
    /// Nothing.
    None,
    /// A device, under the name itself.
    Device,
    /// A file `.wh.NAME`.
    File,
}

impl Union {
    /// Refuses what cannot be the name of something new.
    pub(super) fn check_new_name(&self, name: &[u8]) -> Result<()> {
        check_name(name)?;
        match self.is_mark(name) {
            true => Err(Error::Invalid),
            false => Ok(()),
        }
    }

    /// Whether the view hides a name because it is a mark.
    pub(super) fn is_mark(&self, name: &[u8]) -> bool {
        self.options.plain && is_mark(name)
    }

    /// Whether a directory has a `.wh.NAME`.
    pub(super) fn hides(&self, dir: &OwnedFd, name: &[u8]) -> Result<bool> {
        match hiding(name).filter(|_| self.options.plain) {
            Some(mark) => Ok(dirfd::stat_at_opt(dir, &mark)?.is_some()),
            None => Ok(false),
        }
    }

    /// As [`hides`](Self::hides), of a layer's directory: read once, for layers do not change, and
    /// most have no such files.
    pub(super) fn layer_hides(&self, dir: &PlainDir, fd: &OwnedFd, name: &[u8]) -> Result<bool> {
        if !self.options.plain {
            return Ok(false);
        }
        let is_in = |names: &[Name]| names.binary_search_by(|n| (**n).cmp(name)).is_ok();
        if let Some(names) = dir.hidden.get() {
            return Ok(is_in(names));
        }
        let Ok(entries) = dirfd::read_dir(fd) else {
            // It may be one that may be searched but not read.
            return self.hides(fd, name);
        };
        let names = entries.iter().filter_map(|entry| hidden(&entry.name));
        let mut names: Box<[Name]> = names.map(Name::from).collect();
        names.sort_unstable();
        Ok(is_in(dir.hidden.get_or_init(|| names)))
    }

    /// What stands in the upper directory for a name that shows nothing.
    pub(super) fn cover_of(&self, dir: &OwnedFd, name: &[u8]) -> Result<Cover> {
        Ok(match dirfd::stat_at_opt(dir, name)? {
            Some(stat) if is_whiteout(&stat) => Cover::Device,
            Some(_) => return Err(Error::Exists),
            None if self.hides(dir, name)? => Cover::File,
            None => Cover::None,
        })
    }

    /// Removes a `.wh.NAME` that hides nothing any more. That it stays would do no harm.
    pub(super) fn uncover(&self, dir: &OwnedFd, name: &[u8]) {
        let Some(mark) = hiding(name).filter(|_| self.options.plain) else {
            return;
        };
        match rustix::fs::unlinkat(dir, &*mark, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => {
                let mark = String::from_utf8_lossy(&mark);
                tracing::warn!("cannot remove the whiteout {mark}: {e}");
            }
        }
    }

    /// Whether a directory is opaque.
    pub(super) fn is_opaque_fd(&self, dir: &OwnedFd) -> Result<bool> {
        let list = || dirfd::list_xattrs_fd(dir);
        if self.has_opaque_xattr(list, |name| dirfd::get_xattr_fd(dir, name))? {
            return Ok(true);
        }
        Ok(self.options.plain && dirfd::stat_at_opt(dir, OPAQUE)?.is_some())
    }

    /// Whether a directory in an open one is opaque, but for what stands beside it.
    pub(super) fn is_opaque_at(&self, dir: &OwnedFd, name: &[u8]) -> Result<bool> {
        let path = dirfd::proc_path_of(dir, name);
        let list = || dirfd::list_xattrs(&path);
        if self.has_opaque_xattr(list, |name| dirfd::get_xattr(&path, name))? {
            return Ok(true);
        }
        let mark = [name, b"/", OPAQUE].concat();
        Ok(self.options.plain && dirfd::stat_at_opt(dir, &mark)?.is_some())
    }

    fn has_opaque_xattr(
        &self,
        list: impl Fn() -> dirfd::Result<Vec<Vec<u8>>>,
        get: impl Fn(&[u8]) -> dirfd::Result<Option<Vec<u8>>>,
    ) -> Result<bool> {
        let is_set =
            |name: &[u8]| -> Result<bool> { Ok(get(name)?.is_some_and(|value| value == b"y")) };
        if !self.options.plain {
            return is_set(self.xattrs.opaque);
        }
        // One call instead of three for a directory that has none of them.
        for name in list()? {
            if OPAQUE_XATTRS.contains(&&*name) && is_set(&name)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes a directory opaque: in the other form where it takes no attributes.
    pub(super) fn make_opaque(&self, dir: &OwnedFd) -> Result<()> {
        match dirfd::set_xattr_fd(dir, self.xattrs.opaque, b"y", XattrFlags::empty()) {
            Err(Errno::PERM | Errno::OPNOTSUPP) if self.options.plain => {
                let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(dir, OPAQUE, flags, Mode::empty())?;
                Ok(())
            }
            other => Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_marks() {
        let table: [(&str, bool, Option<&str>); 8] = [
            ("a", false, None),
            (".wh", false, None),
            (".wh.", true, None),
            (".wh.a", true, Some("a")),
            (".wh..a", true, Some(".a")),
            (".wh..wh..opq", true, None),
            (".wh..wh.plnk", true, None),
            ("a.wh.b", false, None),
        ];
        for (name, mark, hides) in table {
            assert_eq!(is_mark(name.as_bytes()), mark, "{name}");
            assert_eq!(hidden(name.as_bytes()), hides.map(str::as_bytes), "{name}");
        }
        assert_eq!(hiding(b"a").as_deref(), Some(&b".wh.a"[..]));
        assert_eq!(hiding(&[b'n'; 251]).map(|name| name.len()), Some(255));
        assert_eq!(hiding(&[b'n'; 252]), None);
    }
}
