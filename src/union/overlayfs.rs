//! Kernel overlayfs in the place of the union, on the same directories.
//!
//! Both keep what is changed in one form, so a container may be served by one and then by the other.
//! What is done here is what overlayfs would not do by itself: leave out of the layers those that it
//! does not take and that show nothing, prepare the work directory, and set right or leave behind
//! what the union counts on. In a user namespace overlayfs follows neither redirects nor metacopies;
//! an upper directory that has some is refused there.
//!
//! It does not own the life of the mount's layers: whoever mounts pins them until [`OverlayMounted::wait`]
//! returns.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{XattrFlags, fstat};
use rustix::io::fcntl_dupfd_cloexec;

use super::error::Result;
use super::fs::is_privileged;
use super::hard_links::Walk;
use super::layers::PrivateXattrs;
use super::metacopy;
use super::work::Work;
use crate::sys::overlayfs::{MAX_LOWERS, Request, Watch, mount};
use crate::sys::{dirfd, reason, remove_tree};

/// What kernel overlayfs is to show.
#[derive(Debug)]
pub struct OverlayDirs {
    /// The layers, topmost first, as often as they lie in the stack.
    pub lowers: Vec<OwnedFd>,
    /// A directory that shows nothing, for an image without layers: overlayfs needs one.
    pub empty: OwnedFd,
    /// The directory that takes the changes.
    pub upper: OwnedFd,
    /// Where things are made before they are moved into `upper`; emptied.
    pub work: OwnedFd,
}

/// How.
#[derive(Debug)]
pub struct OverlayOptions {
    /// The source that `/proc/self/mountinfo` shows.
    pub fs_name: String,
    /// Refuse all changes.
    pub read_only: bool,
    /// Sync nothing, also what a program asks to have synced.
    pub volatile: bool,
}

/// A mounted overlayfs.
#[derive(Debug)]
pub struct OverlayMounted {
    watch: Watch,
    work: OwnedFd,
}

/// Mounts kernel overlayfs.
///
/// # Errors
/// What cannot be mounted, in words. That nobody else uses the upper directory is the caller's to see to.
pub fn mount_overlayfs(
    dirs: OverlayDirs,
    mount_point: &Path,
    options: &OverlayOptions,
) -> io::Result<OverlayMounted> {
    let OverlayDirs {
        lowers,
        empty,
        upper,
        work,
    } = dirs;
    let lowers = distinct(lowers, empty)?;
    if lowers.len() > MAX_LOWERS {
        return Err(io::Error::other(format!(
            "kernel overlayfs takes {MAX_LOWERS} layers, and these are {}",
            lowers.len()
        )));
    }
    let trusted = is_privileged();
    prepare(&upper, &work, trusted)?;
    let mut flags = Vec::new();
    let mut settings = vec![("index", "off")];
    match trusted {
        // Without these it would not read what the union writes.
        true => settings.extend([("redirect_dir", "on"), ("metacopy", "on")]),
        false => flags.push("userxattr"),
    }
    flags.extend(options.volatile.then_some("volatile"));
    let request = Request {
        source: &options.fs_name,
        lowers: &lowers,
        upper: upper.as_fd(),
        work: work.as_fd(),
        options: &settings,
        flags: &flags,
        read_only: options.read_only,
    };
    let watch = mount(&request, mount_point)?;
    Ok(OverlayMounted { watch, work })
}

impl OverlayMounted {
    /// Waits until it is over: unmounted everywhere, and the last handle closed.
    pub fn wait(self) -> io::Result<()> {
        self.watch.wait()?;
        // A volatile one has left a mark that refuses the next mount: what was not synced may be lost.
        // That is what was asked for, and no more than with our own union.
        if let Err(e) = remove_tree::empty(&self.work) {
            // The next mount does the same.
            tracing::warn!("cannot empty the work directory: {}", reason(&e.into()));
        }
        Ok(())
    }
}

/// The layers that overlayfs is to be given.
///
/// It takes none twice, and needs none twice: whatever a layer shows, hides or covers further down, it does
/// so where it is topmost already. It takes no notice of an opaque root; the layers below one are left out.
fn distinct(lowers: Vec<OwnedFd>, empty: OwnedFd) -> Result<Vec<OwnedFd>> {
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for lower in lowers {
        let stat = fstat(&lower)?;
        if !seen.insert((stat.st_dev, stat.st_ino)) {
            continue;
        }
        let mut is_opaque = false;
        for names in [PrivateXattrs::TRUSTED, PrivateXattrs::USER] {
            is_opaque |= dirfd::get_xattr_fd(&lower, names.opaque)?.is_some_and(|v| v == b"y");
        }
        found.push(lower);
        if is_opaque {
            break;
        }
    }
    if found.is_empty() {
        found.push(empty);
    }
    Ok(found)
}

fn prepare(upper: &OwnedFd, work: &OwnedFd, trusted: bool) -> io::Result<()> {
    Work::new(fcntl_dupfd_cloexec(work, 3)?, false)?;
    if !trusted {
        return no_references(upper);
    }
    let xattrs = PrivateXattrs::TRUSTED;
    metacopy::repair_all(upper, &xattrs)?;
    // Overlayfs may move directories, and the union looks for redirects only if it is told that there
    // are any. One mark too many only costs it a walk.
    let flags = XattrFlags::empty();
    Ok(dirfd::set_xattr_fd(upper, xattrs.redirects, b"y", flags)?)
}

/// Refuses an upper directory with something that refers to the layers.
fn no_references(upper: &OwnedFd) -> io::Result<()> {
    let look = || -> Result<Option<Vec<u8>>> {
        let marks = [PrivateXattrs::USER.redirect, PrivateXattrs::USER.metacopy];
        let root = std::sync::Arc::new(fcntl_dupfd_cloexec(upper, 3)?);
        let mut walk = Walk::new(root, Vec::<u8>::new(), true);
        while let Some((dir, path)) = walk.next()? {
            let below = |name: &[u8]| [path.as_slice(), b"/", name].concat();
            if dirfd::get_xattr_fd(&*dir, marks[0])?.is_some() {
                return Ok(Some(path));
            }
            for (name, _) in walk.enter(&dir, below)? {
                let names = dirfd::list_xattrs(&dirfd::proc_path_of(&*dir, &name))?;
                if names.iter().any(|name| marks.contains(&name.as_slice())) {
                    return Ok(Some(below(&name)));
                }
            }
        }
        Ok(None)
    };
    match look()? {
        Some(path) => Err(io::Error::other(format!(
            "{} refers to a layer for the rest of it, and kernel overlayfs does not follow that in a \
             user namespace",
            String::from_utf8_lossy(&path)
        ))),
        None => Ok(()),
    }
}
