//! Opening names that others chose, so that they cannot lead out of a directory.
//!
//! Both functions are `openat2(2)` (Linux 5.6): the kernel walks the path and keeps it inside, whatever
//! symbolic links lie on it and whoever changes them meanwhile.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::{Errno, Result};

/// Opens `path` as if `root` were `/`: absolute symbolic links and `..` end at `root`.
pub fn open_in_root(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    open(
        root,
        path,
        flags,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

/// Opens `path` under `root`; EXDEV where it would leave it.
pub fn open_beneath(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    open(
        root,
        path,
        flags,
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )
}

fn open(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd> {
    let path = if path.is_empty() { b"." } else { path };
    // EAGAIN: somewhere in the system a directory was renamed during the walk, which is nobody's fault.
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if tries < 1000 => tries += 1,
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}
