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

use super::error::Result;
use super::inode_table::Name;
use crate::sys::{dirfd, remove_tree};

/// The work directory of a view.
#[derive(Debug)]
pub(crate) struct Work {
    fd: OwnedFd,
    next: AtomicU64,
    whiteout: Mutex<Option<Name>>,
}

impl Work {
    /// Takes the directory and removes what a crash left in it.
    pub(crate) fn new(fd: OwnedFd) -> Result<Work> {
        remove_tree::empty(&fd)?;
        // A default ACL would be inherited by all that is made here.
        match dirfd::remove_xattr_fd(&fd, b"system.posix_acl_default") {
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e.into()),
        }
        Ok(Work {
            fd,
            next: AtomicU64::new(0),
            whiteout: Mutex::new(None),
        })
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

    /// Puts a whiteout under a name that is free: a link to one shared whiteout, cheaper than a
    /// device node each.
    pub(crate) fn link_whiteout(&self, dir: impl AsFd, name: &[u8]) -> Result<()> {
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
        make_whiteout(&self.fd, &fresh)?;
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

/// Makes a whiteout as overlayfs reads it. Allowed in a user namespace, unlike other devices.
fn make_whiteout(dir: impl AsFd, name: &[u8]) -> Result<()> {
    Ok(rustix::fs::mknodat(
        dir,
        name,
        FileType::CharacterDevice,
        Mode::empty(),
        0,
    )?)
}
