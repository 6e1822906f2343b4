//! Mounting kernel overlayfs, and learning when such a mount is over.
//!
//! The mount is made by the calls that work with descriptors (fsopen(2), fsconfig(2), fsmount(2),
//! move_mount(2)): each directory is given open, so it does not matter what it is called, now or later,
//! and there is no page of options for hundreds of layers to fit into.
//!
//! A mount of overlayfs has no server that could see it end. What ends is its superblock: with the last
//! mount of it *and* the last handle, in whatever mount namespace. Then the kernel tells all who watch
//! an inode of it (`IN_UNMOUNT`, inotify(7)); to watch one keeps nothing busy. Whoever has not watched
//! from the beginning can ask: as long as it lives, its upper directory is marked as in use.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, StatVfsMountFlags, fstatvfs, inotify};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_fd,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
};

use super::reason;

/// The type of its mounts.
pub const TYPE: &str = "overlay";

/// How many lower directories a mount can have (`OVL_MAX_STACK`).
pub const MAX_LOWERS: usize = 500;

/// What is to be mounted.
#[derive(Debug)]
pub struct Request<'a> {
    /// The source that `/proc/self/mountinfo` shows.
    pub source: &'a str,
    /// The lower directories, topmost first: at least one, at most [`MAX_LOWERS`], none twice.
    pub lowers: &'a [OwnedFd],
    /// The upper directory.
    pub upper: BorrowedFd<'a>,
    /// The work directory.
    pub work: BorrowedFd<'a>,
    /// Options with a value.
    pub options: &'a [(&'a str, &'a str)],
    /// Options without.
    pub flags: &'a [&'a str],
    /// Refuse all changes.
    pub read_only: bool,
}

/// Whether this process can mount overlayfs.
///
/// # Errors
/// What it lacks, in words.
pub fn check() -> io::Result<()> {
    open().map(drop)
}

/// Mount at `mount_point`. Gives what tells of its end.
///
/// # Errors
/// In words, with what the kernel has to say; nothing is mounted then. A kernel before 6.8 cannot take the
/// layers one by one.
pub fn mount(request: &Request<'_>, mount_point: &Path) -> io::Result<Watch> {
    let context = open()?;
    let said = |what: &str, e: Errno| told(&context, what, e);
    fsconfig_set_string(&context, "source", request.source)
        .map_err(|e| said("take its source", e))?;
    for lower in request.lowers {
        set_directory(&context, "lowerdir+", lower.as_fd()).map_err(|e| match e {
            // Before Linux 6.8 there is no such option.
            Errno::INVAL => said("take the layers one by one (Linux 6.8 can)", e),
            e => said("take a layer", e),
        })?;
    }
    for (key, directory) in [("upperdir", request.upper), ("workdir", request.work)] {
        set_directory(&context, key, directory)
            .map_err(|e| said(&format!("take the {key} of the container"), e))?;
    }
    for (key, value) in request.options {
        fsconfig_set_string(&context, *key, *value)
            .map_err(|e| said(&format!("take the option {key}={value}"), e))?;
    }
    let read_only = request.read_only.then_some("ro");
    for flag in request.flags.iter().copied().chain(read_only) {
        fsconfig_set_flag(&context, flag)
            .map_err(|e| said(&format!("take the option {flag}"), e))?;
    }
    fsconfig_create(&context).map_err(|e| said("be made of these directories", e))?;
    let mut attributes = MountAttrFlags::empty();
    attributes.set(MountAttrFlags::MOUNT_ATTR_RDONLY, request.read_only);
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
        .map_err(|e| said("be mounted", e))?;
    // Before anybody can see it, and so unmount it.
    let watch = Watch::new(&mount)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(&mount, "", CWD, mount_point, flags).map_err(|e| said("be mounted", e))?;
    Ok(watch)
}

/// Whether a directory is the upper directory of an overlayfs that lives, mounted anywhere or only used
/// by open handles.
///
/// The kernel is asked to make another one of it, with `index=on`, which it refuses at once (EBUSY) where
/// the directory is in use. Where it is not it gets further and refuses as well, before it has changed
/// anything: the work directory is no other than the upper one.
///
/// # Errors
/// EPERM for a process that could not mount it either, EROFS where nobody could: what it then is cannot be
/// told.
pub fn is_in_use(upper: BorrowedFd<'_>) -> io::Result<bool> {
    // Refused for that, before it is looked who uses it.
    if fstatvfs(upper)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(Errno::ROFS.into());
    }
    let context = match fsopen(TYPE, FsOpenFlags::FSOPEN_CLOEXEC) {
        // A kernel without overlayfs has none of it.
        Err(Errno::NODEV | Errno::NOSYS) => return Ok(false),
        other => other?,
    };
    for key in ["lowerdir+", "upperdir", "workdir"] {
        set_directory(&context, key, upper)?;
    }
    fsconfig_set_string(&context, "index", "on")?;
    match fsconfig_create(&context) {
        Err(Errno::BUSY) => Ok(true),
        Err(Errno::INVAL | Errno::LOOP) => Ok(false),
        Err(e) => Err(e.into()),
        Ok(()) => Err(io::Error::other(
            "overlayfs took a work directory that is none",
        )),
    }
}

