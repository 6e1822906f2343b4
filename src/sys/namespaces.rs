//! Namespaces of mounts and processes (mount_namespaces(7), pid_namespaces(7)): what is mounted and
//! started in one is gone with its first process, however that ends.

use std::io;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// From now on this process's mounts are its own, and its next child is the first process of a new PID
/// namespace: when that one ends, the kernel kills all the others, and the mounts go.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN.
pub fn separate_mounts_and_processes() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID)?;
    // Else they would be seen outside as well, and stay there.
    Ok(mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?)
}

/// In the first process of a new PID namespace: `/proc` shows that namespace.
pub fn mount_proc() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(
        Some("proc"),
        "/proc",
        Some("proc"),
        flags,
        None::<&str>,
    )?)
}
