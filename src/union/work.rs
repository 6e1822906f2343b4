//! The work directory: where things are made whole before a rename puts them into place, and where
//! what was replaced goes before it is removed. A crash leaves leftovers only here, and the next
//! start empties it.
//!
//! Lock rule: the mutex around the shared whiteout's name is a leaf, but held over its `mknod`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FileType, Mode, RenameFlags};
use rustix::io::Errno;

use super::error::{Error, Result};
use super::inode_table::Name;
use super::whiteout::hiding;
use crate::sys::{dirfd, remove_tree};

/// The work directory of a view.
#[derive(Debug)]
pub(crate) struct Work {
    fd: OwnedFd,
    next: AtomicU64,
    whiteout: Mutex<Option<Name>>,
    form: Form,
}

/// How whiteouts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As devices 0:0, in place of the name.
    Device,
    /// As files `.wh.NAME`.
    File,
}

impl Work {
    /// Takes the directory and removes what a crash left in it.
    /// Where devices cannot be made, a view of `plain` directories makes whiteouts of the other
    /// form.
    pub(crate) fn new(fd: OwnedFd, plain: bool) -> Result<Work> {
        remove_tree::empty(&fd)?;
        // A default ACL would be inherited by all that is made here.
        match dirfd::remove_xattr_fd(&fd, b"system.posix_acl_default") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
        let mut work = Work {
            fd,
            next: AtomicU64::new(0),
            whiteout: Mutex::new(None),
            form: Form::Device,
        };
        if plain {
            // A trial, which the first whiteout then is a link to.
            let fresh = work.fresh();
            match make_whiteout(&work.fd, &fresh, Form::Device) {
                Ok(()) => *work.whiteout.get_mut() = Some(fresh),
                // overlayfs, kernels before 5.8 in a user namespace, file systems without devices.
                Err(Error::Sys(e @ (Errno::PERM | Errno::INVAL | Errno::OPNOTSUPP))) => {
                    tracing::info!("whiteouts are files, for devices cannot be made: {e}");
                    work.form = Form::File;
                }
                // A full disk can still be read, and be cleared up.
                Err(Error::Sys(Errno::NOSPC | Errno::DQUOT)) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(work)
    }

    /// Whether whiteouts are files beside the name that they hide, and not in its place.
    pub(crate) fn makes_files(&self) -> bool {
        self.form == Form::File
    }

    /// A name that is free.
    pub(crate) fn fresh(&self) -> Name {
        format!("#{:x}", self.next.fetch_add(1, Ordering::Relaxed))
            .into_bytes()
            .into()
    }

    /// Removes what was made or moved here. A leftover does no harm and the next start removes it,
    /// so a failure is only logged.
    pub(crate) fn discard(&self, name: &[u8]) {
        if let Err(e) = remove_tree::remove_tree(&self.fd, name) {
            let name = String::from_utf8_lossy(name);
            tracing::warn!("cannot remove {name} from the work directory: {e}");
        }
    }

    /// Puts a whiteout under a name that is free (of a file form, beside it): a link to one shared
    /// whiteout, cheaper than a device node each.
    pub(crate) fn link_whiteout(&self, dir: impl AsFd, name: &[u8]) -> Result<()> {
        match self.form {
            Form::Device => self.link_shared(dir, name),
            Form::File => {
                let mark = hiding(name).ok_or(Errno::NAMETOOLONG)?;
                match self.link_shared(dir, &mark) {
                    Err(Error::Sys(Errno::EXIST)) => Ok(()),
                    other => other,
                }
            }
        }
    }

    fn link_shared(&self, dir: impl AsFd, name: &[u8]) -> Result<()> {
        let mut shared = self.whiteout.lock();
        if let Some(whiteout) = &*shared {
            match rustix::fs::linkat(&self.fd, &**whiteout, &dir, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                // The file system's limit of links is reached, or it has no links of devices.
                Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP) => self.discard(whiteout),
                Err(e) => return Err(e.into()),
            }
            *shared = None;
        }
        let fresh = self.fresh();
        make_whiteout(&self.fd, &fresh, self.form)?;
        match rustix::fs::linkat(&self.fd, &*fresh, &dir, name, AtFlags::empty()) {
            Ok(()) => {
                *shared = Some(fresh);
                Ok(())
            }
            Err(Errno::PERM | Errno::OPNOTSUPP) => {
                rustix::fs::renameat_with(&self.fd, &*fresh, &dir, name, RenameFlags::NOREPLACE)?;
                Ok(())
            }
            Err(e) => {
                self.discard(&fresh);
                Err(e.into())
            }
        }
    }

    /// Replaces what is under a name by a whiteout, at once: no crash shows what is below it or
    /// the half of it. Works for directories with entries, too.
    pub(crate) fn replace_by_whiteout(&self, dir: impl AsFd, name: &[u8]) -> Result<()> {
        if self.makes_files() {
            self.link_whiteout(&dir, name)?;
            return self.take_away(dir, name);
        }
        let fresh = self.fresh();
        self.link_whiteout(&self.fd, &fresh)?;
        let exchanged =
            rustix::fs::renameat_with(&self.fd, &*fresh, dir, name, RenameFlags::EXCHANGE);
        self.discard(&fresh);
        Ok(exchanged?)
    }

    /// Takes what is under a name away, at once, with all that is below it.
    pub(crate) fn take_away(&self, dir: impl AsFd, name: &[u8]) -> Result<()> {
        let fresh = self.fresh();
        rustix::fs::renameat_with(dir, name, &self.fd, &*fresh, RenameFlags::NOREPLACE)?;
        self.discard(&fresh);
        Ok(())
    }
}

impl AsFd for Work {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Makes a whiteout: as overlayfs reads it, which is allowed in a user namespace, unlike other
/// devices; or an empty file.
fn make_whiteout(dir: impl AsFd, name: &[u8], form: Form) -> Result<()> {
    let kind = match form {
        Form::Device => FileType::CharacterDevice,
        Form::File => FileType::RegularFile,
    };
    Ok(rustix::fs::mknodat(dir, name, kind, Mode::empty(), 0)?)
}