fn open() -> io::Result<OwnedFd> {
    fsopen(TYPE, FsOpenFlags::FSOPEN_CLOEXEC).map_err(|e| match e {
        Errno::PERM => explained(
            e,
            "kernel overlayfs needs root, or CAP_SYS_ADMIN in a user namespace",
        ),
        Errno::NODEV => explained(e, "this kernel has no overlayfs"),
        Errno::NOSYS => explained(e, "this kernel is too old (Linux 6.8 is needed)"),
        e => e.into(),
    })
}

/// An error that keeps its number, and has words before it.
fn explained(errno: Errno, words: &str) -> io::Error {
    /// Shown as the words with the system's reason.
    #[derive(Debug)]
    struct Explained(String, io::Error);
    impl std::fmt::Display for Explained {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "{}: {}", self.0, reason(&self.1))
        }
    }
    impl std::error::Error for Explained {}
    io::Error::new(
        io::Error::from(errno).kind(),
        Explained(words.to_owned(), errno.into()),
    )
}

fn set_directory(context: &OwnedFd, key: &str, directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match fsconfig_set_fd(context, key, directory) {
        // Before Linux 6.13 it takes no descriptors, but the path of one.
        Err(Errno::INVAL | Errno::BADF) => {
            let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
            fsconfig_set_string(context, key, path)
        }
        other => other,
    }
}

/// What could not be done, why, and what else the kernel says.
fn told(context: &OwnedFd, what: &str, errno: Errno) -> io::Error {
    let words = format!("kernel overlayfs cannot {what}");
    let mut line = [0; 1024];
    // Each read gives one message, `e ` before those that are errors (fs/fs_context.c).
    while let Ok(length @ 1..) = rustix::io::read(context, &mut line) {
        let text = String::from_utf8_lossy(&line[..length]);
        if let Some(why) = text.strip_prefix("e ") {
            return explained(errno, &format!("{words} ({})", why.trim()));
        }
    }
    explained(errno, &words)
}

/// What tells of the end of a mounted file system.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    /// Watch the root directory of a mount.
    fn new(root: &OwnedFd) -> io::Result<Watch> {
        let cannot = |e: Errno| match e {
            Errno::MFILE => explained(
                e,
                "cannot watch for its end: this user has as many inotify instances as it may \
                 (sysctl fs.inotify.max_user_instances), one for each such view",
            ),
            e => explained(e, "cannot watch for its end"),
        };
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC).map_err(cannot)?;
        let path = CString::new(format!("/proc/self/fd/{}", root.as_raw_fd()))?;
        // That a file system is gone is told whatever is asked for. This alone is never told of a root.
        inotify::add_watch(&watch, &path, inotify::WatchFlags::DELETE_SELF).map_err(cannot)?;
        Ok(Watch(watch))
    }

    /// Wait until the file system is gone: unmounted everywhere, and the last handle closed.
    pub fn wait(&self) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(self.0.as_fd(), &mut space);
        loop {
            match events.next() {
                Ok(event) if event.events().contains(inotify::ReadFlags::UNMOUNT) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, OFlags, open as open_path};
    use rustix::mount::{UnmountFlags, unmount};

    fn directory(path: &Path) -> OwnedFd {
        std::fs::create_dir(path).unwrap();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        open_path(path, flags, Mode::empty()).unwrap()
    }

    /// In a directory that can be an upper one: memory always can.
    #[test]
    fn its_end_is_seen_and_told() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let at = |name: &str| dir.path().join(name);
        let [lower, upper, work] = ["lower", "upper", "work"].map(|name| directory(&at(name)));
        let point = at("point");
        drop(directory(&point));
        let request = Request {
            source: "a test",
            lowers: &[lower],
            upper: upper.as_fd(),
            work: work.as_fd(),
            options: &[],
            flags: &[],
            read_only: false,
        };
        let Ok(watch) = mount(&request, &point) else {
            // The suite says what it lacks.
            return;
        };
        let is_in_use = || is_in_use(upper.as_fd()).unwrap();
        std::fs::write(point.join("file"), "x").unwrap();
        let open = std::fs::File::open(point.join("file")).unwrap();
        assert!(is_in_use());
        unmount(&point, UnmountFlags::DETACH).unwrap();
        assert!(is_in_use(), "by an open handle");
        drop(open);
        watch.wait().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while is_in_use() {
            assert!(std::time::Instant::now() < end, "it lets go");
        }
        let names = std::fs::read_dir(at("work")).unwrap().count();
        assert_eq!(names, 1, "to ask has made nothing");
    }
}
