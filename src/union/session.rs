//! Mounting a union, and serving it until the last handle is closed.
//!
//! The mount is made here and not by fuser, which would unmount by path when the session ends: by
//! then something else may be mounted there. Nothing here ever unmounts, but for a mount whose
//! handshake fails. It does not own the union's semantics, nor the life of the process.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::mpsc;

use fuser::{Config, INodeNo, Session, SessionACL};
use nix::mount::MsFlags;
use nix::unistd::{getegid, geteuid};

use super::fs::{Stale, Union, is_privileged};
use super::fuse_adapter::Adapter;
use crate::sys::mounts::unmount;
use crate::sys::{fusermount, reason};

/// How the files of a mount are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// Those in the upper directory directly on their disk, past this server; the others through the
    /// kernel's cache. Needs privilege and a disk that is no stacked file system itself; where it
    /// cannot be, files are opened and go through the cache.
    #[default]
    Passthrough,
    /// All through the kernel's cache, and opened without asking the server.
    Cached,
}

/// How a union is mounted.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// The source that `/proc/mounts` shows.
    pub fs_name: String,
    /// Mounts it read-only. A union without an upper directory is anyway.
    pub read_only: bool,
    /// How many threads serve requests; 0 as many as there are processors.
    pub threads: usize,
    /// Whether other users may use the mount. Always for root.
    pub allow_other: bool,
    /// How files are read and written.
    pub io: IoMode,
    /// Devices cannot be opened. Always for others than root.
    pub no_dev: bool,
    /// Set-user-ID bits and capabilities of files have no effect. Always for others than root.
    pub no_suid: bool,
    /// Programs cannot be run.
    pub no_exec: bool,
    /// Reading leaves access times alone.
    pub no_atime: bool,
    /// SELinux contexts, as the kernel's option list takes them (`context="…"`).
    pub contexts: Vec<String>,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            fs_name: "layerctl".into(),
            read_only: false,
            threads: 0,
            allow_other: false,
            io: IoMode::default(),
            no_dev: false,
            no_suid: false,
            no_exec: false,
            no_atime: false,
            contexts: Vec::new(),
        }
    }
}

/// A mounted union. Requests wait until it is served.
pub struct Mounted {
    session: Session<Adapter>,
    stale: mpsc::Receiver<Stale>,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted").finish_non_exhaustive()
    }
}

/// Mounts a union. For root with `dev`, `suid`, `allow_other`; always with `default_permissions`.
///
/// # Errors
/// What cannot be opened or mounted, in words; nothing stays mounted then.
pub fn mount(union: Union, mount_point: &Path, options: &MountOptions) -> io::Result<Mounted> {
    let root = geteuid().is_root();
    let allow_other = root || options.allow_other;
    let read_only = options.read_only || union.is_read_only();
    let device = mount_anyhow(mount_point, options, root, allow_other, read_only)?;
    let acl = if allow_other {
        SessionACL::All
    } else {
        SessionACL::Owner
    };
    let mut config = Config::default();
    let cores = || std::thread::available_parallelism().map_or(2, usize::from);
    let threads = if options.threads == 0 {
        cores()
    } else {
        options.threads
    };
    config.n_threads = Some(threads);
    config.clone_fd = threads > 1;
    let (sender, stale) = mpsc::channel();
    union.notify_stale(sender);
    let io = match options.io {
        IoMode::Passthrough if !is_privileged() => {
            tracing::info!("without privilege no files are passed through");
            IoMode::Cached
        }
        // A write past this server would leave the set-ID bits that it keeps.
        IoMode::Passthrough if union.keeps_modes_aside() => IoMode::Cached,
        io => io,
    };
    match Session::from_fd(Adapter::new(union, io), device, acl, config) {
        Ok(session) => Ok(Mounted { session, stale }),
        Err(e) => {
            if let Err(e) = unmount(mount_point, true) {
                tracing::warn!("cannot unmount {}: {e}", mount_point.display());
            }
            Err(with_context(
                e,
                &format!("cannot start FUSE at {}", mount_point.display()),
            ))
        }
    }
}

impl Mounted {
    /// Serves requests until the file system is gone: unmounted, and the last handle closed.
    ///
    /// # Errors
    /// What reading from `/dev/fuse` returns, other than its end.
    pub fn serve(self) -> io::Result<()> {
        let Mounted { session, stale } = self;
        let notifier = session.notifier();
        // A thread of its own: a notification may wait in the kernel for a request to be answered.
        let telling = std::thread::Builder::new()
            .name("stale".into())
            .spawn(move || {
                for what in stale {
                    let told = match what {
                        // A negative offset: no page.
                        Stale::Attributes(ino) => notifier.inval_inode(INodeNo(ino), -1, 0),
                        Stale::Listing(ino) => notifier.inval_inode(INodeNo(ino), 0, 0),
                    };
                    // ENOENT when the kernel has forgotten the inode meanwhile.
                    if let Err(e) = told {
                        tracing::debug!("{what:?}: {e}");
                    }
                }
            })?;
        let served = session.run();
        // The union, and with it the sender, has gone with the session: the thread ends.
        if telling.join().is_err() {
            tracing::warn!("the thread that tells of changed attributes has panicked");
        }
        match served {
            // Another word for "no such device": what the kernel says when the connection ends in
            // the middle of a request.
            Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => Ok(()),
            other => other,
        }
    }
}

/// Mounts directly, or by the helper if this user may not.
fn mount_anyhow(
    mount_point: &Path,
    options: &MountOptions,
    root: bool,
    allow_other: bool,
    read_only: bool,
) -> io::Result<OwnedFd> {
    let mounted = open_device().and_then(|device| {
        mount_device(&device, mount_point, options, root, allow_other, read_only)?;
        Ok(device)
    });
    match mounted {
        Ok(device) => return Ok(device),
        Err(e) if e.kind() != io::ErrorKind::PermissionDenied || root => return Err(e),
        Err(e) => tracing::debug!("{e}; trying fusermount3"),
    }
    let mut list = format!(
        "fsname={},subtype=layerctl,default_permissions",
        options.fs_name
    );
    for (set, option) in [
        (allow_other, ",allow_other"),
        (options.no_exec, ",noexec"),
        (options.no_atime, ",noatime"),
        (read_only, ",ro"),
    ] {
        if set {
            list.push_str(option);
        }
    }
    fusermount::mount(mount_point, &list).map_err(|e| {
        with_context(
            e,
            &format!("cannot mount at {} with fusermount3", mount_point.display()),
        )
    })
}

fn open_device() -> io::Result<OwnedFd> {
    let device: File = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map_err(|e| with_context(e, "cannot open /dev/fuse"))?;
    Ok(device.into())
}

fn mount_device(
    device: &OwnedFd,
    mount_point: &Path,
    options: &MountOptions,
    root: bool,
    allow_other: bool,
    read_only: bool,
) -> io::Result<()> {
    let at = mount_point.display();
    let stat = rustix::fs::stat(mount_point)
        .map_err(|e| with_context(e.into(), &format!("cannot use mount point {at}")))?;
    let mut flags = MsFlags::empty();
    for (set, flag) in [
        (options.no_dev || !root, MsFlags::MS_NODEV),
        (options.no_suid || !root, MsFlags::MS_NOSUID),
        (options.no_exec, MsFlags::MS_NOEXEC),
        (options.no_atime, MsFlags::MS_NOATIME),
        (read_only, MsFlags::MS_RDONLY),
    ] {
        flags.set(flag, set);
    }
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        stat.st_mode & 0o170_000,
        geteuid(),
        getegid(),
    );
    if allow_other {
        data.push_str(",allow_other");
    }
    for context in &options.contexts {
        data.push(',');
        data.push_str(context);
    }
    // The subtype is part of the type's name: no helper in /sbin is asked.
    let (source, data) = (options.fs_name.as_str(), data.as_str());
    nix::mount::mount(
        Some(source),
        mount_point,
        Some("fuse.layerctl"),
        flags,
        Some(data),
    )
    .map_err(|e| with_context(e.into(), &format!("cannot mount at {at}")))
}

fn with_context(error: io::Error, what: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {}", reason(&error)))
}
